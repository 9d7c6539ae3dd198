"""From the raw samples of counters to the requests of an Arm.

Increments are taken series by series, then summed: the sum of counters jumps when pods come and go, a counter does not.
"""

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from statistics import median_low
from typing import TypeVar

from controller.core.change import Problem, printable
from controller.core.codec import JSON
from controller.core.samples import Arm, Sample

NO_SUCH_BUCKET = "NoSuchBucket"


@dataclass(frozen=True)
class Histogram:
    """A native histogram since it began: all observations, and those of each populated bucket, as (from, to, count)."""

    count: float
    buckets: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Series:
    """A series of an answer, oldest first: labels without its name, and (milliseconds, value), finite and from 0 on.

    One of native histograms has those in place of values.
    """

    labels: Mapping[str, str]
    points: Sequence[tuple[int, float]]
    histograms: Sequence[tuple[int, Histogram]] = ()

    def later(self, since: int) -> "Series | None":
        """What is left of it after `since` (milliseconds), if anything."""
        points, histograms = _later(self.points, since), _later(self.histograms, since)
        return Series(self.labels, points, histograms) if points or histograms else None


Point = TypeVar("Point")


def _later(points: Sequence[tuple[int, Point]], since: int) -> Sequence[tuple[int, Point]]:
    return points[bisect_right(points, since, key=lambda point: point[0]) :]


@dataclass(frozen=True)
class Counter:
    """Requests that one series has counted since it began: (milliseconds, bad, total)."""

    labels: Mapping[str, str]
    points: Sequence[tuple[int, float, float]]


def parse(result: JSON) -> list[Series]:
    """The series of `data.result`. NaN, infinities and negative values are no sample.

    Raises ValueError when this is not what Prometheus answers.
    """
    try:
        return [_series(item) for item in result]
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _series(item: JSON) -> Series:
    labels = {name: value for name, value in item["metric"].items() if name != "__name__"}
    if odd := [value for value in labels.values() if not isinstance(value, str)]:
        raise TypeError(f"a label is {type(odd[0]).__name__}")
    points = [(round(at * 1000), float(value)) for at, value in _points(item, "value")]
    histograms = [(round(at * 1000), _histogram(value)) for at, value in _points(item, "histogram")]
    return Series(
        labels,
        sorted(point for point in points if 0 <= point[1] < math.inf),
        sorted((point for point in histograms if 0 <= point[1].count < math.inf), key=lambda point: point[0]),
    )


def _points(item: JSON, kind: str) -> JSON:
    """Those of an answer to a range, or to a moment."""
    return item[f"{kind}s"] if f"{kind}s" in item else [item[kind]] if kind in item else []


def _histogram(value: JSON) -> Histogram:
    buckets = tuple((float(low), float(high), float(count)) for _, low, high, count in value.get("buckets", ()))
    return Histogram(float(value["count"]), buckets)


# --- What a series counts ---


def by_code(series: Sequence[Series], codes: Sequence[tuple[str, str]]) -> list[Counter] | Problem:
    """Counters of events, from one series a code: bad when the expression of a label of `codes` matches its value."""
    bad_codes = [(label, re.compile(expression, re.IGNORECASE)) for label, expression in codes]
    counters = []
    for one in series:
        if not any(one.labels.get(label) for label, _ in bad_codes):
            return unexpected(one.labels, f"without the label {' or '.join(label for label, _ in bad_codes)}")
        bad = 1.0 if any(code.fullmatch(one.labels.get(label, "")) for label, code in bad_codes) else 0.0
        counters.append(Counter(one.labels, [(at, value * bad, value) for at, value in one.points]))
    return counters


def slower_than(series: Sequence[Series], edge: float) -> list[Counter] | Problem:
    """Counters of requests, from histograms: those above `edge` are bad. Of one that is classic and native: native."""
    native = {_but_le(one.labels): one for one in series if one.histograms}
    classic: dict[frozenset[tuple[str, str]], dict[float, Series]] = defaultdict(dict)
    for one in series:
        if (labels := _but_le(one.labels)) not in native:
            le = bucket_edge(one.labels)
            if le is None:
                return unexpected(one.labels, "without a number in the label le")
            classic[labels][le] = one
    counters = [Counter(one.labels, _slower(one.histograms, edge)) for one in native.values()]
    for labels, buckets in classic.items():
        if math.inf not in buckets or edge not in buckets:
            return Problem(NO_SUCH_BUCKET, f"no bucket ends at {edge:g}")
        within = dict(buckets[edge].points)
        # Only moments at which both are known: a lost one must not look like slow requests.
        points = [(at, total - within[at], total) for at, total in buckets[math.inf].points if at in within]
        counters.append(Counter(dict(labels), points))
    return counters


def _but_le(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name != "le")


def _slower(histograms: Sequence[tuple[int, Histogram]], edge: float) -> list[tuple[int, float, float]]:
    """What is surely above the edge: of the bucket around it nothing counts as slow.

    So when a native histogram halves its resolution while it counts, requests can only seem to turn fast, which is no
    increment; none turns slow.
    """
    return [(at, sum(n for low, _, n in h.buckets if low >= edge), h.count) for at, h in histograms]


def bucket_edge(labels: Mapping[str, str]) -> float | None:
    """The label le as a number: exporters write 0.5, 500, 500.0 and 5e+02."""
    try:
        return float(labels["le"])
    except (KeyError, ValueError):
        return None


def spellings(edge: float) -> str:
    """A regular expression of the ways to write a number above 0."""
    number = Decimal(repr(edge)).normalize()
    digits = "".join(map(str, number.as_tuple().digits))
    exponent = number.adjusted()
    whole, _, fraction = f"{number:f}".partition(".")
    sign = "-" if exponent < 0 else "[+]?"
    return f"{whole}{_decimals(fraction)}|{digits[0]}{_decimals(digits[1:])}[eE]{sign}0*{abs(exponent)}"


def _decimals(digits: str) -> str:
    return f"[.]{digits}0*" if digits else "([.]0*)?"


def unexpected(labels: Mapping[str, str], what: str) -> Problem:
    shown = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return Problem(
        "UnexpectedSeries",
        f"Prometheus answered with a series {what}: {{{printable(shown)}}}; mend the scrape or choose another preset",
    )


# --- What an arm saw ---


class Coverage:
    """Finds among series the one that has the labels of another, as far as both have them."""

    def __init__(self, series: Iterable[Series]) -> None:
        self._series: dict[tuple[str, ...], list[Series]] = defaultdict(list)
        for one in series:
            self._series[tuple(sorted(one.labels))].append(one)
        self._found: dict[tuple[str, ...], dict[tuple[str, ...], Series]] = {}

    def of(self, labels: Mapping[str, str]) -> Series | None:
        for names, group in self._series.items():
            common = tuple(name for name in names if name in labels)
            if common and (found := self._by(common, names, group).get(tuple(labels[name] for name in common))):
                return found
        return None

    def _by(
        self, common: tuple[str, ...], names: tuple[str, ...], group: list[Series]
    ) -> dict[tuple[str, ...], Series]:
        index = self._found.get((*common, "", *names))
        if index is None:
            index = {tuple(one.labels[name] for name in common): one for one in group}
            self._found[(*common, "", *names)] = index
        return index


class Heartbeats:
    """Series that are there with and without traffic: what they cover, they prove to have been scraped."""

    def __init__(self, series: Sequence[Series], *, must_be_one: bool) -> None:
        self._series, self._coverage, self._must_be_one = series, Coverage(series), must_be_one

    def moments(self) -> Iterator[int]:
        """When the metrics path worked."""
        for one in self._series:
            yield from (at for at, value in one.points if self._works(value))

    def covering(self, labels: Mapping[str, str]) -> list[tuple[int, bool]]:
        """(milliseconds, whether it worked) of the scrapes that this series would have been in."""
        one = self._coverage.of(labels)
        return [(at, self._works(value)) for at, value in one.points] if one else []

    def _works(self, value: float) -> bool:
        return value == 1 or not self._must_be_one


def read_arm(
    counters: Sequence[Counter], heartbeats: Heartbeats, *, since: int, alive: bool, pod_label: str = ""
) -> Arm:
    """The Arm of samples later than `since` (milliseconds). `alive`: the metrics path was seen to work by then.

    `pod_label` tells the workload's own pods apart; empty where series are of something else, like a proxy before it.
    """
    sums: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    fresh_at = max(heartbeats.moments(), default=0)
    for counter in counters:
        if not counter.points:
            continue
        fresh_at = max(fresh_at, counter.points[-1][0])
        pod = counter.labels.get(pod_label, "")
        for at, bad, total in _increments(counter, from_zero=_is_new(counter, heartbeats, alive)):
            cell = sums[at // 1000][pod]
            cell[0] += bad
            cell[1] += total
    return Arm(
        samples=tuple(_sample(s, sums[s]) for s in sorted(sums) if s * 1000 > since),
        fresh_at=_moment(fresh_at) if fresh_at else None,
        scraped_every=_scraped_every(counters),
    )


def _sample(second: int, pods: Mapping[str, Sequence[float]]) -> Sample:
    bad, total = (sum(values) for values in zip(*pods.values(), strict=True))
    named = tuple((pod, pods[pod][0], pods[pod][1]) for pod in sorted(pods) if pod)
    return Sample(_moment(second * 1000), bad, total, named)


def _scraped_every(counters: Iterable[Counter]) -> timedelta | None:
    gaps = [later[0] - point[0] for counter in counters for point, later in pairwise(counter.points)]
    return timedelta(milliseconds=median_low(gaps)) if gaps else None


def _is_new(counter: Counter, heartbeats: Heartbeats, alive: bool) -> bool:
    """Whether the series began at its first point, so that all it shows then is an increment.

    It did when a scrape just before worked without it; it may have been there when that scrape failed. One that no
    scrape covered is of a pod (or proxy) that is new, if the metrics path worked before.
    """
    first = counter.points[0][0]
    earlier = [works for at, works in heartbeats.covering(counter.labels) if at < first]
    return any(earlier) if earlier else alive


def _increments(counter: Counter, *, from_zero: bool) -> Iterator[tuple[int, float, float]]:
    last_bad, last_total = (0.0, 0.0) if from_zero else counter.points[0][1:]
    for at, bad, total in counter.points if from_zero else counter.points[1:]:
        if total < last_total:  # a restart: it counts from 0 again
            last_bad = last_total = 0.0
        requests = total - last_total
        yield at, min(max(bad - last_bad, 0.0), requests), requests
        last_bad, last_total = bad, total


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
