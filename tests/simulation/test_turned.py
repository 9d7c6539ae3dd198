"""A way back whose first write takes away what spoke for it, and whose commit fails: it is gone on with."""

import asyncio
from datetime import timedelta

import pytest

from controller.core.model import Change, Observation, Phase, State
from controller.core.plan import Intent, Shift
from controller.errors import TransientError
from controller.reconcile import Reconciler
from tests.simulation.test_world import policy
from tests.simulation.world import World

LOST_AT, LONG = 120.0, timedelta(hours=2)
FAILS = TransientError("InternalError", "injected")


class Lossy(World):
    """Someone deletes the canary once; then the API server fails: at the commit, or at the answer to the route."""

    def __init__(self, at: str) -> None:
        super().__init__(policy("standard"))
        self.at = at
        self.failed_at = ""

    def pass_second(self) -> None:
        super().pass_second()
        if self.since == LOST_AT:
            assert self.way.weight == 10
            self.canary = None

    async def commit(self, change: Change, state: State) -> str:
        if state.phase is Phase.ROLLING_BACK and self.at == "commit" and not self.failed_at:
            self.failed_at = self.at
            raise FAILS
        return await super().commit(change, state)

    async def apply(self, intent: Intent, observation: Observation) -> None:
        await super().apply(intent, observation)
        back = isinstance(intent, Shift) and intent.weight == 0 and self.since >= LOST_AT
        if back and self.at == "answer" and not self.failed_at:
            self.failed_at = self.at
            raise FAILS

    async def settle_down(self) -> None:
        try:
            await super().settle_down()
        except TransientError:
            assert self.way.weight == 0, "the first write was made"


def ended(at: str) -> State:
    world = Lossy(at)
    state = asyncio.run(world.run(LONG))
    assert world.failed_at == at
    return state


@pytest.mark.parametrize("at", ["commit", "answer"])
def test_it_is_gone_on_with(at: str) -> None:
    state = ended(at)
    assert (state.phase, state.cause) == (Phase.ROLLED_BACK, "CanaryLost")


@pytest.mark.parametrize("at", ["commit", "answer"])
def test_without_that_it_is_forgotten(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the route names nothing that is lost any more, a canary is made anew, and the steps go on."""
    monkeypatch.setattr(Reconciler, "_still_turned", lambda self, before, after, observation, now: after)
    assert ended(at).phase is Phase.COMPLETED


def test_what_another_process_has_moved_on_is_not_turned() -> None:
    """It was decided about a place where the change is not any more."""
    world = Lossy("commit")
    asyncio.run(world.run(timedelta(seconds=LOST_AT + 1)))
    assert world.failed_at
    elsewhere = State(phase=Phase.PROGRESSING, step=2, started_at=world.state.started_at)
    observation = Observation(world.change, {}, None)
    assert world.reconciler._still_turned(elsewhere, elsewhere, observation, world.now) is elsewhere
    assert world.reconciler._turned == {}
