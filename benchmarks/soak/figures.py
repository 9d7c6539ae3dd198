"""What is made of what was seen: how fast something grows, which failed requests and broken laws are excused. Pure."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from benchmarks.soak.plan import WAYS, Harm, Turn
from testbed.history import Version
from testbed.load import NO_VERSION, Counts

AFTERMATH = timedelta(seconds=4)
"""A request takes two seconds at most, is counted by whole seconds, and a new split is known to Envoy after another."""
REPLACED = timedelta(seconds=10)
"""So long after a pod was killed another one is ready in its place, and no proxy sends anything to where it was."""
BLOCK = timedelta(seconds=30)
"""Samples of one block are one: neighbours resemble each other, and would feign a certainty that is not there."""


# --- Memory ---


@dataclass(frozen=True)
class Sample:
    """The controller's process at one moment; `rss` in bytes."""

    at: datetime
    pid: int
    rss: int
    tasks: int
    fds: int
    sockets: int


@dataclass(frozen=True)
class Slope:
    """Growth in an hour, and its standard error, in the unit of the values."""

    an_hour: float
    error: float
    count: int

    def exceeds(self, most: float) -> bool:
        """Whether it is shown to be above `most`: by two standard errors."""
        return self.an_hour - 2 * self.error > most

    def shown_below(self, most: float) -> bool:
        return self.an_hour + 2 * self.error < most


def means_of(values: Iterable[tuple[datetime, float]], block: timedelta) -> list[tuple[float, float]]:
    """Of each stretch of that length its mean moment, in hours, and its mean value."""
    blocks: dict[int, list[tuple[float, float]]] = {}
    for at, value in values:
        blocks.setdefault(int(at.timestamp() // block.total_seconds()), []).append((at.timestamp() / 3600, value))
    return [(_mean(x for x, _ in part), _mean(y for _, y in part)) for part in blocks.values()]


def slope(values: Iterable[tuple[datetime, float]], block: timedelta = BLOCK) -> Slope:
    """Least squares through the means of the blocks. ValueError when there are fewer than three."""
    points = means_of(values, block)
    if len(points) < 3:
        raise ValueError(f"{len(points)} blocks are too few for a slope and its error")
    middle_x, middle_y = _mean(x for x, _ in points), _mean(y for _, y in points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    grows = sum((x - middle_x) * (y - middle_y) for x, y in points) / spread
    rest = sum((y - middle_y - grows * (x - middle_x)) ** 2 for x, y in points)
    return Slope(grows, math.sqrt(rest / (len(points) - 2) / spread), len(points))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


@dataclass(frozen=True)
class Census:
    """What a process keeps when it has nothing to do.

    Once garbage is collected: objects by type, blocks of memory of up to 512 bytes, and bytes of larger ones that are
    used, or free and kept by the C library. Before that: bytes that Python keeps for such blocks, used or not, and
    objects that only the garbage collector can free, for they hold each other.
    """

    blocks: int = 0
    used: int = 0
    free: int = 0
    arenas: int = 0
    rings: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)

    def grown(self, before: "Census", least: int) -> list[tuple[str, int]]:
        """Types of which there are more than before by at least `least`, the most grown first."""
        more = {name: count - before.kinds.get(name, 0) for name, count in self.kinds.items()}
        return sorted(((n, m) for n, m in more.items() if m >= least), key=lambda each: -each[1])


# --- Turns that were played ---


@dataclass
class Played:
    """A turn that was played: `version` is what its way is about, `harmed_at` when people took something away."""

    deployments: tuple[str, ...]
    namespace: str
    turn: Turn
    version: str
    began_at: datetime
    ended_at: datetime
    changes: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    harmed_at: list[datetime] = field(default_factory=list)

    @property
    def as_planned(self) -> bool:
        ends = WAYS[self.turn.way].ends
        return len(ends) == len(self.phases) and all(p in may for p, may in zip(self.phases, ends, strict=True))


# --- Traffic ---


@dataclass(frozen=True)
class Exposure:
    """A stretch of time in which the canary of a Deployment had weight."""

    deployment: str
    began_at: datetime
    ended_at: datetime


def exposures(history: Sequence[Version], deployment: str, end: datetime) -> list[Exposure]:
    """As its route told of them; `end` is that of one which is not over."""
    found, since = [], None
    for version in history:
        if version.kind != "HTTPRoute" or version.name != deployment or version.seen_at is None:
            continue
        has = not version.deleted and _weight(version, f"{deployment}-canary") > 0
        if has and since is None:
            since = version.seen_at
        if not has and since is not None:
            found.append(Exposure(deployment, since, version.seen_at))
            since = None
    return found + ([Exposure(deployment, since, end)] if since else [])


def _weight(route: Version, service: str) -> int:
    rules = route.object["spec"].get("rules") or []
    return max(
        (ref.get("weight", 1) for r in rules for ref in r.get("backendRefs", []) if ref["name"] == service), default=0
    )


@dataclass(frozen=True)
class Failed:
    """Requests to a Deployment that failed in one second; `because`: the way that excuses them, or nothing does."""

    deployment: str
    ended_at: datetime
    version: str
    count: int
    because: str


def failures(
    deployment: str, seconds: Iterable[tuple[datetime, Counts]], played: Sequence[Played], exposed: Sequence[Exposure]
) -> Iterator[Failed]:
    for ended_at, counts in seconds:
        for version, count in counts.failed_by_version.items():
            if count:
                yield Failed(deployment, ended_at, version, count, excuse(ended_at, version, played, exposed))


def excuse(ended_at: datetime, version: str, played: Sequence[Played], exposed: Sequence[Exposure]) -> str:
    """The way of which a request that failed in the second up to `ended_at` is a part; empty when it had to succeed.

    A bad version may answer badly while it has weight. Without any answer a request may stay only while a version has
    weight whose pods go away, or when somebody has just taken away what it was sent to.
    """
    has_weight = any(e.began_at <= ended_at <= e.ended_at + AFTERMATH for e in exposed)
    for each in played:
        harm = WAYS[each.turn.way].harm
        if not each.began_at <= ended_at <= each.ended_at + AFTERMATH:
            continue
        if any(at <= ended_at <= at + REPLACED for at in each.harmed_at):
            return each.turn.way
        if harm is Harm.CANARY and has_weight and each.harmed_at and each.harmed_at[0] <= ended_at:
            return each.turn.way
        by_itself = WAYS[each.turn.way].version and has_weight
        if by_itself and harm and version == each.version:
            return each.turn.way
        if by_itself and harm is Harm.PODS and version == NO_VERSION:
            return each.turn.way
    return ""


# --- Laws ---

BREACH = re.compile(r"(?P<revision>\d+) (?P<namespace>\S+) (?P<law>\w+): (?P<text>.*)")
DEPLOYMENT = re.compile(r"\bw\d+\b")


def inexcusable(breaches: Iterable[str], seen_at: Mapping[int, datetime], played: Sequence[Played]) -> list[str]:
    """Breaches (as testbed.laws tells them) that are no part of what a version or a person did at that time."""
    return [breach for breach in breaches if not _part_of(breach, seen_at, played)]


def _part_of(breach: str, seen_at: Mapping[int, datetime], played: Sequence[Played]) -> bool:
    found = BREACH.match(breach)
    if found is None:
        return False
    at, named = seen_at[int(found["revision"])], DEPLOYMENT.findall(found["text"])
    return any(
        each.namespace == found["namespace"]
        and set(named) & set(each.deployments)
        and each.began_at <= at <= each.ended_at + AFTERMATH
        and found["law"] in WAYS[each.turn.way].breaks
        and (bool(WAYS[each.turn.way].version) or any(harmed_at <= at for harmed_at in each.harmed_at))
        for each in played
    )


def tally(played: Iterable[Played]) -> Mapping[str, Counter[str]]:
    """Of each way, how often its changes ended how."""
    found: dict[str, Counter[str]] = {name: Counter() for name in WAYS}
    for each in played:
        found[each.turn.way][" → ".join(each.phases)] += 1
    return found
