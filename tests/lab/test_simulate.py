"""A played change goes as the real one would: the same core, and what SREs want to know of their policy."""

import random
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from controller.core.model import Phase, Stage, Verdict
from controller.core.policy import Analysis, ChangeType, LowTraffic, Policy, Statistical
from controller.lab.play import judged_alone
from controller.lab.policies import load
from controller.lab.service import NOISES, Scenario
from controller.lab.simulate import Ending, Played, ending, outcome, p50_and_p90, rows, simulate, summary, timeline
from tests.simulation.test_world import play as play_world
from tests.simulation.world import Trouble, World

KIND, POLICY = load("standard")
LIMITS_ALONE = replace(POLICY, analysis=Analysis(Statistical.OFF))
BAD = Scenario(rps=50, stable_errors=0.001, canary_errors=0.05)
GOOD = replace(BAD, canary_errors=0.001)
MINUTE = timedelta(minutes=1)


def played(scenario: Scenario, policy: Policy = POLICY, seed: str = "7") -> Played:
    return simulate(policy, KIND, scenario, seed)


def test_a_worse_version_goes_back_in_two_minutes() -> None:
    bad = played(BAD)
    assert (bad.end.phase, bad.end.cause) == (Phase.ROLLED_BACK, "WorseThanStable")
    assert bad.found_after is not None
    assert timedelta(seconds=45) < bad.found_after < 2 * MINUTE
    assert 5 <= bad.failed <= 60
    assert bad.looks[-1].weight == 0


def test_control_without_the_statistics_it_takes_minutes_more() -> None:
    """What makes the difference above is the comparison with stable, not the simulation."""
    fails_a_fifth = replace(BAD, canary_errors=0.2)
    bad, later = played(fails_a_fifth), played(fails_a_fifth, LIMITS_ALONE)
    assert later.end.cause == "ErrorRate"
    assert bad.found_after
    assert later.found_after
    assert later.found_after - bad.found_after > 4 * MINUTE
    assert later.failed > 3 * bad.failed


def test_a_slower_version_goes_back_though_it_fails_as_seldom_as_stable() -> None:
    slow = replace(GOOD, stable_slow=0.005, canary_slow=0.1)
    found = played(slow)
    assert found.end.cause == "WorseThanStable"
    assert found.found_after
    assert found.found_after < 2 * MINUTE
    (failed,) = (e for e in found.end.evidence if e.verdict is Verdict.FAIL)
    assert failed.rule == "latency-vs-stable"
    assert "slower than 1s" in failed.message
    assert played(slow, LIMITS_ALONE).end.phase is Phase.COMPLETED, "10 % are within the limit of 14.4 %"
    assert played(replace(slow, canary_slow=0.005)).end.phase is Phase.COMPLETED
    later = played(replace(slow, onset=3 * MINUTE))
    assert later.verdict_at
    assert later.verdict_at - later.begun_at > 3 * MINUTE


@pytest.mark.parametrize(("ratio", "policy"), [(0.2, POLICY), (0.05, POLICY), (0.2, LIMITS_ALONE)])
def test_it_goes_as_in_the_world_that_the_loop_is_tested_in(ratio: float, policy: Policy) -> None:
    """There the whole controller runs, and every invariant of the design is checked at each write."""
    trouble = Trouble(errors_from=0, error_ratio=ratio, usual_ratio=0.001)
    there = play_world(World(replace(judged_alone(policy), min_requests=1), trouble))
    here = [played(replace(BAD, canary_errors=ratio, lag=timedelta()), policy, str(n)) for n in range(5)]
    assert {one.end.cause for one in here} == {there.cause}
    assert there.weighted_at
    back_at = next(record.at for record in there.history if record.phase is Phase.ROLLING_BACK)
    after = sorted(one.found_after or timedelta() for one in here)[2]
    assert abs(after - (back_at - there.weighted_at)) <= 2 * BAD.scrape


def test_what_is_only_observed_changes_nothing() -> None:
    observed = played(BAD, replace(POLICY, analysis=Analysis(Statistical.OBSERVE)))
    assert observed.end.cause == "ErrorRate"
    assert any("only observed, by policy" in row.text for row in rows(observed.looks))


@pytest.mark.parametrize("noise", NOISES)
def test_a_good_version_completes_in_the_time_that_its_steps_take(noise: str) -> None:
    good = played(replace(GOOD, noise=NOISES[noise]))
    assert good.end.phase is Phase.COMPLETED
    bakes = sum((step.bake for step in POLICY.steps), POLICY.after.watch)
    assert bakes < good.looks[-1].at - good.begun_at < bakes + 10 * MINUTE
    assert [row.weight for row in rows(good.looks) if row.verdict in ("Started", "Advanced")] == [10, 50, 100]


@pytest.mark.parametrize(("onset", "stage"), [(7, None), (12, None), (20.45, Stage.ROLL), (23, Stage.WATCH)], ids=str)
def test_a_version_that_turns_bad_late_goes_back_from_wherever_it_is(onset: float, stage: Stage | None) -> None:
    late = played(replace(BAD, canary_errors=0.5, onset=timedelta(minutes=onset), rps=200), LIMITS_ALONE)
    assert late.end.phase is Phase.ROLLED_BACK
    assert late.found_after
    assert late.found_after < 7 * MINUTE
    stable_after = [look.stable.total for look in late.looks if late.verdict_at and look.at > late.verdict_at]
    assert stable_after[-1] > stable_after[0], "stable answers again"
    reached = {record.stage for record in late.end.history}
    assert stage in reached


def test_a_service_that_is_broken_already_does_not_start() -> None:
    broken = played(replace(BAD, stable_errors=0.03))
    assert broken.end.phase is Phase.WAITING
    assert broken.looks[-1].at - broken.begun_at <= 3 * MINUTE
    assert ending(broken).startswith("It does not start: StableOutOfBudget: error-rate of service is broken")


def test_few_requests_take_longer_or_hold_as_the_policy_says() -> None:
    few = replace(GOOD, rps=0.2)
    enough, on = played(GOOD), played(few)
    assert on.end.low_evidence
    assert "marked LowEvidence" in ending(on)
    assert on.looks[-1].at - enough.looks[-1].at >= 10 * MINUTE
    held = played(few, replace(POLICY, low_traffic=LowTraffic.HOLD))
    advanced_at = next(record.at for record in held.end.history if record.step == 2)
    assert advanced_at - held.begun_at > 30 * MINUTE
    fewest = played(replace(few, rps=0.02), replace(POLICY, low_traffic=LowTraffic.HOLD))
    assert (fewest.end.phase, fewest.end.step) == (Phase.PROGRESSING, 1)
    assert list(rows(fewest.looks))[-1].verdict == "LowTraffic"
    assert ending(fewest).startswith("It is Progressing (LowTraffic) after 1h")


def test_data_that_is_older_than_the_policy_bears_never_advances() -> None:
    blind = played(replace(GOOD, lag=2 * MINUTE))
    assert (blind.end.cause, blind.end.rejected) == ("Inconclusive", False)
    assert {look.weight for look in blind.looks} == {0, 10}


def test_one_pod_is_watched_through_its_own_rolling_update() -> None:
    alone = played(replace(BAD, canary_errors=0.5, replicas=1))
    assert alone.end.phase is Phase.ROLLED_BACK
    assert alone.end.history[0].message == "by its own rolling update, under watch"


def test_pods_that_count_for_themselves() -> None:
    kind, policy = load("normal")
    by_pods = replace(policy, metrics=replace(policy.metrics, preset="pods"))
    assert simulate(by_pods, kind, BAD, "7").end.cause == "WorseThanStable"
    assert simulate(by_pods, kind, GOOD, "7").end.phase is Phase.COMPLETED


def test_every_change_type_needs_no_one_here() -> None:
    for name in ChangeType:
        kind, policy = load(name)
        assert simulate(policy, kind, GOOD, "7").end.phase is Phase.COMPLETED, name


def test_the_same_seed_gives_the_same_change() -> None:
    first, again, other = (list(timeline(played(BAD, seed=seed))) for seed in ("7", "7", "8"))
    assert first == again != other


def test_the_timeline_goes_forward_and_tells_how_it_ended() -> None:
    bad = played(BAD)
    found = list(rows(bad.looks))
    assert [row.verdict for row in found][:2] == ["Started", "INCONCLUSIVE"]
    assert all(before.at <= after.at and before.failed <= after.failed for before, after in pairwise(found))
    [verdict, *_] = [row for row in found if row.verdict == "WorseThanStable"]
    assert verdict.text.startswith("errors-vs-stable: service fails ")
    lines = list(timeline(bad))
    assert lines[-1] == ending(bad)
    assert "WorseThanStable; " in lines[-1]


def test_a_good_version_that_goes_back_is_called_a_false_alarm() -> None:
    """The process's own limit does it, where stable is just below it and a bad day comes for both."""
    bad_day = Scenario(50, 0.0095, 0.0095, noise=replace(NOISES["bursty"], shock_lasts=20 * MINUTE))
    alarms = [one for n in range(6) if (one := played(bad_day, LIMITS_ALONE, str(n))).verdict_at]
    assert alarms
    assert all(one.false_alarm and ", a false alarm: ErrorRate; " in ending(one) for one in alarms)
    assert {outcome(one).cause for one in alarms} == {"ErrorRate, a false alarm"}
    found = played(BAD)
    assert not found.false_alarm
    assert found.verdict_at
    assert replace(found, turned_at=found.verdict_at + MINUTE).false_alarm, "before it was any worse"


def test_many_changes_are_counted_by_how_they_ended() -> None:
    many = [Ending(Phase.ROLLED_BACK, "WorseThanStable", timedelta(seconds=60 + n), 10.0 + n) for n in range(9)] + [
        Ending(Phase.COMPLETED, "", None, 100.0)
    ]
    random.Random(1).shuffle(many)
    _, _, back, completed = summary(many)
    assert back.split() == ["9", "(90%)", "RolledBack", "WorseThanStable", "64", "s", "67", "s", "14", "17"]
    assert completed.split() == ["1", "(10%)", "Completed", "100", "100"]
    assert p50_and_p90([5.0]) == (5.0, 5.0)
    assert outcome(played(BAD)).cause == "WorseThanStable"
