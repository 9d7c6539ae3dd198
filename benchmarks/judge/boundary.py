"""The bound where it is tight: canaries exactly as bad as is tolerated, judged by the product's own monitor."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from controller.core.blocks import Block, Counts, Dispersion, History
from controller.core.sequential import ERRORS, Monitor, Terms, begin, extend, fails

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
BLOCKS = 120
MOMENTS = [START + (n + 1) * timedelta(seconds=15) for n in range(BLOCKS)]
WEIGHTS = np.repeat([0.1, 0.5, 0.9], BLOCKS // 3)
STEPS = [START + n * BLOCKS // 3 * timedelta(seconds=15) for n in range(3)]
UNCAPPED = replace(ERRORS, pace=math.inf, cap=500.0, shock=math.inf, warm=1.0)


@dataclass(frozen=True)
class Cell:
    """`stable`: its bad share. `per_block`: requests of both arms. `cluster`: bad requests at a time, and known to be.
    `shocks`: the bad share goes up to 5 % for three blocks, four times.
    """

    title: str
    stable: float
    per_block: float
    cluster: int = 1
    shocks: bool = False


CELLS = (
    Cell("stable never fails", 0.0, 7500),
    Cell("0.1 %, 50/s", 0.001, 750),
    Cell("0.5 %, 500/s", 0.005, 7500),
    Cell("5 %, 50/s", 0.05, 750),
    Cell("30 %, 50/s", 0.30, 750),
    Cell("0.5 %, shocks of both arms", 0.005, 750, shocks=True),
    Cell("1 %, clusters of 4", 0.01, 7500, cluster=4),
)


def false_alarms(cell: Cell, terms: Terms, runs: int, random: np.random.Generator) -> int:
    """How many of so many rollouts the statistics take back, whatever the number of looks."""
    known = Dispersion(1e6 * cell.cluster, 1_000_000)
    history = History(Counts(cell.stable * 90_000, 90_000), known)
    monitor = begin(history, START)
    return sum(_fails(blocks, replace(monitor, calm=False), terms) for blocks in _rollouts(cell, terms, runs, random))


def _fails(blocks: list[Block], monitor: Monitor, terms: Terms) -> bool:
    for n, block in enumerate(blocks):
        monitor = extend(monitor, [block], STEPS[n * len(STEPS) // BLOCKS], terms)
        if fails([monitor], terms):
            return True
    return False


def _rollouts(cell: Cell, terms: Terms, runs: int, random: np.random.Generator) -> Iterator[list[Block]]:
    shares = np.full(BLOCKS, cell.stable)
    if cell.shocks:
        for first in (20, 38, 75, 110):
            shares[first : first + 3] = 0.05
    tolerated = np.minimum(terms.tolerated * (shares + terms.slack), 1.0)
    for _ in range(runs):
        totals = [random.poisson(cell.per_block * share) for share in (WEIGHTS, 1 - WEIGHTS)]
        arms = []
        for total, share in zip(totals, (tolerated, shares), strict=True):
            bad = cell.cluster * random.binomial(total // cell.cluster, share)
            arms.append([Counts(float(b), float(n)) for b, n in zip(bad, total, strict=True)])
        yield [Block(at, canary, stable) for at, canary, stable in zip(MOMENTS, *arms, strict=True)]
