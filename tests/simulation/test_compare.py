"""The canary beside stable, in the real loop over virtual time: sooner than the limits, and never without evidence."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.core import compare, gates
from controller.core.blocks import History
from controller.core.model import (
    Change,
    Comparison,
    Evidence,
    Measurements,
    Observation,
    Phase,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import Analysis, ChangeType, Statistical
from controller.core.samples import Arm, Sample
from controller.core.sequential import begin
from tests.simulation.test_world import HOUR, play, policy, without
from tests.simulation.world import BEGIN, Trouble, World

ON, OBSERVED = (policy("normal", analysis=Analysis(mode)) for mode in (Statistical.ON, Statistical.OBSERVE))
ERRORS = Trouble(errors_from=120, usual_ratio=0.001)


def went_back(state: State) -> float:
    """Seconds from the start to the verdict."""
    assert state.phase is Phase.ROLLED_BACK
    return (next(r for r in state.history if r.phase is Phase.ROLLING_BACK).at - BEGIN).total_seconds()


def compared(state: State) -> Evidence:
    (found,) = (e for e in state.evidence if e.rule == "errors-vs-stable")
    return found


# --- It acts sooner ---


@pytest.mark.parametrize(("ratio", "within"), [(1.0, 60), (0.2, 75), (0.05, 135)])
def test_errors_that_stable_has_not_go_back_long_before_five_minutes(ratio: float, within: float) -> None:
    done = play(World(ON, replace(ERRORS, error_ratio=ratio)))
    assert (done.cause, done.rejected) == ("WorseThanStable", True)
    assert went_back(done) - 120 <= within
    assert compared(done).verdict is Verdict.FAIL


def test_a_version_that_stays_below_the_limit_but_is_far_worse_is_found() -> None:
    done = play(World(ON, replace(ERRORS, error_ratio=0.007, rps=500)))
    assert done.cause == "WorseThanStable"
    assert play(World(policy("normal"), replace(ERRORS, error_ratio=0.007, rps=500))).phase is Phase.COMPLETED


def test_without_its_rule_the_limit_of_the_process_acts_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, Phase.PROGRESSING, "worse_than_stable")
    done = play(World(ON, ERRORS))
    assert done.cause == "ErrorRate"
    assert went_back(done) > 120 + 300


@pytest.mark.parametrize("start", [25 * 60, 30 * 60])
def test_it_acts_where_stable_has_no_traffic_any_more(start: float) -> None:
    done = play(World(ON, replace(ERRORS, errors_from=start)))
    assert done.cause == "WorseThanStable"
    assert went_back(done) - start < 120
    assert "no stable beside it" in compared(done).message


# --- It does not act without evidence ---


@pytest.mark.parametrize("rps", [0, 0.1, 1, 50, 2000])
@pytest.mark.parametrize("usual", [0.0, 0.001, 0.009])
def test_what_fails_as_much_as_stable_is_no_worse(rps: float, usual: float) -> None:
    done = play(World(ON, Trouble(usual_ratio=usual, rps=rps)))
    assert done.phase is Phase.COMPLETED
    assert not any(c.failed_at for c in done.comparisons)


def test_ninety_seconds_without_prometheus_hold_a_healthy_change_and_no_more() -> None:
    done = play(World(ON, Trouble(usual_ratio=0.001, silent_from=300, silent_until=390)))
    assert done.phase is Phase.COMPLETED


class Holed(World):
    """A fifth of the answers is NaN: that scrape of an arm is none, and the next one has its requests too."""

    def serve(self) -> None:
        before = self.scraped_at
        super().serve()
        for arm, samples in self.samples.items():
            if self.scraped_at != before and self.random.random() < 0.2:
                lost = samples.pop()
                self.counted[arm] = [lost.bad, lost.total]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fifth_of_nan_neither_takes_a_healthy_change_back_nor_spares_a_bad_one(seed: int) -> None:
    healthy, plain = Holed(ON, Trouble(usual_ratio=0.001), seed), World(ON, Trouble(usual_ratio=0.001), seed)
    done, usual = play(healthy), play(plain)
    assert done.phase is Phase.COMPLETED
    assert not any(c.failed_at for c in done.comparisons)
    assert len(healthy.samples["canary"]) < 0.9 * len(plain.samples["canary"])
    assert done.ended_at
    assert usual.ended_at
    assert done.ended_at - usual.ended_at < timedelta(minutes=3), "it may wait for an answer, and no longer"
    bad = play(Holed(ON, ERRORS, seed))
    assert bad.cause == "WorseThanStable"
    assert went_back(bad) - 120 <= 150


@pytest.mark.parametrize("restarts", [(150,), (130, 140, 150, 160, 170, 180)])
def test_restarts_change_nothing_about_the_moment(restarts: tuple[float, ...]) -> None:
    plain = play(World(ON, ERRORS))
    assert went_back(play(World(ON, replace(ERRORS, restarts=restarts)))) == went_back(plain)


# --- Observed, or only doubted ---


def test_where_it_is_observed_it_says_what_it_would_have_done() -> None:
    done = play(World(OBSERVED, ERRORS))
    assert done.cause == "ErrorRate"
    told = compared(done)
    assert (told.verdict, told.message.endswith("; only observed, by policy")) == (Verdict.FAIL, True)
    (first,) = (c for c in done.comparisons if c.rule == "errors-vs-stable")
    assert first.failed_at
    assert first.failed_at - BEGIN < timedelta(seconds=120 + 90)


def test_evidence_that_is_outweighed_later_fails_no_more() -> None:
    """A change that cannot go back goes on then; what is observed stays said."""
    good = [Sample(BEGIN + timedelta(seconds=15 * n), 0.0, 750.0) for n in range(1, 200)]
    bad = [replace(sample, bad=20.0) for sample in good[:4]]
    stable = Arm(tuple(replace(sample, bad=7.0, total=6750.0) for sample in good), scraped_every=timedelta(seconds=15))
    begun = Comparison("errors-vs-stable", "shop", (begin(History(), BEGIN),))
    terms = compare.stakes(begun, ON)
    failing = compare.extend(begun, [(Arm(tuple(bad)), stable)], terms, BEGIN, BEGIN, BEGIN + timedelta(minutes=1))
    later = compare.extend(failing, [(Arm((*bad, *good[4:])), stable)], terms, BEGIN, BEGIN, BEGIN + HOUR)
    assert failing.failed_at == later.failed_at == BEGIN + timedelta(minutes=1)
    verdicts = [compare.evidence(c, policy, fresh=True).verdict for c in (failing, later) for policy in (ON, OBSERVED)]
    assert verdicts == [Verdict.FAIL, Verdict.FAIL, Verdict.PASS, Verdict.FAIL]


def test_with_doubt_nothing_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of errors below the limit, which stable has not, is too little to go back, and too much to go on."""
    burst = Trouble(errors_from=540, errors_until=600, error_ratio=0.008, usual_ratio=0.001, rps=500)
    second = stepped(play(World(ON, burst)), 2)
    without(monkeypatch, Phase.PROGRESSING, "suspicious")
    assert stepped(play(World(ON, burst)), 2) < second


def stepped(state: State, step: int) -> float:
    assert state.phase is Phase.COMPLETED, state.cause
    return (next(r for r in state.history if r.step == step).at - BEGIN).total_seconds()


# --- No requests, no metrics ---


def test_a_canary_that_gets_no_requests_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    done = play(World(ON, Trouble(unanswered=True)))
    assert (done.cause, done.rejected) == ("NoTraffic", True)
    assert 300 < went_back(done) < 340
    without(monkeypatch, Phase.PROGRESSING, "no_traffic")
    held = play(World(ON, Trouble(unanswered=True)), HOUR)
    assert (held.phase, held.step, held.reason) == (Phase.PROGRESSING, 1, "NoTraffic")
    without(monkeypatch, Phase.PROGRESSING, "no_traffic_yet")
    assert play(World(ON, Trouble(unanswered=True))).phase is Phase.COMPLETED, "on no evidence at all"


def test_what_prometheus_does_not_know_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    held = play(World(ON, Trouble(unseen=True)), HOUR)
    assert (held.phase, held.reason) == (Phase.WAITING, "NoMetrics")
    assert "the preset envoy finds nothing of shop in Prometheus" in held.message
    without(monkeypatch, Phase.WAITING, "unseen")
    assert play(World(ON, Trouble(unseen=True)), HOUR).phase is not Phase.WAITING


def test_a_source_that_does_not_say_how_long_requests_take_is_found_before_the_start() -> None:
    class Blind(World):
        """Its policy has an SLO with slowerThan, and its source has no histogram: what the source says of that."""

        def measurements(self) -> Measurements:
            return replace(super().measurements(), problem="NoHistogram: take slowerThan out of the ChangePolicy")

    held = play(Blind(ON), HOUR)
    assert (held.phase, held.reason) == (Phase.WAITING, "NoHistogram")
    assert held.started_at is None


def test_an_emergency_starts_all_the_same() -> None:
    target = Target("shop", "uid", "new", Strategy.CANARY, stable_revision="old", replicas=10)
    waiting, blind = State(targets=(target,)), Measurements(BEGIN, {("shop", "error-rate", "stable"): Arm()})
    for kind, reason in ((ChangeType.NORMAL, "NoMetrics"), (ChangeType.EMERGENCY, None)):
        change = Change("demo", "chg-20261123-001", "CHG-20261123-001", kind)
        found = gates.unseen(waiting, Observation(change, {}, ON, measurements=blind), ON, BEGIN)
        assert (found and found.reason) == reason
