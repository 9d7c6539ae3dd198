"""The sentence of each verdict, word for word, as it is read at 3 a.m.; and the figures that go with it.

A sentence that is changed on purpose is changed here too: read it aloud first.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from controller.core import compare
from controller.core.blocks import Counts, History
from controller.core.checks import no_traffic, no_traffic_yet, suspicious
from controller.core.judge import judge
from controller.core.model import (
    Change,
    Comparison,
    Evidence,
    Measurements,
    Observation,
    Phase,
    Stage,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import Analysis, ChangeType, LogErrors, LowTraffic, Policy, Slo, Statistical, Step
from controller.core.samples import Arm, Sample
from controller.core.sentences import MESSAGE_MAX
from controller.core.sequential import begin

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
SLOW = timedelta(seconds=1)
BAKE = timedelta(minutes=5)
ON = Policy(
    steps=(Step(10, BAKE), Step(100, BAKE)),
    slos=(Slo("availability", 0.999, 14.4), Slo("latency", 0.99, 14.4, SLOW)),  # type: ignore[arg-type]
    log_errors=LogErrors(),
)
OBSERVED = replace(ON, analysis=Analysis(Statistical.OBSERVE))
STATE = State(
    phase=Phase.PROGRESSING,
    step=1,
    weight=10,
    entered_at=START,
    weighted_at=START,
    settled_at=START,
    targets=(Target("shop", "uid", "new", Strategy.CANARY, stable_revision="old", replicas=10),),
)
QUESTIONS = ("error-rate", "availability", "latency", "log-errors", "slower-than-1s")
GOOD = (0.0, 0.1)
"""Percent of bad ones: of the canary, of stable."""


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def arm(percent: float, per_scrape: float, *, until: float, begins: float = 0, fresh: float | None = None) -> Arm:
    """A scrape every 15 s, `percent` of its events bad."""
    moments = [15.0 * n for n in range(1, int(until) // 15 + 1) if 15 * n > begins]
    samples = tuple(Sample(at(s), per_scrape * percent / 100, per_scrape) for s in moments)
    return Arm(samples, at(until if fresh is None else fresh), timedelta(seconds=15))


def arms(
    bad: Mapping[str, tuple[float, float]],
    until: float,
    *,
    per_scrape: float = 75,
    begins: float = 0,
    alone: bool = False,
) -> dict[tuple[str, str, str], Arm]:
    """Of each question both arms, bad as `bad` says of some; stable answers nine times as many, or `alone` none."""
    found = {}
    for name in QUESTIONS:
        canary, stable = bad.get(name, GOOD)
        found["shop", name, "canary"] = arm(canary, per_scrape, until=until, begins=begins)
        found["shop", name, "stable"] = arm(stable, 0 if alone else 9 * per_scrape, until=until)
    return found


def judged(
    seen: Mapping[tuple[str, str, str], Arm],
    now: float,
    *,
    policy: Policy = ON,
    state: State = STATE,
    kind: ChangeType = ChangeType.NORMAL,
    problem: str = "",
) -> State:
    if not state.comparisons and policy.analysis.statistical is not Statistical.OFF:
        known = History(Counts(18.0, 18_000.0))
        about = (("errors-vs-stable", ()), ("latency-vs-stable", (SLOW,)))
        compared = tuple(Comparison(rule, "shop", (begin(known, START),), edges) for rule, edges in about)
        state = replace(state, comparisons=compared)
    change = Change("demo", "chg-20261123-001", "CHG-20261123-001", kind)
    measured = Measurements(at(now), dict(seen), problem=problem)
    return judge(state, Observation(change, {}, policy, measurements=measured), policy, at(now))


def told(state: State, rule: str) -> Evidence:
    return next(e for e in state.evidence if e.rule == rule)


BAD = dict.fromkeys(QUESTIONS, (10.0, 0.1))
BOTH_BAD = dict.fromkeys(QUESTIONS, (10.0, 10.0))
FEW = replace(ON, low_traffic=LowTraffic.HOLD)
ONCE_WORSE = replace(
    STATE, comparisons=(Comparison("errors-vs-stable", "shop", (begin(History(), START),), failed_at=at(60)),)
)
USED_TO_IT = replace(
    STATE, comparisons=(Comparison("errors-vs-stable", "shop", (begin(History(Counts(360.0, 18_000.0)), START),)),)
)
PROMOTED = replace(STATE, phase=Phase.PROMOTING, stage=Stage.WATCH, promoted=True, step=2, weight=0)

P, F, U = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
CASES = {
    # --- limits ---
    "five minutes above the limit": (
        judged(arms(BAD, 330), 330), "error-rate", F,
        "error-rate: shop fails 10% of 300 requests in 1m, above its limit of 1% for 5m15s; stable 0.1% of 2,700",
    ),
    "stable fails as well": (
        judged(arms(BOTH_BAD, 330), 330), "error-rate", F,
        "error-rate: shop fails 10% of 300 requests in 1m, above its limit of 1% for 5m15s; "
        "stable is failing too: 10% of 2,700",
    ),
    "an Emergency that is no worse than stable": (
        judged(arms(BOTH_BAD, 330), 330, kind=ChangeType.EMERGENCY), "error-rate", U,
        "error-rate: shop fails 10% of 300 requests in 1m, above its limit of 1% for 5m15s; "
        "stable is failing too: 10% of 2,700; an Emergency does not go back to what is no better",
    ),
    "above the limit, not for long": (
        judged(arms(BAD, 45), 45), "error-rate", U,
        "error-rate: shop fails 10% of 225 requests in 1m, above its limit of 1% for 30s (5m take it back); "
        "stable 0.1% of 2,025",
    ),
    "above the limit just now": (
        judged(arms(BAD, 15), 15), "error-rate", U,
        "error-rate: shop fails 10% of 75 requests in 1m, above its limit of 1% (5m of that take it back); "
        "stable 0.1% of 675",
    ),
    "the burn of an SLO": (
        judged(arms(BAD, 330), 330), "availability", F,
        "availability: shop fails 10% of 300 requests in 1m, above its limit of 1.44% for 5m15s; "
        "stable 0.1% of 2,700",
    ),
    "a slow SLO": (
        judged(arms(BAD | {"latency": (20, 0.1)}, 330), 330), "latency", F,
        "latency: shop answers 20% of 300 requests in 1m slower than 1s, above its limit of 14.4% for 5m15s; "
        "stable 0.1% of 2,700",
    ),
    "errors in the log": (
        judged(arms(BAD, 330), 330), "log-errors", F,
        "log-errors: shop logs errors in 10% of 300 lines in 1m, above its limit of 1% for 5m15s; "
        "stable 0.1% of 2,700",
    ),
    "good": (
        judged(arms({}, 60), 60), "error-rate", P,
        "error-rate: shop fails 0% of 300 requests in 1m (limit 1%); stable 0.1% of 2,700",
    ),
    "a single one of very many": (
        judged(arms({"error-rate": (0.001, 0.1)}, 60, per_scrape=100_000), 60), "error-rate", P,
        "error-rate: shop fails <0.01% of 400,000 requests in 1m (limit 1%); stable 0.1% of 3,600,000",
    ),
    "few requests": (
        judged(arms({}, 60, per_scrape=1), 60), "error-rate", U,
        "error-rate: shop fails 0% of 4 requests in 1m (limit 1%); stable 0.1% of 36; "
        "so far 4 of the 75 requests that a verdict needs",
    ),
    "few requests for twice the bake": (
        judged(arms({}, 615, per_scrape=1), 615), "error-rate", P,
        "error-rate: shop fails 0% of 4 requests in 1m (limit 1%); stable 0.1% of 36; "
        "low evidence: 41 of the 75 requests that a verdict needs",
    ),
    "few requests, and the policy holds": (
        judged(arms({}, 615, per_scrape=1), 615, policy=FEW), "error-rate", U,
        "error-rate: shop fails 0% of 4 requests in 1m (limit 1%); stable 0.1% of 36; "
        "so far 41 of the 75 requests that a verdict needs",
    ),
    "no request at all": (
        judged(arms({}, 615, per_scrape=0), 615), "error-rate", P,
        "error-rate: shop has no requests counted in 1m (limit 1%); stable has none; "
        "low evidence: 0 of the 75 requests that a verdict needs",
    ),
    "a quiet log": (
        judged(arms({}, 60, per_scrape=0), 60), "log-errors", P,
        "log-errors: shop has no lines counted in 1m (limit 1%); stable has none",
    ),
    "all the traffic is the canary's": (
        judged(arms({}, 60, alone=True), 60), "error-rate", P,
        "error-rate: shop fails 0% of 300 requests in 1m (limit 1%); stable has none",
    ),
    "nothing since the step": (
        judged(arms({}, 60), 60, state=replace(STATE, settled_at=at(60))), "error-rate", U,
        "error-rate: shop fails 0% of 300 requests in 1m (limit 1%); stable 0.1% of 2,700; "
        "no data newer than this step yet",
    ),
    "old data": (
        judged(arms({}, 60), 200), "error-rate", U,
        "error-rate: shop fails 0% of 300 requests in 1m (limit 1%); stable 0.1% of 2,700; "
        "no fresh data: the newest is of 08:01:00 UTC",
    ),
    "part of the data": (
        judged(arms({}, 60), 60, problem="PartialData: http://prometheus answered with a part of the data only"),
        "error-rate", U,
        "error-rate: shop fails 0% of 300 requests in 1m (limit 1%); stable 0.1% of 2,700; no usable data: PartialData",
    ),
    "no data at all": (
        judged({}, 200), "error-rate", U,
        "error-rate: shop has no requests counted in 1m (limit 1%); stable has none; no fresh data: there is none",
    ),
    "after the promotion": (
        judged(arms({}, 60), 60, state=replace(PROMOTED, evidence=judged(arms({}, 60), 60).evidence)), "error-rate", P,
        "error-rate: shop fails 0.1% of 2,700 requests in 1m (limit 1%); stable had 0.1% before",
    ),
    # --- the comparison with stable ---
    "worse than stable": (
        judged(arms({"error-rate": (4.8, 0.1)}, 120), 120), "errors-vs-stable", F,
        "errors-vs-stable: shop fails 4.8% of 600 requests, stable 0.1% of 5,400 (20 to 117 times as often); "
        "a good canary looks like this in less than 1 of 143 rollouts",
    ),
    "worse than stable, which never fails": (
        judged(arms({"error-rate": (4.8, 0)}, 120), 120), "errors-vs-stable", F,
        "errors-vs-stable: shop fails 4.8% of 600 requests, stable 0% of 5,400 (at least 67 times as often); "
        "a good canary looks like this in less than 1 of 143 rollouts",
    ),
    "worse than stable, which is above the limit too": (
        judged(arms({"error-rate": (30, 2)}, 120), 120, state=USED_TO_IT), "errors-vs-stable", F,
        "errors-vs-stable: shop fails 30% of 600 requests, stable is failing too: 2% of 5,400 "
        "(12 to 19 times as often); a good canary looks like this in less than 1 of 143 rollouts",
    ),
    "slower than stable": (
        judged(arms({"slower-than-1s": (20, 0.1)}, 120), 120), "latency-vs-stable", F,
        "latency-vs-stable: shop answers 20% of 600 requests slower than 1s, "
        "stable 0.1% of 5,400 (87 to 462 times as often); a good canary looks like this in less than 1 of 333 rollouts",
    ),
    "only observed": (
        judged(arms({"error-rate": (4.8, 0.1)}, 120), 120, policy=OBSERVED), "errors-vs-stable", F,
        "errors-vs-stable: shop fails 4.8% of 600 requests, stable 0.1% of 5,400 (20 to 117 times as often); "
        "a good canary looks like this in less than 1 of 143 rollouts; only observed, by policy",
    ),
    "observed, and outweighed since": (
        judged(arms({}, 120), 120, policy=OBSERVED, state=ONCE_WORSE), "errors-vs-stable", F,
        "errors-vs-stable: shop fails 0% of 600 requests, stable 0.1% of 5,400; found worse at 08:01:00 UTC; "
        "only observed, by policy",
    ),
    "no stable beside it": (
        judged(arms({"error-rate": (20, 0)}, 120, per_scrape=30, alone=True), 120), "errors-vs-stable", F,
        "errors-vs-stable: shop fails 20% of 240 requests, no stable beside it; "
        "a good canary looks like this in less than 1 of 143 rollouts",
    ),
    "no stable beside it, and burning": (
        judged(arms({"error-rate": (4, 0)}, 300, per_scrape=750, alone=True), 300), "errors-vs-stable", F,
        "errors-vs-stable: shop fails 4% of 3,000 requests in 1m, no stable beside it; "
        "more than 3% is too many to wait",
    ),
    "evidence against it, not enough": (
        judged(arms({"error-rate": (1, 0.1)}, 150), 150), "errors-vs-stable", U,
        "errors-vs-stable: shop fails 1% of 750 requests, stable 0.1% of 6,750; "
        "suspicious: evidence 84 of the 143 that take it back",
    ),
    "an incident of both": (
        judged(arms({"error-rate": (30, 2)}, 120), 120), "errors-vs-stable", U,
        "errors-vs-stable: shop fails 30% of 600 requests, stable is failing too: 2% of 5,400; "
        "just now stable does far worse than its usual 0.54%: nothing to compare with yet",
    ),
    "as good as stable": (
        judged(arms({}, 120), 120), "errors-vs-stable", P,
        "errors-vs-stable: shop fails 0% of 600 requests, stable 0.1% of 5,400; "
        "nothing against it: evidence 0.59 of the 143 that take it back",
    ),
    "as fast as stable": (
        judged(arms({}, 120), 120), "latency-vs-stable", P,
        "latency-vs-stable: shop answers 0% of 600 requests slower than 1s, stable 0.1% of 5,400; "
        "nothing against it: evidence 0.51 of the 333 that take it back",
    ),
    "nothing to compare yet": (
        judged(arms({}, 0), 0), "errors-vs-stable", U,
        "errors-vs-stable: shop has no requests counted, stable has none; no data newer than this step yet",
    ),
    "old data to compare": (
        judged(arms({}, 60), 200), "errors-vs-stable", U,
        "errors-vs-stable: shop fails 0% of 300 requests, stable 0.1% of 2,700; "
        "no fresh data: the newest is of 08:01:00 UTC",
    ),
    "part of the data to compare": (
        judged(arms({}, 60), 60, problem="PartialData: half of it"), "errors-vs-stable", U,
        "errors-vs-stable: shop fails 0% of 300 requests, stable 0.1% of 2,700; no usable data: PartialData",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_sentence(case: str) -> None:
    state, rule, verdict, text = CASES[case]
    found = told(state, rule)
    assert found.message == text
    assert found.verdict is verdict
    assert len(text) <= MESSAGE_MAX


def test_no_sentence_is_cut_and_the_longest_still_says_what_counts() -> None:
    longest = "s" * 253
    name = "a-name-of-thirty-two-characters0"
    slow = Slo(name, 0.99, 14.4, timedelta(milliseconds=2500))  # type: ignore[arg-type]
    policy = replace(ON, slos=(slow,), log_errors=None)
    found = {
        (longest, question, side): samples
        for (_, question, side), samples in arms(
            BOTH_BAD | {"error-rate": (20, 25)}, 330, per_scrape=123_456_789
        ).items()
    }
    for side in ("canary", "stable"):
        found[longest, name, side] = found[longest, "error-rate", side]
    begun = Comparison("errors-vs-stable", longest, (begin(History(Counts(1.0, 9.0)), START),))
    state = replace(STATE, targets=(replace(STATE.targets[0], name=longest),), comparisons=(begun,))
    for each in judged(found, 330, policy=policy, state=state, kind=ChangeType.EMERGENCY).evidence:
        assert len(each.message) <= MESSAGE_MAX
        assert f"{each.rule}: ss" in each.message
        assert "…" in each.message
    emergency = judged(found, 330, policy=policy, state=state, kind=ChangeType.EMERGENCY)
    assert told(emergency, name).message.endswith(
        "stable is failing too: 25% of 4,444,444,404; an Emergency does not go back to what is no better"
    )


# --- Requests that never come ---


def test_a_canary_without_traffic() -> None:
    seen = arms({}, 330, begins=1000)
    state = replace(STATE, weight=10)
    observation = Observation(
        Change("demo", "chg", "CHG-20261123-001", ChangeType.NORMAL),
        {},
        ON,
        measurements=Measurements(at(330), seen),
    )
    held, failed = (rule(state, observation, ON, at(330)) for rule in (no_traffic_yet, no_traffic))
    assert held
    assert failed
    assert (held.rejected, failed.rejected) == (False, True)
    assert (
        failed.message
        == held.message
        == (
            "no-traffic: the canary of shop answered none of the about 1,650 requests of its 10 % in 5m30s; "
            "stable answered 14,850"
        )
    )


# --- What goes with it ---


def test_doubt_is_told_in_the_sentence_of_its_verdict() -> None:
    for case in ("evidence against it, not enough", "an incident of both"):
        state, rule, _, text = CASES[case]
        observation = Observation(Change("demo", "chg", "CHG-20261123-001", ChangeType.NORMAL), {}, ON)
        found = suspicious(state, observation, ON, at(200))
        assert found
        assert found.message == text
        assert compare.doubt(replace(state, evidence=()), ON) == rule, "without a sentence it is a doubt all the same"


@pytest.mark.parametrize("case", [case for case, (_, _, verdict, _) in CASES.items() if verdict is not U])
def test_every_verdict_has_its_figures(case: str) -> None:
    state, rule, _, _ = CASES[case]
    found = told(state, rule)
    counted = found.requests > 0
    assert found.rule == rule
    assert found.value
    assert found.threshold
    assert found.began_at is not None
    assert found.began_at >= START
    assert (found.data_at is not None and found.data_at > found.began_at) or not counted
    assert len(found.interval) == (2 if counted else 0)
    assert found.bad <= found.requests
    assert found.times or not (counted and found.stable_requests and found.bad + found.stable_bad)
    assert (found.stable is not None) is (found.stable_requests > 0 or state.stage is Stage.WATCH)
    if rule in compare.RULES and found.window is None:
        e_value, enough = float(found.value), float(found.threshold)
        assert (e_value >= enough) is (found.verdict is F and case != "observed, and outweighed since")
    else:
        assert found.window == timedelta(minutes=1)
        assert found.value.endswith("%")
        assert found.threshold.endswith("%")


def test_the_figures_of_a_version_that_is_worse_than_stable() -> None:
    found = told(CASES["worse than stable"][0], "errors-vs-stable")
    assert found == Evidence(
        rule="errors-vs-stable",
        target="shop",
        verdict=Verdict.FAIL,
        value="1e+06",
        threshold="143",
        message=CASES["worse than stable"][3],
        requests=600,
        bad=29,
        stable_requests=5400,
        stable_bad=5,
        began_at=START,
        data_at=at(120),
        stable=0.001,  # type: ignore[arg-type]
        interval=(0.0336, 0.0682),  # type: ignore[arg-type]
        times=(19.7, 117.0),
    )
