"""One query a metric for all changes, and the answers split by change again. Pure.

The queries ask for raw samples with their own timestamps (`metric{…}[150s]`), not for rates: so age, gaps and resets
are those of the data, and a sum is never differenced.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from controller.core.change import Problem
from controller.core.codec import format_duration
from controller.core.samples import Arm
from controller.metrics.arms import ARMS, Selection, Subject, quote
from controller.metrics.counters import (
    NO_SUCH_BUCKET,
    Counter,
    Heartbeats,
    Series,
    bucket_edge,
    by_code,
    read_arm,
    slower_than,
    spellings,
    unexpected,
)
from controller.metrics.presets import SelectedBy

LOOKBACK_MAX = timedelta(hours=1)
LEAD = timedelta(seconds=90)
"""Samples are read from so much earlier than they are wanted: each series needs one before its first increment."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_INDISTINGUISHABLE = Problem(
    "IndistinguishablePods",
    "the name of the Deployment is so long that its canary and stable pods are called the same: shorten it, or choose "
    "a preset that selects by Service",
)

Answer: TypeAlias = Sequence[Series] | Problem
Share: TypeAlias = Mapping[str, Sequence[Series]] | Problem
"""What an answer holds for one subject: its series by arm."""


@dataclass(frozen=True)
class Answers:
    """`latency` is empty when no SLO asked for it; `edges` when no bucket was missing."""

    heartbeat: Answer
    requests: Answer
    latency: Answer = ()
    edges: Answer = ()


@dataclass(frozen=True)
class Reading:
    """What is known of one subject: (rule, "canary" | "stable") to its samples, and why rules are missing."""

    arms: Mapping[tuple[str, str], Arm]
    problems: tuple[Problem, ...] = ()


class Batch:
    """The subjects of one source: what to ask for, and what the answers mean."""

    def __init__(self, subjects: Sequence[Subject], now: datetime) -> None:
        self._preset = subjects[0].source
        self._subjects = subjects
        self._selection = Selection(self._preset.selected_by, subjects)
        self._since = [max(subject.since, now - LOOKBACK_MAX) for subject in subjects]
        self._range = f"[{math.ceil((now - min(self._since) + LEAD) / timedelta(seconds=1))}s]"

    def __bool__(self) -> bool:
        """Whether there is anything to ask for: a Service without ports, or pods without a prefix, select nothing."""
        return bool(self._selection)

    def heartbeat_query(self) -> str:
        return f"{self._preset.heartbeat}{{{self._selection.matchers()}}}{self._range}"

    def requests_query(self) -> str:
        return f"{self._preset.requests}{{{self._selection.matchers()}}}{self._range}"

    def latency_query(self) -> str:
        """Empty when no SLO is about latency. A histogram has twenty buckets: it asks for those that are needed."""
        edges = {self._edge(slo.slower_than) for s in self._subjects for slo in s.rules if slo.slower_than}
        le = quote("|".join(["[+]Inf", *map(spellings, sorted(edges))]))
        return f"{self._preset.latency}{{{self._selection.matchers()},le=~{le}}}{self._range}" if edges else ""

    def edges_query(self) -> str:
        """Which buckets there are: asked when one was missing."""
        labels = ",".join((*self._preset.selected_by.labels, "le"))
        return f"group by ({labels}) ({self._preset.latency}{{{self._selection.matchers()}}})"

    def read(self, answers: Answers) -> list[Reading]:
        """A Reading for each subject, in their order."""
        shares = map(self._split, (answers.heartbeat, answers.requests, answers.latency, answers.edges))
        return [self._read(*of_subject) for of_subject in zip(self._subjects, self._since, *shares, strict=True)]

    def _split(self, answer: Answer) -> Sequence[Share]:
        if isinstance(answer, Problem):
            return [answer] * len(self._subjects)
        shares: list[dict[str, list[Series]]] = [{arm: [] for arm in ARMS} for _ in self._subjects]
        for series in answer:
            owners = self._selection.owners(series.labels)
            if owners is None:
                return [unexpected(series.labels, "that was not asked for")] * len(self._subjects)
            for i, arm in owners:
                # Cut to what this subject alone would have asked for: others must not change what is said of it.
                if (part := series.later(_milliseconds(self._since[i] - LEAD))).points:
                    shares[i][arm].append(part)
        return shares

    def _read(
        self, subject: Subject, since: datetime, heartbeat: Share, requests: Share, latency: Share, edges: Share
    ) -> Reading:
        if self._preset.selected_by is SelectedBy.POD and subject.indistinguishable:
            heartbeat = _INDISTINGUISHABLE
        if isinstance(heartbeat, Problem):
            return Reading({}, (heartbeat,))
        beats = {arm: Heartbeats(heartbeat[arm], must_be_one=self._preset.heartbeat_is_one) for arm in ARMS}
        start = _milliseconds(since)
        alive = any(at <= start for beat in beats.values() for at in beat.moments())
        pod_label = "pod" if self._preset.selected_by is SelectedBy.POD else ""

        def arms(counters: Mapping[str, Sequence[Counter]]) -> Mapping[str, Arm]:
            return {
                arm: read_arm(counters[arm], beats[arm], since=start, alive=alive, pod_label=pod_label) for arm in ARMS
            }

        rules = {rule.name: rule.slower_than for rule in subject.rules}
        known: dict[tuple[str, str], Arm] = {}
        problems: dict[Problem, None] = {}
        for limit in dict.fromkeys(rules.values()):
            counters = self._slower_than(latency, limit, edges) if limit else self._by_code(requests)
            if isinstance(counters, Problem):
                problems[counters] = None
                continue
            samples = arms(counters)
            known |= {(rule, arm): samples[arm] for rule, its in rules.items() if its == limit for arm in ARMS}
        return Reading(known, tuple(problems))

    def _by_code(self, requests: Share) -> Mapping[str, Sequence[Counter]] | Problem:
        return _by_arm(requests, lambda series: by_code(series, self._preset.code_labels, self._preset.bad_codes))

    def _slower_than(self, latency: Share, limit: timedelta, edges: Share) -> Mapping[str, Sequence[Counter]] | Problem:
        counters = _by_arm(latency, lambda series: slower_than(series, self._edge(limit)))
        if isinstance(counters, Problem) and counters.reason == NO_SUCH_BUCKET and not isinstance(edges, Problem):
            there = sorted({bucket_edge(series.labels) or 0.0 for arm in ARMS for series in edges[arm]} - {math.inf})
            unit = format_duration(self._preset.latency_unit).lstrip("1")
            return Problem(
                NO_SUCH_BUCKET,
                f"{self._preset.latency} has no bucket that ends at {format_duration(limit)}: write slowerThan in the "
                f"ChangePolicy as one of {', '.join(f'{edge:g}' for edge in there)} {unit}",
            )
        return counters

    def _edge(self, limit: timedelta) -> float:
        return limit / self._preset.latency_unit


def lacks_bucket(readings: Iterable[Reading]) -> bool:
    """Whether `edges_query` is worth asking, to name the buckets that there are."""
    return any(problem.reason == NO_SUCH_BUCKET for reading in readings for problem in reading.problems)


def _by_arm(
    share: Share, count: Callable[[Sequence[Series]], list[Counter] | Problem]
) -> Mapping[str, Sequence[Counter]] | Problem:
    if isinstance(share, Problem):
        return share
    counters = {}
    for arm in ARMS:
        counted = count(share[arm])
        if isinstance(counted, Problem):
            return counted
        counters[arm] = counted
    return counters


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)
