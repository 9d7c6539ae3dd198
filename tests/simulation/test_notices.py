"""What people are told, over the real loop: whenever the controller dies all is heard; a dead sink stops nothing."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
import yaml

from controller.core.model import Change, Observation, Phase, Receipt, State
from controller.core.notices import Route, notice_id
from controller.core.plan import Intent
from controller.core.policy import Analysis, ChangeType, Policy, Step, parse_policy
from controller.core.sentences import MESSAGE_MAX
from controller.errors import ConflictError
from controller.metrics.presets import PRESETS
from controller.reconcile import LAST_WORDS_MAX, Outbox
from controller.telemetry import Telemetry
from tests.simulation.test_world import SHIPPED, policy
from tests.simulation.world import BEGIN, MAIN, Trouble, World

HOUR = timedelta(hours=1)
CHAT, PAGER = Route("chat"), Route("pager", audiences=("cto",))
QUICK = tuple(Step(weight, timedelta(seconds=40)) for weight in (10, 50, 100))
HEALTH, CRASH = Trouble(), Trouble(crash_at=30)


class Mail:
    """The sinks, and the memory of the process that serves them: that is gone with the process."""

    def __init__(self, routes: Sequence[Route], dead: frozenset[str]) -> None:
        self.routes, self.dead = routes, dead
        self.unwritten: dict[tuple[str, str], Receipt] = {}

    def receipts(self, change: Change) -> Sequence[tuple[str, Receipt]]:
        return [(what, receipt) for (what, _), receipt in self.unwritten.items()] if change.name == MAIN else []


class Heard(World):
    """A world with people in it. `dies_at`: the commits and writes, counted together, at which the controller dies."""

    def __init__(
        self,
        policy: Policy,
        trouble: Trouble = HEALTH,
        *,
        sinks: Sequence[Route] = (CHAT,),
        dead: Sequence[str] = (),
        dies_at: int = -1,
        done_first: bool = False,
    ) -> None:
        self.routes, self.dead = sinks, frozenset(dead)
        self.heard: list[tuple[str, str, str]] = []
        """Sink, id and words."""
        self.counter, self.dies_at, self.done_first = itertools.count(), dies_at, done_first
        self.died = False
        super().__init__(policy, trouble)

    def outbox(self) -> Outbox:
        self.mail = Mail(self.routes, self.dead)
        return self.mail

    def die(self) -> None:
        self.died = True
        self.tell("the controller dies")
        self.reconciler = self.start_controller()
        raise ConflictError("Killed", "its answer reaches nobody")

    async def commit(self, change: Change, state: State) -> str:
        now = next(self.counter) == self.dies_at
        if now and not self.done_first:
            self.die()
        version = await super().commit(change, state)
        if now:
            self.die()
        return version

    async def apply(self, intent: Intent, observation: Observation) -> None:
        now = next(self.counter) == self.dies_at
        if now and not self.done_first:
            self.die()
        await super().apply(intent, observation)
        if now:
            self.die()

    async def settle_down(self) -> None:
        await super().settle_down()
        self.post()

    def post(self) -> None:
        """Every sink that lives takes all that it is owed; the receipts are in the memory of the process."""
        for told in self.state.told:
            for sink in told.owed:
                if sink not in self.dead and (told.what, sink) not in self.mail.unwritten:
                    self.heard.append((sink, notice_id(self.change, told), f"{told.kind} {told.text} {told.command}"))
                    self.mail.unwritten[told.what, sink] = Receipt(sink, self.now)
        owed = {(told.what, sink) for told in self.state.told for sink in told.owed}
        self.mail.unwritten = {key: receipt for key, receipt in self.mail.unwritten.items() if key in owed}

    def live(self, until: timedelta = HOUR, afterwards: timedelta = timedelta(seconds=5)) -> State:
        async def both() -> None:
            await self.run(until)
            end = self.now + afterwards
            while self.now < end:
                self.pass_second()
                await self.settle_down()

        asyncio.run(both())
        return self.state

    def kinds(self, sink: str = "chat") -> list[str]:
        """What a sink heard of first, in that order."""
        said = dict.fromkeys((id_, words.partition(" ")[0]) for to, id_, words in self.heard if to == sink)
        return [kind.removeprefix("dev.serin.") for _, kind in said]


def quick(kind: str) -> Policy:
    return policy(kind, steps=QUICK)


def urgent() -> Policy:
    spec = yaml.safe_load((SHIPPED / "emergency.yaml").read_text())["spec"]
    return policy("emergency", steps=QUICK, approval=parse_policy(spec, frozenset(PRESETS)).approval)


HEALTHY = ["change.started", "change.advanced", "change.advanced", "change.promoting", "change.completed"]
BACK = ["change.started", "change.rollingback", "change.rolledback"]
JOURNEYS = [(HEALTH, HEALTHY), (CRASH, BACK)]


@pytest.mark.parametrize(("trouble", "kinds"), JOURNEYS, ids=["completed", "rolled back"])
def test_everything_is_heard_once_when_nothing_goes_wrong(trouble: Trouble, kinds: list[str]) -> None:
    world = Heard(quick("standard"), trouble)
    done = world.live()
    assert world.kinds() == kinds
    assert len(world.heard) == len(kinds)
    assert [told.owed for told in done.told] == [()] * len(kinds)
    assert all(told.receipts for told in done.told)


@pytest.mark.parametrize("done_first", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("trouble", "kinds"), JOURNEYS, ids=["completed", "rolled back"])
def test_whenever_the_controller_dies_everything_is_heard(trouble: Trouble, kinds: list[str], done_first: bool) -> None:
    again = 0
    for point in itertools.count():
        world = Heard(quick("standard"), trouble, dies_at=point, done_first=done_first)
        done = world.live()
        assert world.kinds() == kinds, (point, world.story)
        words: dict[str, set[str]] = {}
        for _, id_, text in world.heard:
            words.setdefault(id_, set()).add(text)
        assert all(len(texts) == 1 for texts in words.values()), "the same id says the same"
        assert len(words) == len(kinds), "and no event has two"
        assert [told.owed for told in done.told] == [()] * len(kinds)
        again += len(world.heard) > len(kinds)
        if not world.died:
            break
    assert point > 20, "it died at every commit and every write"
    assert done_first or again > 0, "receipts were lost, and things said again"


@pytest.mark.parametrize("trouble", [HEALTH, CRASH, Trouble(errors_from=60), Trouble(deleted_at=60)])
def test_a_dead_sink_changes_nothing_about_a_change(trouble: Trouble) -> None:
    alone = Heard(quick("standard"), trouble, sinks=())
    with_dead = Heard(quick("standard"), trouble, dead=("chat",))
    living = Heard(quick("standard"), trouble)
    history = alone.live().history
    assert with_dead.live().history == history
    assert living.live().history == history
    assert with_dead.story == alone.story, "not one write more, or at another moment"
    assert not with_dead.heard


def test_who_deletes_a_change_is_told_of_its_end_and_a_dead_sink_keeps_it_half_a_minute() -> None:
    for dead in ((), ("chat",)):
        world = Heard(quick("standard"), Trouble(deleted_at=60), dead=dead)
        done = world.live(afterwards=timedelta())
        assert (done.phase, done.ended_at) == (Phase.SUPERSEDED, world.now)
        while world.change.finalizer and world.now < BEGIN + HOUR:
            world.live(timedelta(), timedelta(seconds=1))
        assert done.ended_at
        kept = world.now - done.ended_at
        if dead:
            assert LAST_WORDS_MAX <= kept <= LAST_WORDS_MAX + timedelta(seconds=2)
        else:
            assert kept <= timedelta(seconds=3)
            assert world.kinds()[-1] == "change.superseded"


def emergency(*, dead: Sequence[str] = (), sinks: Sequence[Route] = (CHAT, PAGER)) -> Heard:
    world = Heard(urgent(), sinks=sinks, dead=dead)
    world.change = replace(world.change, type=ChangeType.EMERGENCY)
    return world


def test_the_cto_hears_of_an_emergency_at_once_and_the_moment_is_in_the_record() -> None:
    world = emergency()
    done = world.live(afterwards=2 * HOUR)
    assert done.notified_at is not None
    assert done.notified_at - BEGIN < timedelta(seconds=10)
    assert world.kinds("pager") == ["emergency.declared"]
    assert not any(text.startswith("NotificationOverdue") for text in done.warnings)


def test_an_hour_without_an_answer_is_overdue_to_the_second_though_the_change_is_long_over() -> None:
    world = emergency(dead=("pager",))
    done = world.live()
    assert done.phase is Phase.COMPLETED
    declared = done.told[0].at
    world.live(timedelta(), declared + HOUR - timedelta(seconds=1) - world.now)
    assert "notification.near" in world.kinds()
    assert not world.state.warnings
    world.live(timedelta(), timedelta(seconds=2))
    assert [text.partition(":")[0] for text in world.state.warnings] == ["NotificationOverdue"]
    assert world.kinds()[-1] == "notification.overdue"
    world.dead = world.mail.dead = frozenset()
    world.live(timedelta(), timedelta(seconds=3))
    assert world.state.notified_at is not None
    assert not world.state.warnings


# --- One sentence, wherever it is read ---


class Overheard(Heard):
    """… with all that is said of it: Events, and lines of the log."""

    def __init__(self, policy: Policy, trouble: Trouble) -> None:
        self.events: list[str] = []
        super().__init__(policy, trouble)

    async def event(self, subject: dict[str, Any], reason: str, message: str, *, warning: bool) -> None:
        self.events.append(f"{reason}: {message}")

    async def commit(self, change: Change, state: State) -> str:
        Telemetry().decision(change, self.state, state, Observation(change, {}, None))
        return await super().commit(change, state)


ERRORS = Trouble(errors_from=20, usual_ratio=0.02)


@pytest.mark.parametrize(
    ("changes", "trouble", "cause", "says"),
    [
        ({"analysis": Analysis()}, ERRORS, "WorseThanStable", "errors-vs-stable: shop fails "),
        ({}, replace(ERRORS, error_ratio=0.3), "ErrorRate", "; stable is failing too: 2% of "),
        ({}, Trouble(unanswered=True), "NoTraffic", "no-traffic: the canary of shop answered none of the about "),
    ],
)
def test_a_verdict_says_the_same_in_status_event_log_and_notification(
    changes: dict[str, Any], trouble: Trouble, cause: str, says: str
) -> None:
    world = Overheard(policy("standard", **changes), trouble)
    with structlog.testing.capture_logs() as lines:
        done = world.live()
    assert done.cause == cause
    sentence = next(record.message for record in done.history if record.phase is Phase.ROLLING_BACK)
    assert says in sentence
    assert len(sentence) <= MESSAGE_MAX
    if cause != "NoTraffic":
        assert sentence in {each.message for each in done.evidence}
    assert f"{cause}: CHG-20261123-001: {sentence}" in world.events
    (line,) = (each for each in lines if each["event"] == "decision" and each["message"] == sentence)
    assert line["reason"] == cause
    if cause != "NoTraffic":
        assert line["evidence"]["message"] == sentence
    assert any(f": {cause}: {sentence}" in words for _, _, words in world.heard)
