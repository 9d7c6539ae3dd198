"""controller.core.sequential: a bad canary is found early, and a good one hardly ever called bad."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.blocks import Block, Counts, Dispersion, History
from controller.core.codec import decode, encode
from controller.core.samples import Arm, Sample
from controller.core.sequential import (
    ERRORS,
    LATENCY,
    Monitor,
    Terms,
    begin,
    burning,
    extend,
    fails,
    log_factors,
    mean_e_value,
    suspects,
)

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
SCRAPE = timedelta(seconds=15)
CALM = History(Counts(18, 18_000), dispersion=Dispersion(30.0, 30), spacing=SCRAPE * 2 // 3)
UNCAPPED = replace(ERRORS, pace=math.inf, cap=math.inf, shock=math.inf)
"""Without what only lowers the evidence."""


def block(
    n: int, canary: tuple[float, float], stable: tuple[float, float] = (0, 0), spread: float | None = None
) -> Block:
    return Block(START + n * SCRAPE, Counts(*canary), Counts(*stable), spread)


def steady(canary: tuple[float, float], stable: tuple[float, float], first: int = 1, n: int = 120) -> list[Block]:
    return [block(first + i, canary, stable) for i in range(n)]


def judged(blocks: Iterable[Block], terms: Terms = ERRORS, history: History = CALM) -> Monitor:
    return extend(begin(history, START), blocks, START, terms)


def blocks_to_fail(blocks: Sequence[Block], terms: Terms = ERRORS, history: History = CALM) -> int | None:
    monitor = begin(history, START)
    for n, each in enumerate(blocks, 1):
        monitor = extend(monitor, [each], START, terms)
        if fails([monitor], terms):
            return n
    return None


# --- Found early ---


@pytest.mark.parametrize(
    ("canary", "found_after"),
    [((75, 75), 3), ((15, 75), 3), ((4, 75), 3), ((1.1, 75), 6)],
    ids=["all", "20 %", "5 %", "1.5 %"],
)
def test_a_bad_canary_is_found(canary: tuple[float, float], found_after: int) -> None:
    """50 requests/s, 10 % of them to the canary, stable at 0.1 %."""
    assert blocks_to_fail(steady(canary, (0.675, 675))) == found_after


def test_a_canary_like_stable_gains_nothing() -> None:
    monitor = judged(steady((0.75, 75), (6.75, 675)))
    assert monitor.e_value < 1
    assert not suspects([monitor], ERRORS)


def test_a_service_wide_bad_day_is_not_the_canarys_fault() -> None:
    assert blocks_to_fail(steady((37, 75), (337, 675))) is None


def test_an_onset_late_in_the_rollout_is_found() -> None:
    late = [*steady((0.1, 75), (0.675, 675)), *steady((15, 75), (0.675, 675), first=121)]
    assert blocks_to_fail(late) in range(122, 126)
    never_staked_again = replace(ERRORS, stake=0.0)
    assert (blocks_to_fail(late, never_staked_again) or 999) > (blocks_to_fail(late) or 999)


# --- The same, however it is cut, stopped and restored ---

BAD = st.tuples(st.integers(0, 20), st.integers(0, 200)).map(lambda c: (float(min(c)), float(c[1])))
BLOCKS = st.lists(st.tuples(BAD, BAD, st.one_of(st.none(), st.floats(0, 20))), max_size=60).map(
    lambda drawn: [block(n, *each) for n, each in enumerate(drawn, 1)]
)


def saved(monitor: Monitor) -> Monitor:
    """As status gives it back."""
    return decode(Monitor, json.loads(json.dumps(encode(monitor))))


@given(blocks=BLOCKS, cuts=st.lists(st.integers(0, 60)), steps=st.sets(st.integers(0, 60), max_size=3))
def test_a_restored_monitor_never_stopped(blocks: list[Block], cuts: list[int], steps: set[int]) -> None:
    """And it does not matter how many blocks a call brings, nor that a step began in between."""
    began = [START, *(START + n * SCRAPE for n in sorted(steps))]
    whole = begin(CALM, START)
    for each in blocks:
        whole = extend(whole, [each], max(b for b in began if b < each.at), ERRORS)
    monitor = begin(CALM, START)
    for end in [*sorted(cuts), len(blocks)]:
        left = [each for each in blocks[:end] if each.at > monitor.at]
        for step_at, following in zip(began, [*began[1:], START + 999 * SCRAPE], strict=True):
            monitor = extend(saved(monitor), [b for b in left if step_at < b.at <= following], step_at, ERRORS)
    assert monitor == whole


@given(blocks=BLOCKS, n=st.integers(0, 59), share=st.floats(0, 1))
def test_more_bad_requests_of_the_canary_never_lower_the_evidence(blocks: list[Block], n: int, share: float) -> None:
    def worse(b: Block) -> Block:
        return replace(b, canary=Counts(b.canary.bad + share * (b.canary.total - b.canary.bad), b.canary.total))

    more = [worse(b) if i == n else b for i, b in enumerate(blocks)]
    for terms in (ERRORS, *LATENCY):
        assert judged(more, terms).e_value >= judged(blocks, terms).e_value * (1 - 1e-12)


@given(parts=st.lists(st.integers(1, 5), min_size=1, max_size=6), bad=st.floats(0, 9), of_stable=st.floats(0, 9))
def test_splitting_a_block_changes_nothing_but_the_caps(parts: list[int], bad: float, of_stable: float) -> None:
    monitor = begin(History(), START)
    whole = sum(parts)
    split = [block(1, (bad * p / whole, 10 * p), (of_stable * p / whole, 90 * p)) for p in parts]
    together = log_factors(block(1, (bad, 10 * whole), (of_stable, 90 * whole)), monitor, ERRORS)
    for k, factor in enumerate(together):
        assert sum(log_factors(b, monitor, ERRORS)[k] for b in split) == pytest.approx(factor, abs=1e-9)


def test_the_state_fits_in_status() -> None:
    monitor = judged(steady((1.3, 77), (6.7, 677)))
    assert len(json.dumps(encode(monitor), separators=(",", ":"))) < 600


# --- What each protection is for: with it no false alarm, without it one ---


def test_one_burst_in_one_scrape_can_never_fail() -> None:
    """Not the first block of a step, nor a later one, nor after a suspicion that is allowed to advance."""
    for before in range(0, 60):
        for errors in (1, 5, 75):
            burst = [*steady((0, 75), (0.6, 675), n=before), block(before + 1, (errors, 75), (0.6, 675))]
            after = steady((0, 75), (0.6, 675), first=before + 2, n=20)
            assert blocks_to_fail([*burst, *after]) is None
    assert blocks_to_fail([block(1, (75, 75), (0.6, 675))], UNCAPPED) == 1


def test_a_cold_start_of_two_scrapes_does_not_fail() -> None:
    cold = [*steady((4, 75), (0.6, 675), n=2), *steady((0, 75), (0.6, 675), first=3, n=20)]
    assert blocks_to_fail(cold) is None
    assert blocks_to_fail(cold, replace(ERRORS, warm=2.0)) is not None


def test_clusters_of_bad_requests_do_not_fail() -> None:
    """Four blocks in a row with a cluster of 8, which stable's pods have shown before."""
    clustered = History(Counts(180, 18_000), dispersion=Dispersion(30 * 8.0, 30))
    bursts = steady((8, 750), (8, 6750), n=4)
    assert blocks_to_fail(bursts, history=clustered) is None
    assert blocks_to_fail(bursts, history=replace(clustered, dispersion=Dispersion(30.0, 30))) is not None


def test_dispersion_is_learnt_from_stable_under_way() -> None:
    blocks = [block(n, (0, 75), (9, 675), spread=8.0) for n in range(1, 61)]
    assert judged(blocks).dispersion.phi > 4


def test_a_shock_that_the_canary_sees_a_scrape_later_is_no_evidence() -> None:
    """Both arms fail for a moment; stable was scraped just after it, the canary just before."""
    good = steady((0, 75), (0.6, 675), n=40)
    shock = [block(41, (0, 75), (67, 675)), block(42, (8, 75), (0.6, 675))]
    before = judged(good).e_value
    assert judged([*good, *shock]).e_value <= before
    assert judged([*good, *shock], replace(ERRORS, shock=math.inf)).e_value > before


def test_a_shock_that_stays_is_judged_again() -> None:
    """A monitor that never bets again would be blind for the rest of the rollout."""
    shock = [*steady((0, 75), (0.6, 675), n=20), *steady((70, 75), (67, 675), first=21, n=60)]
    assert blocks_to_fail(shock) is not None


def test_differences_that_are_tolerated_are() -> None:
    """1.2 times as bad as stable, for as long as one likes."""
    many = steady((12 * 5, 1000 * 5), (90 * 5, 9000 * 5), n=1000)
    assert blocks_to_fail(many) is None
    assert blocks_to_fail(many, replace(ERRORS, tolerated=0.8)) is not None


# --- Without stable beside it ---


def alone(bad: float, total: float, n: int) -> Iterator[Block]:
    return (replace(block(i, (bad, total)), alone=True) for i in range(1, n + 1))


def test_alone_only_a_severe_canary_fails() -> None:
    assert blocks_to_fail(list(alone(150, 750, 20))) == 4
    assert blocks_to_fail(list(alone(30, 750, 120))) is None  # 4 %: the five minutes of the process are for that


def test_alone_latency_is_not_judged() -> None:
    assert judged(alone(750, 750, 120), LATENCY[0]).e_value == 1


def test_alone_a_canary_burns_when_both_windows_say_so() -> None:
    def canary(bad: float, total: float = 750, n: int = 24) -> Arm:
        return Arm(tuple(Sample(START + i * SCRAPE, bad, total) for i in range(n)))

    lonely = judged(alone(0, 750, 20))
    assert burning(lonely, canary(60), START, ERRORS) is not None
    assert burning(lonely, canary(15), START, ERRORS) is None  # 2 % is below three times the limit
    assert burning(lonely, canary(1, 5), START - SCRAPE, ERRORS) is None  # 20 %, but not more than 20 in five minutes
    assert burning(judged(steady((0, 75), (0, 675), n=20)), canary(60), START, ERRORS) is None


# --- Steps, and what shares a budget ---


def test_each_step_is_counted_anew() -> None:
    monitor = extend(judged([block(1, (0, 500))]), [block(2, (0, 10))], START + SCRAPE)
    assert (monitor.canary.total, monitor.step_blocks) == (10, 1)


def test_three_latencies_share_a_budget() -> None:
    one = replace(begin(History(), START), rest=0.0, capital=(500.0, 0.0, 0.0, 0.0, 0.0))
    others = [replace(one, capital=(100.0,)), replace(one, capital=(0.0,))]
    assert mean_e_value([one, *others]) == 200
    assert not fails([one, *others], LATENCY[0])
    assert fails([one, one, one], LATENCY[0])


# --- A bounded chance of a false alarm ---


def poisson(random: Random, mean: float) -> int:
    """Knuth's method, in pieces for means that are large."""
    if mean > 30:
        return poisson(random, mean / 2) + poisson(random, mean / 2)
    n, product, least = 0, random.random(), math.exp(-mean)
    while product > least:
        n, product = n + 1, product * random.random()
    return n


def good_rollout(random: Random, stable: float, per_block: float, cluster: int = 1) -> Iterator[Block]:
    """30 minutes at 10, 50 and 90 % of a canary that is exactly as bad as H0 allows; `cluster`: errors at a time."""
    p = ERRORS.tolerated * (stable + ERRORS.slack)
    for n in range(1, 121):
        weight = (0.1, 0.5, 0.9)[(n - 1) // 40]
        canary, stable_s = (
            (float(cluster * poisson(random, ratio * per_block * share / cluster)), per_block * share)
            for ratio, share in ((p, weight), (stable, 1 - weight))
        )
        yield block(n, canary, stable_s)


@pytest.mark.parametrize(
    ("stable", "per_block", "cluster"), [(0.0, 7500, 1), (0.005, 750, 1), (0.05, 750, 1), (0.01, 7500, 4)]
)
def test_at_the_boundary_false_alarms_stay_within_the_budget(stable: float, per_block: float, cluster: int) -> None:
    """Without caps, which only help. 20,000 a cell in benchmarks/judge; as many here as tell 0.7 % from 3 %."""
    random = Random(20261123)
    history = History(dispersion=Dispersion(1000.0 * cluster, 1000))
    rollouts = (list(good_rollout(random, stable, per_block, cluster)) for _ in range(400))
    assert sum(blocks_to_fail(rollout, UNCAPPED, history) is not None for rollout in rollouts) <= 9
