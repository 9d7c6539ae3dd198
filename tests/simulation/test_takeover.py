"""Another process takes over whose watch of the ChangeRequests has stalled: what it knows was true a while ago.

What it reads live (Deployments, routes) is of now, and so a write of an old decision would carry the right version.
"""

from collections.abc import Callable
from typing import Any

import pytest

from controller.core.model import Action, Held, Observation, Phase, Stage, State
from controller.core.plan import DeleteCanary, Intent
from controller.errors import TransientError
from controller.reconcile import Reconciler
from tests.simulation.storm.cluster import BEGIN
from tests.simulation.storm.plans import POLICY, Plan, seconds
from tests.simulation.storm.process import Killed
from tests.simulation.storm.run import END, Run, quiet

Until = Callable[[State], bool]
STALLED = seconds(30)


class Takeover(Run):
    """`remembers`: the last state that the next leader has heard of when it takes over."""

    def __init__(self, remembers: Until) -> None:
        super().__init__(Plan(1, POLICY))
        self.remembers = remembers
        self.horizon = self.cluster.now
        quiet()

    @property
    def state(self) -> State:
        found = self.first()
        return found.state if found else State()

    async def reach(self, reached: Callable[[], bool]) -> None:
        while not reached():
            assert self.cluster.now < BEGIN + END, self.cluster.story[-20:]
            await self.tick()

    async def live_until_then(self) -> None:
        self.begin()
        await self.reach(lambda: self.remembers(self.state))
        self.horizon = self.cluster.now

    async def hand_over(self) -> None:
        """The leader is gone for good, and the other one goes by what it remembers for a while."""
        first, b = self.processes["a"], self.processes["b"]
        first.alive, first.back_at = False, self.cluster.now + seconds(3600)
        self.leader, self.lease_at = "b", self.cluster.now
        self.cluster.story.clear()
        b.start()
        b.horizon, b.stalled_until = self.horizon, self.cluster.now + STALLED
        until = self.cluster.now + STALLED / 2
        await self.reach(lambda: self.cluster.now >= until)

    def told(self, what: str) -> bool:
        return any(what in line for line in self.cluster.story)


def creating(state: State) -> bool:
    return state.phase is Phase.PROGRESSING and state.reason == "CapacityPending"


def at_100(state: State) -> bool:
    return state.phase is Phase.PROGRESSING and state.step == 3 and state.settled_at is not None


def promoting(state: State) -> bool:
    return state.phase is Phase.PROMOTING and state.stage is Stage.ROLL and state.reason == "Rolling"


async def after_the_end(remembers: Until) -> Takeover:
    """The first leader has completed the change."""
    run = Takeover(remembers)
    await run.live_until_then()
    await run.reach(lambda: run.state.phase is Phase.COMPLETED)
    await run.hand_over()
    return run


async def in_the_middle_of_cleaning_up() -> Takeover:
    """The first leader has rolled the change back and deleted the canary's Deployment, and dies at its Service."""
    run = Takeover(creating)
    await run.live_until_then()
    await run.tick()  # of what follows the next leader knows nothing
    first = run.processes["a"]
    carry_out = first.apply

    async def dies(intent: Intent, observation: Observation) -> None:
        if isinstance(intent, DeleteCanary) and intent.kind == "Service":
            raise Killed
        await carry_out(intent, observation)

    first.apply = dies  # type: ignore[method-assign]
    run.of_first(Action.ROLLBACK, "ann-6")
    await run.reach(lambda: not first.alive)
    await run.hand_over()
    return run


async def in_the_middle_of_the_way_back() -> Takeover:
    """The first leader is taking back what the next one believes is being promoted."""
    run = Takeover(promoting)
    await run.live_until_then()
    run.of_first(Action.ROLLBACK, "ann-6")
    await run.reach(lambda: run.state.phase is Phase.ROLLING_BACK)
    await run.hand_over()
    return run


@pytest.mark.parametrize("remembers", [at_100, promoting])
async def test_what_another_leader_has_completed_is_not_taken_back(remembers: Until) -> None:
    run = await after_the_end(remembers)
    shop = run.cluster.workloads["shop"]
    assert (run.state.phase, shop.revision, shop.held, shop.paused) == (Phase.COMPLETED, "v2", "", False)
    assert not run.told("b:   "), run.cluster.story


async def test_what_another_leader_has_taken_away_is_not_made_again() -> None:
    run = await in_the_middle_of_cleaning_up()
    assert (run.state.phase, run.cluster.workloads["shop"].canary) == (Phase.ROLLED_BACK, None)
    assert not run.told("CreateCanary")


async def test_what_another_leader_is_taking_back_is_taken_back_as_soon_as_a_commit_is_refused() -> None:
    """Not when the watch goes on: traffic is to go back now."""
    run = await in_the_middle_of_the_way_back()
    assert run.state.phase is Phase.ROLLED_BACK
    assert not run.told(f"held={Held.PROMOTING}")


@pytest.mark.parametrize(
    ("play", "done"),
    [
        (lambda: after_the_end(at_100), f"held={Held.RESTORING} v1"),
        (in_the_middle_of_cleaning_up, "CreateCanary"),
    ],
    ids=["a completed change is rolled back", "a canary is made for a change that goes back"],
)
async def test_without_a_second_look_it_is_done(play: Any, done: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(Reconciler, "_overtaken", not_asked)
    run = await play()
    assert run.told(done), run.cluster.story


async def test_without_a_second_look_the_way_back_waits_for_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(Reconciler, "_overtaken", not_asked)
    run = await in_the_middle_of_the_way_back()
    assert run.state.phase is Phase.ROLLING_BACK


async def not_asked(*_: object) -> bool:
    return False


async def test_a_way_back_begins_though_nobody_can_say_whether_another_was_faster() -> None:
    run = Takeover(at_100)
    await run.live_until_then()

    async def unanswered(namespace: str, name: str) -> None:
        raise TransientError("ServerError", "503")

    run.processes["a"].reread = unanswered  # type: ignore[method-assign]
    run.of_first(Action.ROLLBACK, "ann-6")
    await run.reach(lambda: run.cluster.workloads["shop"].weight == 0)
    assert run.state.phase is Phase.ROLLING_BACK
