"""One query a metric for all changes, and the answers split by change again. Pure.

The queries ask for raw samples with their own timestamps (`metric{…}[150s]`), not for rates: so age, gaps and resets
are those of the data, and a sum is never differenced.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from controller.core.blocks import latency_edges
from controller.core.change import Problem
from controller.core.codec import format_duration
from controller.core.samples import Arm
from controller.metrics.arms import ARMS, STABLE, Selection, Subject, fixed, quote
from controller.metrics.counters import (
    NO_SUCH_BUCKET,
    Counter,
    Coverage,
    Heartbeats,
    Series,
    bucket_edge,
    by_code,
    read_arm,
    slower_than,
    spellings,
    unexpected,
)

LOOKBACK_MAX = timedelta(hours=1)
LEAD = timedelta(seconds=90)
"""Samples are read from so much earlier than they are wanted: each series needs one before its first increment."""

_MILLISECOND, _NOTHING = timedelta(milliseconds=1), timedelta()
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
    profile: Answer = ()


@dataclass(frozen=True)
class Reading:
    """What is known of one subject: (rule, "canary" | "stable") to its samples, and why rules are missing."""

    arms: Mapping[tuple[str, str], Arm]
    problems: tuple[Problem, ...] = ()
    profile: tuple[timedelta, ...] = ()
    """Edges of buckets next to stable's p50, p90 and p99, of a subject that wants to know."""


class Batch:
    """The subjects of one source: what to ask for, and what the answers mean."""

    def __init__(self, subjects: Sequence[Subject], now: datetime) -> None:
        self._preset = subjects[0].source
        self._subjects = subjects
        self._selection = Selection(self._preset, subjects)
        self._since = [max(subject.since, now - LOOKBACK_MAX) for subject in subjects]
        self._range = f"[{math.ceil((now - min(self._since) + LEAD) / timedelta(seconds=1))}s]"

    def __bool__(self) -> bool:
        """Whether there is anything to ask for: a Service without ports, or pods without a prefix, select nothing."""
        return bool(self._selection)

    def heartbeat_query(self) -> str:
        where = self._preset.heartbeat_where
        matchers = self._selection.matchers() if where is None else fixed(where)
        return f"{self._preset.heartbeat}{{{matchers}}}{self._range}"

    def requests_query(self) -> str:
        return f"{self._preset.requests}{{{self._selection.matchers()}}}{self._range}"

    def latency_query(self) -> str:
        """Empty when no SLO is about latency. Of a classic histogram it asks for the buckets that are needed.

        A native one is a single series, without the label le.
        """
        edges = {self._edge(slo.slower_than) for s in self._subjects for slo in s.rules if slo.slower_than}
        if not edges or not self._preset.latency:
            return ""
        names = quote(f"{self._preset.latency}|{self._preset.latency}_bucket")
        le = quote("|".join(["", "[+]Inf", *map(spellings, sorted(edges))]))
        return f"{{__name__=~{names},{self._selection.matchers()},le=~{le}}}{self._range}"

    def edges_query(self) -> str:
        """Which buckets there are: asked when one was missing."""
        labels = ",".join((*self._selection.names, "le"))
        return f"group by ({labels}) ({self._preset.latency}_bucket{{{self._selection.matchers()}}})"

    def profile_query(self) -> str:
        """How many requests each bucket had, of a classic histogram; empty when nobody wants to know."""
        if not self._preset.latency or not any(subject.profile for subject in self._subjects):
            return ""
        labels = ",".join((*self._selection.names, "le"))
        return (
            f"sum by ({labels}) (increase({self._preset.latency}_bucket{{{self._selection.matchers()}}}{self._range}))"
        )

    def read(self, answers: Answers) -> list[Reading]:
        """A Reading for each subject, in their order."""
        requests, latency, edges = map(self._split, (answers.requests, answers.latency, answers.edges))
        profiles = map(self._profile, self._subjects, self._split(answers.profile))
        shared = self._preset.heartbeat_where is not None
        beats = self._shared(answers.heartbeat, requests) if shared else self._split(answers.heartbeat)
        of_each = zip(self._subjects, self._since, beats, requests, latency, edges, strict=True)
        readings = (self._read(*of_subject) for of_subject in of_each)
        return [replace(reading, profile=profile) for reading, profile in zip(readings, profiles, strict=True)]

    def _profile(self, subject: Subject, share: Share) -> tuple[timedelta, ...]:
        if isinstance(share, Problem) or not subject.profile:
            return ()
        buckets: dict[float, float] = defaultdict(float)
        for series in share[STABLE]:
            edge = bucket_edge(series.labels)
            # What a policy cannot say, to the millisecond, cannot be asked for later.
            if edge is not None and (edge == math.inf or edge * self._preset.latency_unit % _MILLISECOND == _NOTHING):
                buckets[edge] += series.points[-1][1] if series.points else 0.0
        return tuple(edge * self._preset.latency_unit for edge in latency_edges(buckets))

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
                if part := series.later(_milliseconds(self._since[i] - LEAD)):
                    shares[i][arm].append(part)
        return shares

    def _shared(self, heartbeat: Answer, requests: Sequence[Share]) -> Sequence[Share]:
        """The heartbeats of the proxies that have counted requests of a workload are those of both its arms.

        Of a workload that no proxy has counted it cannot be said whether it is idle or not scraped: it has none.
        """
        if isinstance(heartbeat, Problem):
            return [heartbeat] * len(self._subjects)
        beats = Coverage(heartbeat)
        shares: list[Share] = []
        for share, since in zip(requests, self._since, strict=True):
            counted = () if isinstance(share, Problem) else (one for arm in ARMS for one in share[arm])
            seen = {id(beat): beat for one in counted if (beat := beats.of(one.labels))}
            cut = [part for beat in seen.values() if (part := beat.later(_milliseconds(since - LEAD)))]
            shares.append(dict.fromkeys(ARMS, cut))
        return shares

    def _read(
        self, subject: Subject, since: datetime, heartbeat: Share, requests: Share, latency: Share, edges: Share
    ) -> Reading:
        if self._preset.pod_label and subject.indistinguishable:
            heartbeat = _INDISTINGUISHABLE
        if isinstance(heartbeat, Problem):
            return Reading({}, (heartbeat,))
        must_be_one = self._preset.heartbeat == "up"
        beats = {arm: Heartbeats(heartbeat[arm], must_be_one=must_be_one) for arm in ARMS}
        start = _milliseconds(since)
        alive = any(at <= start for beat in beats.values() for at in beat.moments())
        pod_label = self._preset.pod_label

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
        return _by_arm(requests, lambda series: by_code(series, self._preset.codes))

    def _slower_than(self, latency: Share, limit: timedelta, edges: Share) -> Mapping[str, Sequence[Counter]] | Problem:
        if not self._preset.latency:
            return Problem(
                "NoHistogram",
                f"{self._preset.requests} comes without a histogram of latency: take slowerThan out of the "
                "ChangePolicy, or choose another preset",
            )
        counters = _by_arm(latency, lambda series: slower_than(series, self._edge(limit)))
        if isinstance(counters, Problem) and counters.reason == NO_SUCH_BUCKET and not isinstance(edges, Problem):
            there = sorted({bucket_edge(series.labels) or 0.0 for arm in ARMS for series in edges[arm]} - {math.inf})
            unit = format_duration(self._preset.latency_unit).lstrip("1")
            return Problem(
                NO_SUCH_BUCKET,
                f"{self._preset.latency}_bucket has no bucket that ends at {format_duration(limit)}: write slowerThan "
                f"in the ChangePolicy as one of {', '.join(f'{edge:g}' for edge in there)} {unit}",
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
