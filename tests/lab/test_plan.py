"""What `serin plan` says of a policy is what the policy then does."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from controller.core.blocks import Counts
from controller.core.model import Measurements, Phase
from controller.core.policy import Analysis, LowTraffic, Policy, Source, Statistical, Step
from controller.core.recurrence import Recurrence
from controller.core.samples import Arm, Sample
from controller.core.windows import Window
from controller.lab import LabError
from controller.lab.commands import app
from controller.lab.plan import Today, dwell, seen, stretches, supposed, told
from controller.lab.policies import load
from controller.lab.service import Scenario
from controller.lab.simulate import simulate

KIND, POLICY = load("standard")
NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SCRAPE = timedelta(seconds=15)


def today(rps: float = 50, errors: float = 0.001, policy: Policy = POLICY) -> Today:
    return supposed(policy, rps, errors, SCRAPE)


def said(policy: Policy = POLICY, about: Today | None = None) -> list[str]:
    return list(told(policy, about or today(), NOW))


def warned(policy: Policy = POLICY, about: Today | None = None) -> list[str]:
    return [line.removeprefix("warning: ") for line in said(policy, about) if line.startswith("warning: ")]


# --- How long ---


@pytest.mark.parametrize(
    ("rps", "low_traffic", "minutes"),
    [
        (50, LowTraffic.CONTINUE, 5),
        (2, LowTraffic.CONTINUE, 6.25),
        (0.1, LowTraffic.CONTINUE, 10),
        (0, LowTraffic.CONTINUE, 10),
        (50, LowTraffic.HOLD, 5),
        (0.1, LowTraffic.HOLD, 125),
        (0, LowTraffic.HOLD, None),
    ],
)
def test_few_requests_prolong_a_step(rps: float, low_traffic: LowTraffic, minutes: float | None) -> None:
    found = dwell(replace(POLICY, low_traffic=low_traffic), Step(10, 5 * MINUTE), rps)
    assert found == (None if minutes is None else minutes * MINUTE)


@pytest.mark.parametrize("rps", [50.0, 2.0, 0.1])
def test_the_steps_of_a_played_change_last_as_long(rps: float) -> None:
    expected = [stretch.lasts for stretch in stretches(POLICY, today(rps))]
    played = simulate(POLICY, KIND, Scenario(rps, 0.001, 0.001), "7")
    entered = [r.at for r in played.end.history if r.phase in (Phase.PROGRESSING, Phase.PROMOTING)][:4]
    for step, began_at, ended_at, lasts in zip(POLICY.steps, entered, entered[1:], expected, strict=False):
        assert lasts
        assert max(step.bake, lasts * 0.75) <= ended_at - began_at <= lasts * 1.25 + MINUTE


# --- What it catches ---


def caught(rps: float, **changes: Analysis) -> float | None:
    return stretches(replace(POLICY, **changes), today(rps))[-1].caught  # type: ignore[arg-type]


def test_more_requests_and_more_steps_catch_less() -> None:
    found = stretches(POLICY, today())
    shares = [stretch.caught or 1 for stretch in found]
    assert shares == sorted(shares, reverse=True)
    assert (caught(5) or 1) > shares[-1] > (caught(500) or 1) > 1.2 * 0.001
    assert (caught(50, analysis=Analysis(tolerated=3.0)) or 1) > shares[-1]


def test_what_it_promises_is_kept_by_played_changes() -> None:
    """Nine of ten such versions are caught; of those that fail half as much above what is tolerated, fewer."""
    share = caught(50)
    assert share
    scenario = Scenario(50, 0.001, share)
    causes = [simulate(POLICY, KIND, scenario, f"plan/{n}").end.cause for n in range(12)]
    assert causes.count("WorseThanStable") >= 9
    scenario = Scenario(50, 0.001, 0.002)
    causes = [simulate(POLICY, KIND, scenario, f"plan/{n}").end.cause for n in range(6)]
    assert causes.count("WorseThanStable") <= 3


def test_without_the_comparison_only_the_limit_is_named() -> None:
    lines = said(replace(POLICY, analysis=Analysis(Statistical.OFF)))
    assert "The comparison with stable is off: only a limit takes a version back (errors: 1% for 5m)." in lines
    assert all(line.endswith("none") for line in lines[1:4])
    assert "It is only observed: a limit alone takes a version back." in said(
        replace(POLICY, analysis=Analysis(Statistical.OBSERVE))
    )


def test_nothing_is_caught_without_requests() -> None:
    lines = said(about=today(0))
    assert "At this rate the comparison with stable catches no version; the limit does (errors: 1% for 5m)." in lines


# --- What it warns of ---


def test_a_good_policy_with_enough_requests_needs_no_warning() -> None:
    assert warned(about=today(500)) == []


def starts(lines: Sequence[str], beginning: str) -> str:
    [found] = [line for line in lines if line.startswith(beginning)]
    return found


def test_limits_below_what_stable_does() -> None:
    lines = warned(about=today(500, 0.02))
    assert starts(lines, "spec.errorRate: ").endswith("limit 1%: no change starts (StableOutOfBudget)")
    assert starts(lines, "spec.slos[0] (availability): ").endswith("limit 1.4%: no change starts (StableOutOfBudget)")
    assert "a bad minute of stable's own is above it" in starts(warned(about=today(500, 0.006)), "spec.errorRate: ")
    played = simulate(POLICY, KIND, Scenario(500, 0.02, 0.02), "7")
    assert played.end.reason == "StableOutOfBudget", "it is as it says"


def test_limits_that_cannot_be_judged_with_the_requests_there_are() -> None:
    few = starts(warned(about=today(5)), "spec.errorRate.window: ")
    assert "30 requests in 1m at 10 %, limit 1%: one bad one is above it" in few
    assert few.endswith("write 10m")
    mended = replace(POLICY, error_rate=replace(POLICY.error_rate, window=10 * MINUTE))
    assert not any(line.startswith("spec.errorRate") for line in warned(mended, today(5)))
    assert starts(warned(about=today(0.5)), "spec.errorRate.window: ").endswith("the comparison has to find it")
    some = starts(warned(about=today(20)), "spec.errorRate.window: ")
    assert "one bad one" not in some
    assert some.endswith("write 3m")


def test_steps_without_enough_requests() -> None:
    lines = warned(about=today(0.5))
    assert starts(lines, "step 1: ") == (
        "step 1: 30 of the 75 requests of spec.minRequests come in 10m: it goes on marked LowEvidence; "
        "give it a larger weight"
    )
    held = warned(replace(POLICY, low_traffic=LowTraffic.HOLD), today(0))
    assert starts(held, "step 3: ").endswith("the change stays there; give it a larger weight")


def test_data_that_is_scraped_too_seldom() -> None:
    slow = replace(today(500), scraped_every=MINUTE)
    assert starts(warned(about=slow), "spec.metrics.staleAfter is 1m, and scrapes are 1m apart").endswith("at least 3m")
    assert warned(replace(POLICY, metrics=Source("envoy", stale_after=3 * MINUTE)), slow) == []


def test_windows_in_which_no_change_fits() -> None:
    short = Recurrence("mornings", "FREQ=DAILY", "09:00", timedelta(minutes=30), "UTC")
    line = starts(warned(replace(POLICY, window=Window(opens=(short,))), today(500)), "spec.window: ")
    assert "is shorter than the 50m30s that a change may need: none starts in it" in line
    long = replace(short, duration=timedelta(hours=2))
    assert warned(replace(POLICY, window=Window(opens=(long,))), today(500)) == []


# --- What Prometheus has seen ---


def test_a_service_as_prometheus_has_seen_it() -> None:
    samples = tuple(Sample(NOW + n * SCRAPE, 3.0, 300.0) for n in range(100))
    slow = tuple(Sample(NOW + n * SCRAPE, 30.0, 300.0) for n in range(100))
    arms = {
        ("shop", rule.name, "stable"): Arm(slow if rule.slower_than else samples, NOW, SCRAPE)
        for rule in POLICY.request_rules
    }
    found = seen(POLICY, "shop", Measurements(NOW, arms))
    assert found.rps == pytest.approx(20)
    assert found.bad == pytest.approx({"error-rate": 0.01, "availability": 0.01, "latency": 0.1})
    assert found.history.stable == Counts(300, 30_000)
    assert "20 requests/s, of which stable fails 1%" in found.describe()
    assert "answers 10% of its requests slower than 1s, limit 14%" in starts(
        warned(about=found), "spec.slos[1] (latency): "
    )


def test_a_service_that_prometheus_has_not_seen_is_an_error() -> None:
    with pytest.raises(LabError, match="the preset envoy finds no requests of shop in Prometheus: "):
        seen(POLICY, "shop", Measurements(NOW))
    with pytest.raises(LabError, match="PrometheusUnreachable"):
        seen(POLICY, "shop", Measurements(NOW, problem="PrometheusUnreachable: no answer"))


def test_as_people_type_it() -> None:
    def ran(*arguments: str) -> str:
        return CliRunner().invoke(app, ["plan", "--policy", "standard", *arguments]).output

    first, _, heading, *rest = ran("--rps", "50", "--stable-errors", "0.1%").splitlines()
    assert first == "The standard policy: 50 requests/s, of which stable fails 0.1%; scraped every 15s"
    assert heading.split()[:4] == ["step", "weight", "requests/s", "bake"]
    assert rest[0].split()[:7] == ["1", "10", "%", "5", "5m", "5m", "1.1%"]
    assert "give both, or none" in ran("--deployment", "a/b")
