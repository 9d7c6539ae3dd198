"""What the statistics cost the controller: one monitor and one block, and a tick of a thousand changes."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from controller.core.blocks import Block, Counts, Dispersion, History
from controller.core.samples import Arm, Sample
from controller.core.sequential import ERRORS, LATENCY, Monitor, begin, extend, observe

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
SCRAPE = timedelta(seconds=15)
CHANGES, PODS = 1000, 3
HISTORY = History(Counts(18, 18_000), Dispersion(30.0, 30), SCRAPE * 2 // 3)


def update() -> timedelta:
    """CPU time of one update, mean of 100,000."""
    blocks = [
        Block(START + n * SCRAPE, Counts(n % 2, 75.0), Counts(n % 3, 675.0), spread=1.0) for n in range(1, 100_001)
    ]
    monitor = begin(HISTORY, START)
    before = time.process_time()
    extend(monitor, blocks, START)
    return timedelta(seconds=(time.process_time() - before) / len(blocks))


def tick(ticks: int = 10) -> Sequence[timedelta]:
    """CPU time of ticks in which each of a thousand changes has one scrape more: samples to blocks to four monitors."""
    terms = (ERRORS, *LATENCY)
    monitors: list[list[Monitor]] = [[begin(HISTORY, START) for _ in terms] for _ in range(CHANGES)]
    took = []
    for n in range(1, ticks + 1):
        at = START + n * SCRAPE
        canary = Arm((Sample(at, 0.0, 75.0),))
        pods = tuple((f"pod-{p}", float(p), 225.0) for p in range(PODS))
        stable = Arm((Sample(at, sum(p[1] for p in pods), sum(p[2] for p in pods), pods),))
        before = time.process_time()
        for change in monitors:
            change[:] = [observe(m, canary, stable, START, t) for m, t in zip(change, terms, strict=True)]
        took.append(timedelta(seconds=time.process_time() - before))
    return took
