"""The truth of a cluster in virtual time: what its API server has, and what its own controllers, its gateway, its
users and its Prometheus make of that.

It decides nothing for Serin. Objects that watches carry are kept with their past, so that a view may lag behind.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Generic, TypeVar

from controller.cluster.read import Key, Known
from controller.core.change import REQUESTED_BY, RETRY, TYPE
from controller.core.codec import JSON
from controller.core.model import (
    Action,
    Author,
    Autoscaler,
    CronJob,
    Decision,
    Deployment,
    Incident,
    Job,
    JobRun,
    Measurements,
    Other,
    Pod,
    ReplicaSet,
    Route,
    RouteOriginal,
    ServicePair,
)
from controller.core.policy import Policy
from controller.core.samples import Arm, Sample

BEGIN = datetime(2026, 11, 23, 8, tzinfo=UTC)
FORGERS = ("mallory",)
"""Could never decide anything."""
NAMESPACE = "demo"
STABLE = "v1"
SIZE = 6
SECOND = timedelta(seconds=1)
READY_AFTER = timedelta(seconds=2)
ACCEPTED_AFTER = timedelta(seconds=1)
SCRAPE = timedelta(seconds=5)
KEPT = timedelta(minutes=4)
"""How much of the past Prometheus is asked for."""
LATENCY = "latency"
LOGS = "log-errors"
MANAGERS = ("argocd-controller", "kubectl")
"""Field managers of those who write over what is ours."""
T = TypeVar("T")


class Past(Generic[T]):
    """A value and all that it was: `at(moment)` is what a view sees that has come that far."""

    def __init__(self, value: T, at: datetime) -> None:
        self._moments, self._values = [at], [value]

    @property
    def now(self) -> T:
        return self._values[-1]

    def set(self, value: T, at: datetime) -> None:
        self._moments.append(at)
        self._values.append(value)

    def at(self, moment: datetime) -> T:
        return self._values[max(0, bisect_right(self._moments, moment) - 1)]


@dataclass
class Pods:
    """Pods of one ReplicaSet: when each was made. `up`: whether the version lets one of that age be ready."""

    made_at: list[datetime] = field(default_factory=list)

    def scale(self, size: int, now: datetime) -> None:
        del self.made_at[size:]
        self.made_at += [now] * (size - len(self.made_at))

    def __len__(self) -> int:
        return len(self.made_at)


@dataclass
class Behaviour:
    """What a version does wrong, in shares and from when until when; None: never."""

    errors: tuple[float, datetime, datetime] | None = None
    slow: tuple[float, datetime, datetime] | None = None
    log_errors: tuple[float, datetime, datetime] | None = None
    crashes: tuple[datetime, datetime] | None = None
    unready: tuple[datetime, datetime] | None = None
    deaf: tuple[datetime, datetime] | None = None
    """It is ready, and no request reaches it."""


def during(span: tuple[datetime, datetime] | None, now: datetime) -> bool:
    return span is not None and span[0] <= now < span[1]


def share(part: tuple[float, datetime, datetime] | None, now: datetime) -> float:
    return part[0] if part is not None and part[1] <= now < part[2] else 0.0


@dataclass
class Canary:
    """The canary's Deployment."""

    run: str
    """The ChangeRequest that owns it."""
    revision: str
    pods: Pods = field(default_factory=Pods)


@dataclass
class Way:
    """A route. `by`: who wrote it last."""

    weight: int = 0
    named: bool = False
    version: int = 1
    written_at: datetime = BEGIN - timedelta(hours=1)
    by: str = "user"


@dataclass
class Workload:
    """A Deployment with all that surrounds it. `uid` empty: it is deleted."""

    name: str
    uid: str
    label: str = ""
    kind: str = "normal"
    who: str = ""
    retry: str = ""
    revision: str = STABLE
    held: str = ""
    paused: bool = False
    size: int = SIZE
    version: int = 1
    sets: dict[str, Pods] = field(default_factory=lambda: {STABLE: Pods([BEGIN - timedelta(hours=1)] * SIZE)})
    orphaned: bool = False
    canary: Canary | None = None
    services: dict[str, str] = field(default_factory=dict)
    """The canary's Services: name to ChangeRequest."""
    routes: dict[str, Way] = field(default_factory=dict)
    scaler: Autoscaler | None = None
    controlled_by: str = ""
    unpaused_by: str = ""
    canary_scaled_by: str = ""
    strays: bool = False
    """Its Service was given another selector."""
    reverts: bool = False
    """GitOps will put its route back."""
    owned: bool = False
    """Serin's managedFields entry is on the template."""
    failure: str = ""
    deleted_at: datetime | None = None
    free: bool = False
    """Its template got past admission, or was released as one that runs already."""

    @property
    def pair(self) -> ServicePair:
        return ServicePair(self.name, f"{self.name}-canary", (80,))

    @property
    def weight(self) -> int:
        return max((way.weight for way in self.routes.values()), default=0)

    def original(self, key: str) -> RouteOriginal:
        return RouteOriginal("HTTPRoute", NAMESPACE, key.rpartition("/")[2], ([{"name": self.name}],))


@dataclass
class Counted:
    """Counters of one arm since the last scrape: failed, slow and all requests; lines that are errors, and all."""

    bad: float = 0.0
    slow: float = 0.0
    total: float = 0.0
    errors: float = 0.0
    lines: float = 0.0


@dataclass
class Prometheus:
    """What is wrong with its answers, and until when."""

    fault: str = ""
    until: datetime = BEGIN
    lag: timedelta = timedelta()


class Cluster:
    """`policy`: the one of each type. `tell`: keeps the story."""

    def __init__(self, policies: Mapping[str, Policy], names: list[str], seed: int) -> None:
        self.random = random.Random(seed)
        self.now = BEGIN
        self.version = 1
        self.policies = {
            kind: Past[tuple[Policy | None, str]]((policy, ""), BEGIN) for kind, policy in policies.items()
        }
        self.workloads = {
            name: Workload(name, f"{name}-1", routes={f"HTTPRoute/{NAMESPACE}/{name}": Way()}) for name in names
        }
        self.versions: dict[str, Behaviour] = {}
        self.usual = 0.0
        """The share of requests that fails whatever answers them."""
        self.stable_errors: tuple[float, datetime, datetime] | None = None
        self.rps = 40.0
        self.changes: dict[str, Past[Known | None]] = {}
        self.decisions: dict[str, Past[Decision | None]] = {}
        self.revoked: dict[str, datetime] = dict.fromkeys(FORGERS, BEGIN)
        """Who may not decide, and since when."""
        self.closes_at: datetime | None = None
        """The end of the window."""
        self.foreign: tuple[Other, ...] = ()
        """Changes of other namespaces."""
        self.lacking: tuple[str, ...] = ()
        self.incidents: list[Incident] = []
        self.unaccepted_until = BEGIN
        self.prometheus = Prometheus()
        self.samples: dict[tuple[str, str, str], list[Sample]] = {}
        self.counted: dict[tuple[str, str], Counted] = {}
        self.scraped_at = BEGIN
        self.measurements = Measurements(BEGIN)
        self.cron_jobs: dict[str, CronJob] = {}
        self.jobs: dict[str, Job] = {}
        self.undisturbed = True
        """Nothing but people and other controllers is in the way just now."""
        self.repauses: list[datetime] = []
        self.rewrites: list[datetime] = []
        """When something else wrote a weight of ours."""
        self.moves: list[tuple[datetime, Key]] = []
        """What watches tell of: when which object moved."""
        self.story: list[str] = []
        self.lost = 0.0
        self.audit: dict[str, list[str]] = {}
        """The audit trail's sink: lines by chain."""
        self.trail_problem = ""

    def tell(self, what: str) -> None:
        self.story.append(f"{(self.now - BEGIN).total_seconds():6.0f} s  {what}")

    # --- Objects and their versions ---

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def moved(self, key: Key) -> None:
        self.moves.append((self.now, key))

    def known(self, name: str) -> Known | None:
        past = self.changes.get(name)
        return past.now if past else None

    def standing(self) -> Iterator[Known]:
        return (known for past in self.changes.values() if (known := past.now) is not None)

    def put(self, name: str, known: Known | None) -> None:
        self.changes.setdefault(name, Past(None, BEGIN - SECOND)).set(known, self.now)
        self.moved(Key("ChangeRequest", NAMESPACE, name))

    def touch(self, w: Workload) -> None:
        w.version = self.next_version()
        self.moved(Key("Deployment", NAMESPACE, w.name))
        for known in self.standing():
            if not known.state.phase.terminal and w.name in known.change.deployments:
                self.moved(Key("ChangeRequest", NAMESPACE, known.change.name))

    def named(self, workload: str) -> Iterator[Known]:
        """Changes that name it, and are not over."""
        return (
            k
            for k in self.standing()
            if not k.state.phase.terminal and (workload in k.change.deployments or k.state.target(workload))
        )

    # --- As the API server shows it ---

    def deployment(self, w: Workload) -> Deployment | None:
        if not w.uid:
            return None
        total = sum(map(len, w.sets.values()))
        ready = sum(self.ready(w, r) for r in w.sets)
        annotations = {REQUESTED_BY: w.who, TYPE: w.kind, **({RETRY: w.retry} if w.retry else {})}
        return Deployment(
            name=w.name,
            namespace=NAMESPACE,
            uid=w.uid,
            resource_version=str(w.version),
            replicas=w.size,
            total=total,
            updated=len(w.sets.get(w.revision, ())),
            ready=ready,
            available=ready,
            observed=True,
            paused=w.paused,
            held=w.held,
            change=w.label,
            revision=w.revision,
            template=template(w.revision),
            selector={"app": w.name},
            recreate=False,
            strategy={"type": "RollingUpdate"},
            unavailable_max=1,
            progress_deadline_seconds=600,
            min_ready_seconds=0,
            annotations=annotations,
            labels={},
            failure=w.failure,
            controlled_by=w.controlled_by,
            template_owners=("serin",) if w.owned else (),
            created_at=BEGIN,
            authors={"paused": Author(w.unpaused_by, self.now)} if w.unpaused_by else {},
        )

    def replica_sets(self, w: Workload) -> tuple[ReplicaSet, ...]:
        return tuple(
            ReplicaSet(
                f"{w.name}-{r}", f"{w.uid}-{r}", "1", r, len(pods), self.ready(w, r), i + 1, template=template(r)
            )
            for i, (r, pods) in enumerate(w.sets.items())
        )

    def own_pods(self, w: Workload) -> tuple[Pod, ...]:
        return tuple(
            replace(self.pod(f"{w.name}-{r}-{i}", r, made, self.now), uid=f"{w.uid}{r}{i}", replica_set=f"{w.name}-{r}")
            for r, pods in w.sets.items()
            for i, made in enumerate(pods.made_at)
        )

    def behind_service(self, w: Workload) -> frozenset[str]:
        return frozenset(
            f"{w.name}-{r}-{i}"
            for r, pods in w.sets.items()
            for i, made in enumerate(pods.made_at)
            if self.up(r, made, self.now)
        )

    def route(self, w: Workload, key: str) -> Route:
        way = w.routes[key]
        accepted = (
            self.now - way.written_at >= ACCEPTED_AFTER and not way.written_at <= self.now < self.unaccepted_until
        )
        author = Author(way.by, way.written_at) if way.by in MANAGERS else None
        return Route(
            key, way.weight, not way.named, accepted, w.original(key), author=author, resource_version=str(way.version)
        )

    # --- Pods ---

    def up(self, revision: str, made: datetime, now: datetime) -> bool:
        behaviour = self.versions.get(revision)
        if now - made < READY_AFTER:
            return False
        return behaviour is None or not (during(behaviour.crashes, now) or during(behaviour.unready, now))

    def crashed(self, revision: str, now: datetime) -> bool:
        behaviour = self.versions.get(revision)
        return behaviour is not None and during(behaviour.crashes, now)

    def pod(self, name: str, revision: str, made: datetime, now: datetime) -> Pod:
        """A pod that crashed is started again once, when the version is as it should be."""
        behaviour = self.versions.get(revision)
        span = behaviour.crashes if behaviour else None
        found = Pod(name, name, self.up(revision, made, now), False, 0)
        if during(span, now):
            return replace(found, restarts=2, trouble="CrashLoopBackOff")
        if span and made < span[1] <= now:
            return replace(found, restarts=1, crashed_at=span[1])
        return found

    def ready(self, w: Workload, revision: str) -> int:
        pods = w.sets.get(revision)
        return sum(self.up(revision, made, self.now) for made in pods.made_at) if pods else 0

    def ready_own(self, w: Workload) -> int:
        return sum(self.ready(w, r) for r in w.sets)

    def canary_ready(self, w: Workload, at: datetime | None = None) -> int:
        at = at or self.now
        return sum(self.up(w.canary.revision, made, at) for made in w.canary.pods.made_at) if w.canary else 0

    # --- Jobs ---

    def run_job(self, run: JobRun) -> None:
        """It ends by itself a moment later."""
        self.jobs.setdefault(run.job, Job(run.job, started_at=self.now))

    def _end_jobs(self) -> None:
        for name, job in self.jobs.items():
            if job.ended_at is None and job.started_at and self.now - job.started_at >= 3 * SECOND:
                self.jobs[name] = replace(job, ended_at=self.now, exit_code=0)

    # --- Time ---

    def pass_time(self, span: timedelta) -> None:
        self.now += span
        self._end_jobs()
        for w in self.workloads.values():
            self.roll(w)
            self._serve(w, span)
        if self.now - self.scraped_at >= SCRAPE:
            self._scrape()

    def roll(self, w: Workload) -> None:
        """Kubernetes' own controllers: a rolling update, two pods at a time; garbage collection of orphans."""
        if not w.uid:
            if w.sets and not w.orphaned and w.deleted_at and self.now - w.deleted_at >= SECOND:
                w.sets = {}
            return
        before = [(r, len(p)) for r, p in w.sets.items()]
        if w.paused:
            # As the controller-manager does: the active one is scaled; without one, the template's own, or the last.
            active = [pods for pods in w.sets.values() if len(pods)]
            active = active or [pods for r, pods in w.sets.items() if r == w.revision] or list(w.sets.values())[-1:]
            if len(active) == 1:
                active[0].scale(w.size, self.now)
        else:
            mine = w.sets.setdefault(w.revision, Pods())
            old = sum(len(pods) for r, pods in w.sets.items() if r != w.revision)
            if not w.failure:
                mine.scale(min(w.size, max(len(mine) + 2, w.size - old)), self.now)
            missing = max(0, w.size - self.ready(w, w.revision))
            for r, pods in w.sets.items():
                if r != w.revision:
                    pods.scale(min(len(pods), missing), self.now)
        if before != [(r, len(p)) for r, p in w.sets.items()]:
            self.touch(w)

    def _serve(self, w: Workload, span: timedelta) -> None:
        weight = sum(way.weight for way in w.routes.values()) / max(1, len(w.routes))
        seconds = span.total_seconds()
        own = {r: up for r in w.sets if (up := self.ready(w, r))}
        common = min(1.0, self.usual + share(self.stable_errors, self.now))
        for arm, part in (("canary", weight / 100), ("stable", 1 - weight / 100)):
            requests = self.rps * seconds * part
            if not requests:
                continue
            if arm == "canary":
                pods = {w.canary.revision: self.canary_ready(w)} if w.canary and self.canary_ready(w) else {}
            else:
                pods = own
            all_pods = sum(pods.values())
            if not all_pods:
                self.lost += requests
                continue
            counted = self.counted.setdefault((w.name, arm), Counted())
            for revision, count in pods.items():
                here = requests * count / all_pods
                version = self.versions.get(revision, FINE)
                if during(version.deaf, self.now):
                    continue
                counted.total += here
                counted.bad += here * min(1.0, common + share(version.errors, self.now))
                counted.slow += here * share(version.slow, self.now)
                counted.lines += here
                counted.errors += here * share(version.log_errors, self.now)

    def _scrape(self) -> None:
        self.scraped_at = self.now
        for (name, arm), counted in self.counted.items():
            for rule, bad, total in (
                ("", counted.bad, counted.total),
                (LATENCY, counted.slow, counted.total),
                (LOGS, counted.errors, counted.lines),
            ):
                kept = self.samples.setdefault((name, rule, arm), [])
                kept.append(Sample(self.now, bad, total))
                if kept[0].at < self.now - KEPT:
                    del kept[0]
            self.counted[name, arm] = Counted()

    # --- Prometheus ---

    def measure(self, targets: list[str], policy: Policy, now: datetime) -> Measurements:
        """What it answers about these Deployments. `now`: by the clock of who asks."""
        faulty = self.now < self.prometheus.until
        fault = self.prometheus.fault if faulty else ""
        if fault in PROBLEMS:
            return Measurements(now, problem=PROBLEMS[fault])
        until = self.now - (self.prometheus.lag if faulty else timedelta())
        arms: dict[tuple[str, str, str], Arm] = {}
        for name in targets:
            w = self.workloads[name]
            for rule in policy.rules:
                source = rule.name if rule.name == LOGS else LATENCY if rule.slower_than else ""
                for arm in ("canary", "stable"):
                    if arm == "canary" and not any(way.named for way in w.routes.values()):
                        continue
                    if fault == "empty":
                        arms[name, rule.name, arm] = Arm()
                        continue
                    kept = self.samples.get((name, source, arm), [])
                    if until < self.now:
                        kept = [s for s in kept if s.at <= until]
                    if fault == "gaps":
                        kept = kept[::3]
                    fresh = min(self.scraped_at, until)
                    arms[name, rule.name, arm] = Arm(tuple(kept), fresh, SCRAPE)
        firing = tuple(i for i in self.incidents if i.began_at <= self.now)
        return Measurements(now, arms, firing)


FINE = Behaviour()


@cache
def template(revision: str) -> JSON:
    return {"spec": {"containers": [{"name": "app", "image": f"registry.example/app:{revision}"}]}}


PROBLEMS = {
    "down": "PrometheusUnreachable: no answer",
    "partial": "PartialData: a store did not answer",
    "labels": "UnexpectedSeries: the query found series of another namespace",
    "invalid": "InvalidQuery: parse error",
    "slow": "PrometheusUnreachable: no answer within 4 s",
    "nan": "PrometheusError: NaN",
}
"""As controller/metrics says it, by fault."""


def decision(cluster: Cluster, known: Known, action: Action, by: str, revision: str, **more: object) -> Decision:
    """A ChangeDecision that is made now."""
    uid = f"decision-{cluster.next_version()}"
    change = known.change
    made = Decision(
        uid,
        uid,
        NAMESPACE,
        change.change_id,
        change.uid,
        revision,
        str(change.type or ""),
        action,
        by,
        created_at=cluster.now,
        reason="because",
        tests="all green",
    )
    return replace(made, **more)  # type: ignore[arg-type]
