"""Verdicts: what they count, and what they say when there is little or nothing to count."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.core.judge import judge
from controller.core.model import (
    Change,
    Evidence,
    Measurements,
    Observation,
    Phase,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import ChangeType, LogErrors, LowTraffic, Policy, Step
from controller.core.samples import Arm, Sample

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
BAKE = timedelta(minutes=5)
POLICY = Policy(steps=(Step(10, BAKE), Step(100, BAKE)), min_requests=75)
STATE = State(
    phase=Phase.PROGRESSING,
    step=1,
    weight=10,
    entered_at=START,
    weighted_at=START,
    settled_at=START,
    targets=(Target("shop", "uid", "new", Strategy.CANARY, stable_revision="old", replicas=10),),
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def arm(*samples: tuple[float, float, float], fresh: float) -> Arm:
    """(seconds, bad, total) each."""
    return Arm(tuple(Sample(at(second), bad, total) for second, bad, total in samples), at(fresh))


def evidence(
    canary: Arm, stable: Arm, now: float, kind: ChangeType = ChangeType.NORMAL, policy: Policy = POLICY
) -> Evidence:
    arms = {("shop", "error-rate", "canary"): canary, ("shop", "error-rate", "stable"): stable}
    change = Change("demo", "chg-20261123-001", "CHG-20261123-001", kind)
    seen = Observation(change, {}, policy, measurements=Measurements(at(now), arms))
    (found,) = judge(STATE, seen, policy, at(now)).evidence
    return found


BAD_FOR_FIVE_MINUTES = [(float(s), 10.0, 100.0) for s in range(10, 330, 10)]
GOOD = [(float(s), 0.0, 100.0) for s in range(10, 330, 10)]


def test_what_an_earlier_canary_of_that_name_answered_does_not_count() -> None:
    before = [(float(s), 100.0, 100.0) for s in range(-300, 1, 10)]
    found = evidence(arm(*before, *GOOD[:3], fresh=30), arm(fresh=30), 30)
    assert found.verdict is Verdict.PASS
    assert found.value == "0%"
    assert "0% of 300 requests" in found.message


def test_five_minutes_above_the_limit_fail() -> None:
    found = evidence(arm(*BAD_FOR_FIVE_MINUTES, fresh=320), arm(*GOOD, fresh=320), 320)
    assert found.verdict is Verdict.FAIL
    assert (found.value, found.threshold, found.window) == ("10%", "1%", timedelta(minutes=1))
    assert (found.bad, found.requests, found.stable_bad, found.stable_requests) == (320, 3200, 0, 3200)
    assert (found.interval, found.times) == ((0.0901, 0.1109), (83.3,))
    assert (found.began_at, found.data_at) == (START, at(320))


def test_stable_failing_too_is_said() -> None:
    found = evidence(arm(*BAD_FOR_FIVE_MINUTES, fresh=320), arm(*BAD_FOR_FIVE_MINUTES, fresh=320), 320)
    assert found.verdict is Verdict.FAIL
    assert found.message.endswith("; stable is failing too: 10% of 600")
    assert found.times == (0.857, 1.17)


def test_an_emergency_is_not_rolled_back_to_what_fails_as_much() -> None:
    bad = arm(*BAD_FOR_FIVE_MINUTES, fresh=320)
    assert evidence(bad, bad, 320, ChangeType.EMERGENCY).verdict is Verdict.INCONCLUSIVE
    assert evidence(bad, arm(*GOOD, fresh=320), 320, ChangeType.EMERGENCY).verdict is Verdict.FAIL


def test_stale_data_is_inconclusive_but_a_breach_it_proves_is_one() -> None:
    assert evidence(arm(*GOOD[:3], fresh=30), arm(fresh=30), 200).verdict is Verdict.INCONCLUSIVE
    assert evidence(arm(*BAD_FOR_FIVE_MINUTES, fresh=320), arm(fresh=320), 900).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("now", "low_traffic", "verdict", "says"),
    [
        (30, LowTraffic.CONTINUE, Verdict.INCONCLUSIVE, "; so far 3 of the 75 requests that a verdict needs"),
        (599, LowTraffic.CONTINUE, Verdict.INCONCLUSIVE, "; so far 3 of the 75 requests that a verdict needs"),
        (600, LowTraffic.CONTINUE, Verdict.PASS, "; low evidence: 3 of the 75 requests that a verdict needs"),
        (6000, LowTraffic.HOLD, Verdict.INCONCLUSIVE, "; so far 3 of the 75 requests that a verdict needs"),
    ],
)
def test_few_requests_pass_only_after_twice_the_bake(
    now: float, low_traffic: LowTraffic, verdict: Verdict, says: str
) -> None:
    few = arm((10, 0, 1), (20, 0, 1), (30, 0, 1), fresh=now)
    found = evidence(few, arm(fresh=now), now, policy=replace(POLICY, low_traffic=low_traffic))
    assert found.verdict is verdict
    assert found.message.endswith(says)


def test_no_requests_at_all_are_no_failure() -> None:
    assert evidence(arm(fresh=700), arm(fresh=700), 700).verdict is Verdict.PASS


def test_a_message_is_never_longer_than_a_tired_person_reads() -> None:
    state = replace(STATE, targets=(replace(STATE.targets[0], name="s" * 253),))
    seen = Observation(Change("demo", "c", "CHG-20261123-001", ChangeType.NORMAL), {}, POLICY)
    (found,) = judge(state, seen, POLICY, at(1)).evidence
    assert len(found.message) <= 240


def test_a_version_that_logs_nothing_passes_and_one_that_logs_errors_fails() -> None:
    arms = {("shop", "log-errors", side): arm(fresh=30) for side in ("canary", "stable")}
    quiet = log_evidence(arms, 30)
    assert quiet.verdict is Verdict.PASS, "there is no least number of lines"
    arms |= {("shop", "log-errors", "canary"): arm(*BAD_FOR_FIVE_MINUTES, fresh=320)}
    loud = log_evidence(arms, 320)
    assert loud.verdict is Verdict.FAIL
    assert (loud.value, loud.window, loud.requests) == ("10%", timedelta(minutes=1), 3200)


def log_evidence(arms: dict[tuple[str, str, str], Arm], now: float) -> Evidence:
    policy = replace(POLICY, log_errors=LogErrors())
    change = Change("demo", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL)
    seen = Observation(change, {}, policy, measurements=Measurements(at(now), arms))
    return next(e for e in judge(STATE, seen, policy, at(now)).evidence if e.rule == "log-errors")
