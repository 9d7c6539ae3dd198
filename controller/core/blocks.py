"""From the samples of two arms to blocks: what both answered in the same stretch of time.

A block ends when both arms have been scraped since the one before, so that neither is judged by what the other has not
shown yet. Lost scrapes only make a block longer. How the stream is cut into calls changes nothing.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from heapq import merge
from itertools import groupby
from operator import itemgetter

from controller.core.samples import Arm, Sample

ALONE_AFTER = timedelta(minutes=1)
"""Without a scrape of stable for so long, the canary is judged without it."""
_PART_OF_SCRAPE = 2 / 3
"""Pods are scraped one after another: a block that ends much sooner than a round of them would count a burst twice."""
_BAD_MIN = 2
"""Fewer bad requests say nothing about how they are spread over pods."""
_PRIOR, _PHI_MAX, _OUTLIER = 10.0, 50.0, 8.0
_INCIDENT, _INCIDENT_BAD_MIN = 4.0, 5.0
"""So many times what is usual, and so many at least, fail in an incident."""
_SLOWER = (0.5, 0.1, 0.01)


@dataclass(frozen=True)
class Counts:
    """Requests, and how many of them were bad."""

    bad: float = 0.0
    total: float = 0.0

    @property
    def ratio(self) -> float:
        return self.bad / self.total if self.total else 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.bad + other.bad, self.total + other.total)


NO_REQUESTS = Counts()


@dataclass(frozen=True)
class Block:
    """What both arms answered in the stretch of time that ended at `at`.

    `spread`: how unevenly stable's bad requests fell on its pods, about 1 if by chance; None: they do not tell.
    `alone`: stable was not scraped.
    """

    at: datetime
    canary: Counts
    stable: Counts = Counts()
    spread: float | None = None
    alone: bool = False


@dataclass(frozen=True)
class Cursor:
    """Where the next block begins, and what of the last one matters for its end."""

    at: datetime
    spacing: timedelta = timedelta()
    first: bool = True
    alone: bool = False


def form(canary: Arm, stable: Arm, cursor: Cursor) -> Iterator[Block]:
    """The blocks that are whole, of samples later than `cursor.at`.

    Each ends at the first moment at which both arms have a sample since the last one, `cursor.spacing` after it at the
    earliest; or, `ALONE_AFTER` without any of stable, at each of the canary's. Goes on from `Cursor(block.at, spacing,
    first=False, alone=block.alone)` as if it had never stopped.
    """
    began_at, earliest_at = cursor.at, cursor.at if cursor.first else cursor.at + cursor.spacing
    alone = cursor.alone
    sides = [[(sample.at, side, sample) for sample in arm.samples] for side, arm in enumerate((canary, stable))]
    pending: tuple[list[Sample], list[Sample]] = [], []
    for at, samples in groupby(merge(*sides, key=itemgetter(0)), key=itemgetter(0)):
        if at <= cursor.at:
            continue
        for _, side, sample in samples:
            pending[side].append(sample)
        of_canary, of_stable = pending
        if of_canary and at >= earliest_at and (of_stable or alone or at - began_at >= ALONE_AFTER):
            alone = not of_stable
            yield Block(at, _sum(of_canary), _sum(of_stable), spread(of_stable), alone)
            began_at, earliest_at, pending = at, at + cursor.spacing, ([], [])


def spread(samples: Iterable[Sample]) -> float | None:
    """How unevenly bad requests fell on the pods: Pearson's statistic over its degrees of freedom.

    Its mean is 1 when each request is bad by chance alone, and the mean size (by request) of clusters when they come in
    clusters of one pod. With two pods it is `(x - fX)² / (Xf(1-f))`. None: fewer than two pods, or than two bad ones.
    """
    return _uneven(_by_pod(samples))


def _by_pod(samples: Iterable[Sample]) -> Collection[Counts]:
    pods: dict[str, Counts] = {}
    for sample in samples:
        for name, bad, total in sample.pods:
            pods[name] = pods.get(name, NO_REQUESTS) + Counts(bad, total)
    return pods.values()


def _uneven(parts: Iterable[Counts]) -> float | None:
    serving = [counts for counts in parts if counts.total > 0]
    every = sum(serving, NO_REQUESTS)
    if len(serving) < 2 or every.bad < _BAD_MIN:
        return None
    expected = [every.ratio * counts.total for counts in serving]
    return sum((c.bad - e) ** 2 / e for c, e in zip(serving, expected, strict=True)) / (len(serving) - 1)


@dataclass(frozen=True)
class Dispersion:
    """How bad requests cluster, from the spreads of blocks so far: their sum and number, with a prior of ten by chance.

    A spread counts as at most `_OUTLIER` times what is known: when all of stable fails for a moment, pods scraped just
    before and just after differ a hundredfold, and that is not how it usually fails. What is usual gets through.
    """

    spread: float = 0.0
    blocks: int = 0

    @property
    def phi(self) -> float:
        """How many bad requests come together: 1 if each comes by itself."""
        return min(max(1.0, (_PRIOR + self.spread) / (_PRIOR + self.blocks)), _PHI_MAX)

    def after(self, value: float | None) -> "Dispersion":
        if value is None:
            return self
        return Dispersion(self.spread + min(value, _OUTLIER * self.phi), self.blocks + 1)


BY_CHANCE = Dispersion()


@dataclass(frozen=True)
class History:
    """How stable behaved in the time before the canary, which is what the canary's monitors start from."""

    stable: Counts = NO_REQUESTS
    dispersion: Dispersion = BY_CHANCE
    spacing: timedelta = timedelta()


def recall(stable: Arm) -> History:
    """The history in the samples of stable: 30 minutes are enough.

    Where pods cannot be told apart (one pod, or a proxy counts for them), each round is compared with the next instead:
    clusters show there too. During the canary phi then stays what is known.
    """
    every = stable.scraped_every or timedelta()
    spacing = timedelta(milliseconds=every * _PART_OF_SCRAPE // timedelta(milliseconds=1))
    rounds, every_one = list(_rounds(stable.samples, spacing)), _sum(stable.samples)
    spreads = [spread(samples) for samples in _without_incidents(rounds, every_one)]
    if all(value is None for value in spreads):
        spreads = [_uneven(map(_sum, pair)) for pair in zip(rounds[::2], rounds[1::2], strict=False)]
    dispersion = reduce(Dispersion.after, spreads, BY_CHANCE)
    return History(every_one, dispersion, spacing)


def _without_incidents(rounds: Sequence[Sequence[Sample]], usual: Counts) -> Iterator[Sequence[Sample]]:
    """The rounds less those in which pods failed together, and those beside them.

    An incident of all says nothing about how bad requests cluster on one, but makes pods that were scraped just before
    it began, or ended, differ from those that were scraped just after.
    """
    struck = [_together(samples, usual) for samples in rounds]
    return (samples for n, samples in enumerate(rounds) if not any(struck[max(0, n - 1) : n + 2]))


def _together(samples: Iterable[Sample], usual: Counts) -> bool:
    """Whether the pods had far more bad requests than usual, even without the worst of them."""
    others = sum(sorted(_by_pod(samples), key=lambda counts: counts.bad)[:-1], NO_REQUESTS)
    return others.bad >= _INCIDENT_BAD_MIN and others.ratio > _INCIDENT * usual.ratio


def _rounds(samples: Sequence[Sample], spacing: timedelta) -> Iterator[Sequence[Sample]]:
    """The samples in stretches that are `spacing` long at least."""
    pending: list[Sample] = []
    began_at = samples[0].at if samples else None
    for sample in samples:
        pending.append(sample)
        if began_at is not None and sample.at - began_at >= spacing:
            yield pending
            began_at, pending = sample.at, []


def _sum(samples: Iterable[Sample]) -> Counts:
    bad = total = 0.0
    for sample in samples:
        bad += sample.bad
        total += sample.total
    return Counts(bad, total)


def latency_edges(buckets: Mapping[float, float]) -> tuple[float, ...]:
    """The edges of buckets nearest to stable's p50, p90 and p99, in that order; empty without requests.

    `buckets`: requests not slower than each edge in the time before the canary, the last one infinite. Near is meant in
    the share of slower requests, as a ratio: 0.3 % and 3 % are as far from 1 %.
    """
    total = buckets.get(math.inf, 0.0)
    slower = {
        edge: math.log((total - within + 0.5) / (total + 1)) for edge, within in buckets.items() if edge < math.inf
    }
    if not (total and slower):
        return ()
    return tuple(min(sorted(slower), key=lambda edge: abs(slower[edge] - math.log(share))) for share in _SLOWER)
