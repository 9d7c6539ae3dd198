"""The requests that do not exist are as many, and fail as often and in such clusters, as the scenario says."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import fmean, variance

import pytest

from controller.core.blocks import recall
from controller.core.policy import ErrorRate, Incidents, Question
from controller.core.samples import Arm
from controller.lab.cluster import Server
from controller.lab.commands import Noise
from controller.lab.service import NOISES, Scenario, Service, binomial, geometric, poisson
from controller.metrics.arms import Subject
from controller.metrics.presets import PRESETS

BEGIN = datetime(2026, 11, 23, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
STABLE = tuple(Server(f"shop-old-{i}", "shop-old", False, 0.09) for i in range(10))
CANARY = (Server("shop-canary-0", "shop-canary", True, 0.1),)
SCENARIO = Scenario(rps=100, stable_errors=0.005, canary_errors=0.05)


def served(scenario: Scenario, preset: str = "envoy", lasts: timedelta = HOUR, seed: str = "1") -> Service:
    service = Service(scenario, PRESETS[preset], BEGIN, seed)
    service.begin(BEGIN)
    for n in range(1, lasts // timedelta(seconds=5) + 1):
        service.serve(BEGIN + n * timedelta(seconds=5), (*STABLE, *CANARY))
    return service


def arms(service: Service, preset: str = "envoy", at: datetime = BEGIN + HOUR) -> dict[str, Arm]:
    slow = Question("slow", timedelta(seconds=1))
    about = Subject(
        "lab", "c", "shop", (ErrorRate(), slow), Incidents(), PRESETS[preset], (), "shop-canary-", "shop-old-", BEGIN
    )
    found = service.measure([about], at).arms
    assert all(sample.bad == 0 < sample.total for sample in found["shop", "slow", "stable"].samples)
    return {side: found["shop", "error-rate", side] for side in ("canary", "stable")}


@pytest.mark.parametrize("noise", NOISES)
def test_its_shares_are_those_of_the_scenario(noise: str) -> None:
    service = served(replace(SCENARIO, noise=NOISES[noise]), lasts=6 * HOUR)
    requests = 100 * 6 * HOUR.total_seconds()
    shocks = 0.03 * 45 / 600 if NOISES[noise].shock else 0.0
    assert service.stable.total + service.new.total == pytest.approx(requests, rel=0.3 if NOISES[noise].swing else 0.01)
    assert service.new.total / (service.stable.total + service.new.total) == pytest.approx(0.1, rel=0.05)
    assert service.stable.ratio == pytest.approx(0.005 + shocks, rel=0.3)
    assert service.new.ratio == pytest.approx(0.05 + shocks, rel=0.2)


def test_the_new_version_is_as_good_as_stable_until_its_onset() -> None:
    scenario = replace(SCENARIO, onset=HOUR / 2, canary_errors=1.0)
    assert served(scenario, lasts=HOUR / 2).new.ratio == pytest.approx(0.005, abs=0.003)
    after = served(scenario)
    assert after.new.ratio == pytest.approx(0.5, abs=0.02)
    assert after.stable.ratio == pytest.approx(0.005, rel=0.2)


def test_the_same_seed_gives_the_same_requests() -> None:
    first, again, other = (served(SCENARIO, lasts=HOUR / 6, seed=seed) for seed in "112")
    assert (first.new, first.stable) == (again.new, again.stable)
    assert first.stable != other.stable


def test_scrapes_see_all_requests_late() -> None:
    service = served(SCENARIO)
    known, later = arms(service), arms(service, at=BEGIN + HOUR + SCENARIO.lag)
    for side, counts in (("canary", service.new), ("stable", service.stable)):
        assert sum(s.total for s in later[side].samples) == pytest.approx(counts.total, rel=0.01)
        assert sum(s.bad for s in later[side].samples) == pytest.approx(counts.bad, rel=0.05)
        newest = known[side].fresh_at
        assert newest is not None
        assert SCENARIO.lag <= BEGIN + HOUR - newest < SCENARIO.lag + SCENARIO.scrape
        assert {b.at - a.at for a, b in zip(known[side].samples, known[side].samples[1:], strict=False)} == {
            SCENARIO.scrape
        }


def test_pods_count_for_themselves_where_the_source_tells_them_apart() -> None:
    by_pod = arms(served(SCENARIO, "pods"), "pods")["stable"].samples
    assert {pod for sample in by_pod for pod, _, _ in sample.pods} == {server.name for server in STABLE}
    assert len({sample.at.second for sample in by_pod}) > 4, "each pod is scraped at a moment of its own"
    assert not any(sample.pods for sample in arms(served(SCENARIO))["stable"].samples)


def test_clusters_and_hiccups_are_what_dispersion_measures() -> None:
    def phi(noise: str) -> float:
        scenario = replace(SCENARIO, rps=500, noise=NOISES[noise])
        return recall(arms(served(scenario, "pods"), "pods")["stable"]).dispersion.phi

    assert phi("clean") < 1.3
    assert phi("cluster") > 2.5
    assert phi("hiccup") > 1.5


def test_the_noises_that_can_be_asked_for() -> None:
    assert list(Noise) == list(NOISES)


@pytest.mark.parametrize(("n", "p"), [(5, 0.3), (40, 0.9), (1000, 0.004), (1000, 0.5), (10_000, 0.999), (7, 0.0)])
def test_a_binomial_has_its_mean_and_variance(n: int, p: float) -> None:
    source = random.Random(1)
    drawn = [binomial(source, n, p) for _ in range(20_000)]
    assert all(0 <= value <= n for value in drawn)
    assert fmean(drawn) == pytest.approx(n * p, rel=0.02)
    assert variance(drawn) == pytest.approx(n * p * (1 - p), rel=0.1)


@pytest.mark.parametrize("mean", [0.0, 0.2, 3, 49, 51, 5000])
def test_a_poisson_has_its_mean_and_variance(mean: float) -> None:
    source = random.Random(1)
    drawn = [poisson(source, mean) for _ in range(20_000)]
    assert fmean(drawn) == pytest.approx(mean, rel=0.03)
    assert variance(drawn) == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize("p", [0.01, 0.25, 1.0])
def test_a_geometric_has_its_mean(p: float) -> None:
    source = random.Random(1)
    drawn = [geometric(source, p) for _ in range(20_000)]
    assert min(drawn) >= 1
    assert fmean(drawn) == pytest.approx(1 / p, rel=0.03)
