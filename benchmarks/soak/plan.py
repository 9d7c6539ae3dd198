"""What a long run goes through, by seed: what each workload does in turn, and what is done to the platform meanwhile.

Pure. The same seed gives the same plan; what a cluster makes of it differs from run to run.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

A_NAMESPACE = 4
"""Workloads in one."""
CALM = timedelta(seconds=12)
"""Between two happenings of the platform, on average."""
KILLS = timedelta(seconds=20)
"""Between two SIGKILLs, on average."""
SHORTEST_TURN = timedelta(seconds=15)


class Shape(StrEnum):
    ROUTED = "routed"
    SCALED = "autoscaled"
    GROUP = "group of two"
    NATIVE = "native"


class Harm(StrEnum):
    """What users may lose by a way, while its canary has weight."""

    NOTHING = ""
    ANSWERS = "answers"
    """The version itself answers badly."""
    PODS = "pods"
    """Pods go away, or do not answer in time: such a request has no version."""
    CANARY = "canary"
    """It is gone altogether: until its weight is taken back."""


Ends = tuple[tuple[str, ...], ...]
"""Of each of its changes in turn, the phases in which it may end."""


@dataclass(frozen=True)
class Way:
    """One way in which a change goes. `share`: how often, among all."""

    share: int
    ends: Ends
    version: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with the version: environment of the demo application."""
    kind: str = "standard"
    harm: Harm = Harm.NOTHING
    weights: tuple[int, ...] = ()
    """Shares of the traffic at which people do something; one is chosen. PROMOTION: while it is promoted."""
    routed: bool = True
    """Only for what has a route."""
    breaks: frozenset[str] = frozenset()
    """Laws (testbed/laws.py) that this way breaks by its nature, whatever the controller does."""


PROMOTION = 101
COMPLETES, GOES_BACK, SUPERSEDES = (("Completed",),), (("RolledBack",),), (("Superseded",), ("Completed",))
NO_READY_POD = frozenset({"who_has_traffic_can_answer"})
TAKEN_AWAY = NO_READY_POD | {
    "more_for_the_canary_only_as_committed",
    "less_for_the_canary_only_where_stable_can_take_it",
    "nothing_of_ours_goes_while_it_is_named",
}

WAYS: Mapping[str, Way] = {
    "good": Way(6, COMPLETES, routed=False),
    "errors": Way(2, GOES_BACK, {"ERROR_RATIO": "0.5"}, harm=Harm.ANSWERS),
    "only errors": Way(1, GOES_BACK, {"ERROR_RATIO": "1"}, harm=Harm.ANSWERS),
    "slow": Way(1, GOES_BACK, {"LATENCY": "1200ms"}, harm=Harm.PODS),
    "crashes again and again": Way(
        1, GOES_BACK, {"CRASH_AFTER": "4s"}, harm=Harm.PODS, breaks=NO_READY_POD, routed=False
    ),
    "crashes at start": Way(1, GOES_BACK, {"CRASH_AT_START": "1"}, routed=False),
    "never ready": Way(1, GOES_BACK, {"NEVER_READY": "1"}, routed=False),
    "approved": Way(1, COMPLETES, kind="normal", routed=False),
    "approver loses the role": Way(1, COMPLETES, kind="normal", routed=False),
    "denied": Way(1, (("Denied",),), kind="normal", routed=False),
    "newer one before the start": Way(1, SUPERSEDES, kind="normal", routed=False),
    "rolled back by a person": Way(2, GOES_BACK, weights=(10, 50, 100)),
    "rolled back in the promotion": Way(1, (("RolledBack", "Completed"),), weights=(PROMOTION,)),
    "paused and resumed": Way(1, COMPLETES, weights=(10, 50)),
    "promoted by a person": Way(1, COMPLETES, weights=(10, 50)),
    "another while it runs": Way(1, COMPLETES, weights=(10, 50, 100)),
    "emergency while it runs": Way(2, SUPERSEDES, weights=(10, 50)),
    "canary deleted": Way(1, GOES_BACK, harm=Harm.CANARY, weights=(10, 50), breaks=TAKEN_AWAY),
    "weights reset": Way(1, COMPLETES, harm=Harm.PODS, weights=(10, 50)),
    "canary pod killed": Way(
        1, (("Completed", "RolledBack"),), harm=Harm.PODS, weights=(10, 50, 100), breaks=TAKEN_AWAY
    ),
    "stable pod killed": Way(1, COMPLETES, harm=Harm.PODS, weights=(10, 50), breaks=TAKEN_AWAY),
}
"""A killed canary pod loses requests: of a few in ten seconds that is more than any limit allows."""


@dataclass(frozen=True)
class Turn:
    """`rest`: before it begins."""

    way: str
    rest: timedelta
    weight: int = 0

    def __str__(self) -> str:
        at = {0: "", PROMOTION: ""}.get(self.weight, f" at {self.weight} %")
        return f"{self.way}{at}"


@dataclass(frozen=True)
class Workload:
    """`names`: its Deployments."""

    names: tuple[str, ...]
    namespace: str
    shape: Shape
    replicas: int
    turns: tuple[Turn, ...]


PLATFORM = (
    "stopped", "stopped", "API 429", "API 500", "API 503", "API refuses", "API cuts answers", "API hangs",
    "API loses answers", "Prometheus refuses", "Prometheus 503", "Prometheus hangs",
)  # fmt: skip
LONGEST: Mapping[str, tuple[float, float]] = {"stopped": (1, 3), "API": (1, 4), "Prometheus": (3, 15)}
"""Seconds, shortest and longest; nothing lasts so long that the lease is lost by it."""


@dataclass(frozen=True)
class Happening:
    """Something that is done to the platform, `at` after the start; a kill lasts no time."""

    what: str
    at: timedelta
    lasts: timedelta = timedelta()

    def __str__(self) -> str:
        lasts = f" for {self.lasts.total_seconds():.1f} s" if self.lasts else ""
        return f"{self.at.total_seconds():6.1f} s  {self.what}{lasts}"


@dataclass(frozen=True)
class Plan:
    """Kills come up to `last_kill`; from `halfway` on, after a rest, memory is measured; nothing begins after `end`."""

    seed: int
    last_kill: timedelta
    halfway: timedelta
    end: timedelta
    workloads: tuple[Workload, ...]
    platform: tuple[Happening, ...]


def make(seed: int, length: timedelta, deployments: int) -> Plan:
    """The first fifth with kills; what lives then warms up for a third, and is measured for the rest."""
    source = random.Random(seed)
    workloads = tuple(_workloads(source, deployments, turns=int(length / SHORTEST_TURN)))
    last_kill, halfway = length * 0.2, length * 0.54
    platform = [Happening("killed", at) for at in _moments(source, KILLS, last_kill)]
    for at in _moments(source, CALM, length):
        what = source.choice(PLATFORM)
        shortest, longest = LONGEST[what.partition(" ")[0]]
        platform.append(Happening(what, at, timedelta(seconds=round(source.uniform(shortest, longest), 1))))
    platform.append(Happening("killed", last_kill))
    return Plan(seed, last_kill, halfway, length, workloads, tuple(sorted(platform, key=lambda h: h.at)))


def _workloads(source: random.Random, deployments: int, turns: int) -> list[Workload]:
    """One group, of seven one is native, and of five one has an autoscaler; the others have a route alone."""
    names = [f"w{n:02d}" for n in range(1, deployments + 1)]
    groups = [tuple(names[:2])] if deployments > 2 else []
    groups += [(name,) for name in names[2 * len(groups) :]]
    found = []
    for number, group in enumerate(groups):
        shape = Shape.ROUTED
        if len(group) == 2:
            shape = Shape.GROUP
        elif number % 7 == 1:
            shape = Shape.NATIVE
        elif number % 5 == 3:
            shape = Shape.SCALED
        namespace = f"soak-{number // A_NAMESPACE + 1}"
        replicas = source.choice((2, 2, 3))
        found.append(Workload(group, namespace, shape, replicas, _turns(source, shape, turns)))
    return found


def _turns(source: random.Random, shape: Shape, count: int) -> tuple[Turn, ...]:
    """Every way that is possible comes before the first comes again more often than its share."""
    bag: list[str] = []
    found: list[Turn] = []
    while len(found) < count:
        if not bag:
            bag = [name for name in WAYS if possible(name, shape) for _ in range(WAYS[name].share)]
            source.shuffle(bag)
        way = bag.pop()
        weights = WAYS[way].weights
        rest = timedelta(seconds=round(source.uniform(1, 10), 1))
        found.append(Turn(way, rest, source.choice(weights) if weights else 0))
    return tuple(found)


def possible(way: str, shape: Shape) -> bool:
    """Without a route there is no share of the traffic; what is done to one canary is not done to a group."""
    single = {"canary deleted", "weights reset", "canary pod killed", "stable pod killed"}
    return not (WAYS[way].routed and shape is Shape.NATIVE) and not (way in single and shape is Shape.GROUP)


def _moments(source: random.Random, apart: timedelta, until: timedelta) -> list[timedelta]:
    found, at = [], apart * source.uniform(0.5, 1.5)
    while at < until:
        found.append(at)
        at += apart * source.uniform(0.5, 1.5)
    return found
