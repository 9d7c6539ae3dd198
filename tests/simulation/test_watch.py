"""After the promotion: what the Deployment answers itself is judged, and the stable template can be brought back."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.core import checks, track
from controller.core.checks import Check
from controller.core.decide import RULES
from controller.core.model import (
    Action,
    Change,
    Held,
    Incident,
    Measurements,
    Observation,
    Phase,
    ServicePair,
    Stage,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import After, Approval, ChangeType, Policy, Step
from controller.measure import subjects_of
from tests.core.test_decisions import EARLIER, Desk
from tests.simulation.test_world import policy, trouble
from tests.simulation.world import BEGIN, Broken, World

MINUTE = timedelta(minutes=1)
WATCH = 10 * MINUTE
QUICK = tuple(Step(weight, timedelta(seconds=40)) for weight in (10, 50, 100))


def watching(**changes: Any) -> Policy:
    return replace(policy("standard", steps=QUICK, after=After(WATCH)), **changes)


class Watched(Desk):
    """A change that has been promoted and is watched from `began` on."""

    incidents: tuple[Incident, ...] = ()
    forward_only = False

    def __init__(self, policy_: Policy | None = None, kind: ChangeType = ChangeType.STANDARD, **trouble: Any) -> None:
        super().__init__(kind, policy_ or watching(), **trouble)

    def promoted(self) -> "Watched":
        while self.state.stage is not Stage.WATCH:
            assert not self.state.phase.terminal, "\n".join(self.story[-20:])
            self.pass_by(timedelta(seconds=1))
        self.began = self.now
        return self

    def trouble_in(self, time: timedelta, length: timedelta | None = None, ratio: float = 0.2) -> "Watched":
        start = self.since + time.total_seconds()
        end = start + length.total_seconds() if length else None
        self.trouble = replace(self.trouble, errors_from=start, errors_until=end, error_ratio=ratio)
        return self

    def measurements(self) -> Measurements:
        return replace(super().measurements(), incidents=self.incidents)

    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation:
        spec = {**(change.spec or {}), "rollback": "forwardOnly" if self.forward_only else "automatic"}
        return await super().observe(replace(change, spec=spec), state, measurements)

    @property
    def took(self) -> timedelta:
        assert self.state.ended_at
        return self.state.ended_at - self.began

    def is_back(self) -> bool:
        old = self.own["old"]
        return (self.revision, self.held, self.paused, len(old.ready_at)) == ("old", "", False, self.size)


def stages(state: State) -> list[str]:
    return [str(record.stage) for record in state.history if record.phase is Phase.PROMOTING]


def test_a_healthy_one_is_watched_without_its_canary_and_then_ends() -> None:
    world = Watched().promoted()
    state = world.pass_by(MINUTE)
    assert (state.reason, state.weight) == ("Watching", 0)
    assert "promoted; watched until" in state.message
    assert (world.canary, world.service, [way.named for way in world.ways.values()]) == (None, False, [False])
    assert (world.held, world.paused) == (Held.RUNNING, True)
    done = world.pass_by(WATCH)
    assert (done.phase, done.low_evidence) == (Phase.COMPLETED, False)
    assert stages(done) == ["Roll", "Return", "Drain", "Watch", "Clean"]
    assert WATCH <= world.took < WATCH + MINUTE
    assert (world.held, world.paused, world.revision) == ("", False, "new")
    assert {e.verdict for e in done.evidence} == {Verdict.PASS}
    assert all(e.message.endswith("stable had 0% before") and e.requests > 1000 for e in done.evidence)
    assert (world.failed, world.lost) == (0, 0)


def test_without_a_time_in_the_policy_nothing_is_watched() -> None:
    world = Watched(watching(after=After()))
    done = world.pass_by(WATCH)
    assert (done.phase, stages(done)) == (Phase.COMPLETED, ["Roll", "Return", "Drain", "Clean"])


@pytest.mark.parametrize("begin", [timedelta(seconds=1), 3 * MINUTE, 5 * MINUTE, 9 * MINUTE])
def test_errors_that_begin_in_the_watch_bring_the_stable_template_back(begin: timedelta) -> None:
    """However late: what is exceeded at its end is proven first."""
    world = Watched().promoted().trouble_in(begin)
    done = world.pass_by(timedelta(hours=1))
    assert (done.phase, done.cause, done.rejected) == (Phase.ROLLED_BACK, "ErrorRate", True)
    assert world.is_back()
    verdict = next(record for record in done.history if record.phase is Phase.ROLLING_BACK)
    assert verdict.stage is Stage.RECOVER
    assert begin + 5 * MINUTE <= verdict.at - world.began <= begin + 6 * MINUTE + timedelta(seconds=30)
    assert world.lost == 0


def without(monkeypatch: pytest.MonkeyPatch, *left_out: Check) -> None:
    rules = RULES[Phase.PROMOTING]
    kept = [tuple(rule for rule in row if rule not in left_out) for row in (rules.roll_back, rules.hold)]
    monkeypatch.setitem(RULES, Phase.PROMOTING, replace(rules, roll_back=kept[0], hold=kept[1]))


def test_the_judgement_is_what_brings_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control."""
    without(monkeypatch, checks.error_rate, checks.slo_burn)
    assert Watched().promoted().trouble_in(timedelta(seconds=1)).pass_by(timedelta(hours=1)).phase is Phase.COMPLETED


def test_the_watch_is_what_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control."""
    without(monkeypatch, checks.watched)
    assert Watched(errors_from=200).pass_by(timedelta(hours=1)).phase is Phase.COMPLETED


def test_errors_for_less_than_five_minutes_do_not() -> None:
    world = Watched().promoted().trouble_in(7 * MINUTE, 4 * MINUTE)
    done = world.pass_by(timedelta(hours=1))
    assert done.phase is Phase.COMPLETED
    assert world.took > WATCH, "it waited for a good sample"


def test_a_breach_of_the_canary_is_not_carried_into_the_watch() -> None:
    world = Watched().promoted()
    assert world.state.breaches == () or all(b.bad_for == timedelta() for b in world.state.breaches)


@pytest.mark.parametrize("after", [timedelta(seconds=2), 4 * MINUTE, 9 * MINUTE + timedelta(seconds=50)])
def test_a_person_brings_it_back_at_any_moment_of_the_watch(after: timedelta) -> None:
    world = Watched().promoted()
    world.pass_by(after)
    world.decide(Action.ROLLBACK, by="alice", reason="users complain")
    done = world.pass_by(10 * MINUTE)
    assert (done.phase, done.cause) == (Phase.ROLLED_BACK, "RollbackRequested")
    assert world.is_back()


@pytest.mark.parametrize("restarts", [(), (10.0,), tuple(float(s) for s in range(5, 400, 20))])
def test_restarts_in_the_watch_change_nothing_about_its_verdict(restarts: tuple[float, ...]) -> None:
    world = Watched().promoted().trouble_in(MINUTE)
    world.trouble = replace(world.trouble, restarts=tuple(world.since + at for at in restarts))
    done = world.pass_by(timedelta(hours=1))
    verdict = next(record for record in done.history if record.phase is Phase.ROLLING_BACK)
    without = Watched().promoted().trouble_in(MINUTE).pass_by(timedelta(hours=1))
    assert verdict.at == next(r for r in without.history if r.phase is Phase.ROLLING_BACK).at


@pytest.mark.parametrize("conflicts", [0.1, 0.5])
def test_conflicts_break_nothing(conflicts: float) -> None:
    world = Watched(conflicts=conflicts).promoted().trouble_in(MINUTE)
    assert world.pass_by(timedelta(hours=1)).phase is Phase.ROLLED_BACK
    assert world.is_back()


def test_silence_is_waited_for_and_brings_nothing_back() -> None:
    world = Watched().promoted()
    world.trouble = replace(world.trouble, silent_from=world.since + 60)
    state = world.pass_by(WATCH + 5 * MINUTE)
    assert (state.phase, state.stage, state.reason) == (Phase.PROMOTING, Stage.WATCH, "NoData")
    assert "the watch waits for it, and ends without at" in state.message
    done = world.pass_by(timedelta(hours=1))
    assert (done.phase, done.low_evidence) == (Phase.COMPLETED, True)
    assert world.took < timedelta(minutes=35)


def test_data_that_comes_back_ends_it() -> None:
    world = Watched().promoted()
    world.trouble = replace(world.trouble, silent_from=world.since + 60, silent_until=world.since + 900)
    done = world.pass_by(timedelta(hours=1))
    assert (done.phase, done.low_evidence) == (Phase.COMPLETED, False)
    assert 15 * MINUTE <= world.took < 17 * MINUTE


def test_an_incident_that_begins_in_the_watch_counts() -> None:
    world = Watched().promoted()
    world.pass_by(MINUTE)
    world.incidents = (Incident("Down", {"severity": "P0"}, world.now),)
    done = world.pass_by(10 * MINUTE)
    assert (done.phase, done.cause) == (Phase.ROLLED_BACK, "P0Incident")
    assert world.is_back()


class Crashing(Watched):
    """The Deployment's own new pods begin to crash."""

    crashing = False

    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation:
        seen = await super().observe(change, state, measurements)
        if not self.crashing:
            return seen
        shop = seen.targets["shop"]
        bad = tuple(
            replace(pod, trouble="CrashLoopBackOff") if pod.replica_set == "shop-new" else pod for pod in shop.pods
        )
        return replace(seen, targets={"shop": replace(shop, pods=bad)})


def test_pods_that_begin_to_crash_in_the_watch_bring_it_back() -> None:
    world = Crashing()
    world.promoted().pass_by(MINUTE)
    world.crashing = True
    done = world.pass_by(10 * MINUTE)
    assert (done.phase, done.cause) == (Phase.ROLLED_BACK, "CrashLoop")
    assert world.is_back()


def test_a_newer_template_ends_the_watch_and_waits_for_a_change_of_its_own() -> None:
    world = Watched(watching(approval=Approval(1)))
    world.decide(Action.APPROVE)
    world.promoted().pass_by(MINUTE)
    world.trouble = replace(world.trouble, new_template_at=world.since + 1)
    done = world.pass_by(MINUTE)
    assert (done.phase, world.revision, world.held) == (Phase.COMPLETED, "newer", Held.WAITING)
    assert world.took < 2 * MINUTE


def test_a_request_that_is_deleted_in_the_watch_brings_stable_back() -> None:
    world = Watched().promoted()
    world.trouble = replace(world.trouble, deleted_at=world.since + 60)
    assert world.pass_by(10 * MINUTE).phase is Phase.SUPERSEDED
    assert world.is_back()


class Migration(Watched):
    forward_only = True


def test_what_cannot_go_back_is_held_in_the_watch() -> None:
    world = Migration(kind=ChangeType.NORMAL).promoted().trouble_in(MINUTE)
    state = world.pass_by(timedelta(hours=1))
    assert (state.stage, state.reason, world.revision) == (Stage.WATCH, "ErrorRate", "new")
    assert "it cannot go back by itself" in state.message


class Fix(Watched):
    """What was stable fails, until the change has replaced it."""

    ill = 0.0

    def measurements(self) -> Measurements:
        found = super().measurements()
        if self.state.stage is Stage.WATCH:
            return found
        stable = {
            key: replace(arm, samples=tuple(replace(s, bad=s.total * self.ill) for s in arm.samples))
            for key, arm in found.arms.items()
            if key[2] == "stable"
        }
        return replace(found, arms={**found.arms, **stable})


@pytest.mark.parametrize(("before", "outcome"), [(0.3, Phase.COMPLETED), (0.1, Phase.ROLLED_BACK)])
def test_an_emergency_is_not_brought_back_to_what_was_worse(
    monkeypatch: pytest.MonkeyPatch, before: float, outcome: Phase
) -> None:
    """Stable has no traffic in the watch: what it had when it had some is compared with."""
    monkeypatch.setattr(Fix, "ill", before)
    world = Fix(kind=ChangeType.EMERGENCY).promoted()
    assert {e.stable for e in world.state.evidence if e.rule == "error-rate"} == {before}
    assert world.trouble_in(timedelta(seconds=1)).pass_by(timedelta(hours=1)).phase is outcome


def test_a_revert_is_watched_no_longer_than_it_bakes() -> None:
    world = Watched(watching(approval=Approval(1)), ChangeType.NORMAL)
    world.others = (replace(EARLIER, stable_revisions={"shop": "new"}),)
    state = world.pass_by(2 * MINUTE)
    assert state.revert
    assert state.policy is not None
    assert state.policy.after.watch == state.policy.revert_bake < WATCH


# --- What is asked of Prometheus ---


def test_the_only_arm_is_the_deployment_itself() -> None:
    pair = ServicePair("shop", "shop-canary", (80,))
    target = Target(
        "shop", "uid", "new", Strategy.CANARY, stable_replica_set="shop-old", replica_set="shop-new", services=(pair,)
    )
    state = State(
        phase=Phase.PROMOTING,
        stage=Stage.WATCH,
        policy=watching(),
        weighted_at=BEGIN,
        entered_at=BEGIN,
        targets=(target,),
    )
    change = Change("demo", "chg", "CHG-20261123-001", ChangeType.STANDARD)
    (subject,) = subjects_of(change, state, BEGIN)
    assert (subject.canary_pods, subject.stable_pods) == ("", "shop-new-")
    (before,) = subjects_of(change, replace(state, stage=Stage.ROLL), BEGIN)
    assert (before.canary_pods, before.stable_pods) == ("shop-canary-", "shop-old-")
    native = replace(target, strategy=Strategy.NATIVE)
    (own,) = subjects_of(change, replace(state, targets=(native,)), BEGIN)
    assert own.canary_pods == "shop-new-"


def test_evidence_remembers_what_stable_had() -> None:
    world = Watched().promoted()
    assert world.state.evidence
    assert all(e.stable is not None and e.stable < 0.001 for e in world.state.evidence)


@pytest.mark.parametrize("fives", range(8))
def test_whatever_goes_wrong_in_the_watch_nothing_that_must_hold_is_broken_and_it_ends(fives: int) -> None:
    for seed in range(1000 + fives * 5, 1005 + fives * 5):
        what = replace(trouble(seed), new_template_at=None)  # its change would start here: it has a test of its own
        world = World(watching(after=After(35 * MINUTE)), what, seed)
        try:
            done = asyncio.run(world.run(timedelta(hours=3)))
            world.must(done.phase.terminal, "I16: every change ends")
            if done.phase is Phase.ROLLED_BACK:
                world.must(bool(world.own["old"].ready_at), "I5: stable is back")
        except Broken as broken:
            raise AssertionError(f"seed {seed}: {what}\n{broken}") from None


# --- One crash that nobody saw: of a loop, a process that was away sees no more ---


class Native(Watched):
    """Watched after its own rolling update, for the last bake."""

    def __init__(self) -> None:
        super().__init__(policy("standard", steps=(Step(100, 2 * MINUTE),)))

    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation:
        found = await super().observe(change, state, measurements)
        return replace(found, targets={"shop": replace(found.targets["shop"], routes=(), services=())})


def dwelt(world: Watched) -> tuple[str, timedelta]:
    """Why it dwells, and how long it did after the crash, 20 s into a dwell."""
    while world.state.settled_at is None or world.state.reason not in ("Baking", "Watching"):
        assert not world.state.phase.terminal
        world.pass_by(timedelta(seconds=1))
    crashed_at = world.state.settled_at + timedelta(seconds=20)
    world.trouble = replace(world.trouble, crashed_once_at=(crashed_at - BEGIN).total_seconds())
    world.now = crashed_at
    message = world.pass_by(timedelta(seconds=6)).message
    here = len(world.state.history)
    while len(world.state.history) == here and not world.state.phase.terminal:
        world.pass_by(timedelta(seconds=1))
    return message, world.now - crashed_at


DWELLS: dict[str, tuple[Callable[[], Watched], timedelta]] = {
    "a step": (Watched, QUICK[0].bake),
    "a native rolling update": (Native, 2 * MINUTE),
    "the watch": (lambda: Watched().promoted(), WATCH),
}


@pytest.mark.parametrize(("begin", "least"), DWELLS.values(), ids=DWELLS)
def test_a_dwell_begins_anew_with_a_crash(begin: Callable[[], Watched], least: timedelta) -> None:
    message, dwell = dwelt(begin())
    assert re.search(r"its dwell began anew when \S+ crashed$", message), message
    assert least <= dwell < least + timedelta(seconds=20)


@pytest.mark.parametrize(("begin", "least"), DWELLS.values(), ids=DWELLS)
def test_without_that_it_ends_as_if_nothing_had_crashed(
    begin: Callable[[], Watched], least: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(track, "crashes", lambda state, observation: iter(()))
    assert dwelt(begin())[1] < least


def test_a_crash_before_the_dwell_or_after_now_does_not_count() -> None:
    """The second is a node's clock that is ahead."""
    world = Watched()
    while world.state.settled_at is None:
        world.pass_by(timedelta(seconds=1))
    began = world.state.settled_at
    for at in (began - timedelta(seconds=1), world.now + timedelta(hours=1)):
        world.crash_of = lambda pod, at=at: {} if pod else {"restarts": 1, "crashed_at": at}  # type: ignore[method-assign, misc]
        assert world.pass_by(timedelta(seconds=6)).settled_at == began
