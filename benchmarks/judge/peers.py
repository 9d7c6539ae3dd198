"""The rules of others, as their sources and documents state them (ANALYSIS of each: docs/analysis.md).

Each takes a scenario and gives when (seconds since the start, NaN: never) it takes each of many rollouts back.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.judge.world import CANARY, FIRST_HALF, SCRAPE, SECOND_HALF, SLOT, Floats, Scenario, World

STEPS = (0.1, 0.5, 1.0)
STEP = 600
ROLLOUT = len(STEPS) * STEP
BOTH_HALVES = (FIRST_HALF, SECOND_HALF)
LIMIT = 0.01


@dataclass(frozen=True)
class Played:
    """What became of many rollouts. `found_at` NaN: promoted. `why`: which of several rules found it."""

    found_at: Floats
    failed: Floats
    why: tuple[str, ...] = ()


Rule = Callable[[Scenario, int, np.random.Generator], Played]


def by_clock(judge: Callable[[World], Floats]) -> Rule:
    """A rule that has no say in the pace of the steps."""

    def play(scenario: Scenario, rollouts: int, random: np.random.Generator) -> Played:
        world = World(scenario, rollouts, random)
        for weight in STEPS:
            world.play(np.full(rollouts, weight), STEP // SLOT)
        found_at = judge(world)
        return Played(found_at, world.failed_until(found_at))

    return play


def _count_to(needed: int, failing: list[tuple[float, Floats]], rollouts: int) -> Floats:
    """When the failing measurements were that many, and it took effect a slot later."""
    counts, found_at = np.zeros(rollouts), np.full(rollouts, np.nan)
    for at, fails in failing:
        counts += fails
        found_at = np.where(np.isnan(found_at) & (counts >= needed), at + SLOT, found_at)
    return found_at


def argo(*, first: int, interval: int, window: float, success: float, failure_limit: int) -> Rule:
    """An AnalysisTemplate beside the steps: it fails when more than `failure_limit` measurements failed; NaN fails."""

    def judge(world: World) -> Floats:
        failing = []
        for at in range(first, ROLLOUT + 1, interval):
            bad, total = world.seen(at, window, [CANARY])
            ratio = np.divide(total - bad, total, out=np.full(world.rollouts, np.nan), where=total > 0)
            failing.append((float(at), (~(ratio >= success)).astype(float)))
        return _count_to(failure_limit + 1, failing, world.rollouts)

    return by_clock(judge)


def flagger(*, interval: int, threshold: int, weights: tuple[float, ...], checks: int) -> Rule:
    """A ticker: a check that fails, or finds no requests, halts the steps for a tick and is never forgotten; the tick
    after the last one that is allowed takes the canary back. `checks`: passing ones for each weight.
    """

    def play(scenario: Scenario, rollouts: int, random: np.random.Generator) -> Played:
        world = World(scenario, rollouts, random)
        passed, failed = np.zeros(rollouts), np.zeros(rollouts)
        found_at, end_at = np.full(rollouts, np.nan), np.full(rollouts, np.nan)
        table = np.array([*weights, weights[-1]])
        at = 0
        while np.isnan(end_at).any() and at < 2 * ROLLOUT:
            world.play(table[np.minimum(passed // checks, len(weights)).astype(int)], interval // SLOT)
            at += interval
            running = np.isnan(end_at)
            out = running & (failed >= threshold)
            found_at, end_at = np.where(out, at + SLOT, found_at), np.where(out, at, end_at)
            bad, total = world.seen(at, 60, [CANARY])
            good = (total > 0) & (bad <= (1 - 0.99) * total)
            passed += running & ~out & good
            failed += running & ~out & ~good
            end_at = np.where(np.isnan(end_at) & (passed >= checks * len(weights)), at, end_at)
        return Played(found_at, world.failed_until(np.where(np.isnan(found_at), end_at, found_at)))

    return play


def kayenta(world: World) -> Floats:
    """Every 5 minutes over all minutes so far: Mann-Whitney on the two series of ratios, at 98 %."""
    minutes = ROLLOUT // 60
    lag = int(world.scenario.lag)
    series = []
    for targets in ([CANARY], BOTH_HALVES):
        counts = [world.seen(60 * (m + 1) + lag, 60, targets) for m in range(minutes)]
        with np.errstate(invalid="ignore", divide="ignore"):
            series.append(np.stack([bad / total for bad, total in counts], axis=1))
    canary, stable = series
    failing = []
    for at in range(300, ROLLOUT + 1, 300):
        known = (at - lag) // 60
        fails = [_high(c[:known], s[:known]) for c, s in zip(canary, stable, strict=True)]
        failing.append((float(at), np.array(fails, dtype=float)))
    return _count_to(1, failing, world.rollouts)


def _high(canary: Floats, stable: Floats) -> bool:
    """Whether the canary is High: a lower bound of the shift above a quarter of it, and a mean that is not lower."""
    x, y = canary[~np.isnan(canary)], stable[~np.isnan(stable)]
    if len(x) < 2 or len(y) < 2:
        return False
    shifts = np.sort((x[:, None] - y[None, :]).ravel())
    if shifts[-1] == shifts[0]:
        return False
    rank = max(_rank(len(x), len(y)), 1)
    return bool(shifts[rank - 1] > 0.25 * abs(np.median(shifts)) and x.mean() >= y.mean())


@functools.cache
def _rank(m: int, n: int, tail: float = 0.01) -> int:
    """The quantile of Mann-Whitney's statistic under equal distributions."""
    ways = np.zeros(m * n + 1)
    ways[0] = 1
    # Gaussian binomial coefficient, by multiplying with (1 - q^(n+i)) and dividing by (1 - q^i).
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            ways[u] -= ways[u - n - i]
        for u in range(i, m * n + 1):
            ways[u] += ways[u - i]
    return int(np.searchsorted(np.cumsum(ways) / math.comb(m + n, m), tail))


PEERS: dict[str, Rule] = {
    "Flagger 60s x5": flagger(interval=60, threshold=5, weights=STEPS, checks=10),
    "Flagger's own schedule": flagger(interval=60, threshold=5, weights=(0.1, 0.2, 0.3, 0.4, 0.5), checks=1),
    "Flagger 10s x10": flagger(interval=10, threshold=10, weights=STEPS, checks=60),
    "Argo docs": argo(first=60, interval=300, window=30 + SCRAPE, success=0.95, failure_limit=3),
    "Argo tuned": argo(first=60, interval=60, window=120, success=0.99, failure_limit=3),
    "Kayenta 5 min": by_clock(kayenta),
}
