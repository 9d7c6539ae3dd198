"""One Deployment, its route and its canary in virtual time: it does what it is told, and takes the usual time for it.

What `controller.core.plan` asks to be written is carried out here, and `observe` shows what has come of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from controller.core import plan
from controller.core.model import (
    CanaryParts,
    Change,
    Deployment,
    Held,
    Measurements,
    Observation,
    Pod,
    ReplicaSet,
    Route,
    RouteOriginal,
    Seen,
    ServicePair,
)
from controller.core.policy import ChangeType, Policy
from controller.core.template import canary_name

READY_AFTER = timedelta(seconds=5)
ACCEPTED_AFTER = timedelta(seconds=1)
_ROLLED_AT_ONCE = 4
"""The Deployment's own rolling update replaces so many parts of its pods, one after another: maxSurge is 25 %."""


@dataclass(frozen=True)
class Server:
    """A pod that answers `share` of the requests. `workload`: its ReplicaSet, or the canary."""

    name: str
    workload: str
    new: bool
    share: float


@dataclass
class _Pods:
    """Pods of one workload: when each is ready, or was."""

    ready_at: list[datetime] = field(default_factory=list)

    def scale(self, size: int, ready_at: datetime) -> None:
        del self.ready_at[size:]
        self.ready_at += [ready_at] * (size - len(self.ready_at))

    def ready(self, now: datetime) -> int:
        return sum(at <= now for at in self.ready_at)


class Cluster:
    """`stable`, `new`: revisions of the Deployment `name`; the new one is held, and its change is to start."""

    def __init__(
        self,
        policy: Policy,
        kind: ChangeType,
        now: datetime,
        *,
        namespace: str = "lab",
        name: str = "service",
        replicas: int = 10,
        stable: str = "stable",
        new: str = "new",
        ready_after: timedelta = READY_AFTER,
        accepted_after: timedelta = ACCEPTED_AFTER,
    ) -> None:
        self._policy, self._name, self._size, self._stable, self._new = policy, name, replicas, stable, new
        self._ready_after, self._accepted_after = ready_after, accepted_after
        self.change = Change(
            namespace, "lab-1", "LAB-1", kind, "change", "1", deployments=(name,), finalizer=True, created_at=now
        )
        self._pair = ServicePair(name, canary_name(name), (80,))
        self._original = RouteOriginal("HTTPRoute", namespace, name, ([{"name": name}],))
        self._revision, self._held, self._paused = new, Held.WAITING.value, True
        self._own = {stable: _Pods([now] * replicas)}
        self._canary: _Pods | None = None
        self._service = False
        self._weight, self._named, self._written_at = 0, False, now - accepted_after
        self._rolled_at = now

    @property
    def weight(self) -> int:
        return self._weight

    def servers(self, now: datetime) -> Iterator[Server]:
        """Who answers now, each with its share of the requests; what finds nobody is not counted."""
        workloads = [(f"{self._name}-{r}", r == self._new, pods, 100 - self._weight) for r, pods in self._own.items()]
        behind = sum(pods.ready(now) for pods in self._own.values())
        for workload, new, pods, weight in workloads:
            for i in range(pods.ready(now)):
                yield Server(f"{workload}-{i}", workload, new, weight / 100 / behind)
        if self._canary and self._weight:
            ready = self._canary.ready(now)
            for i in range(ready):
                name = canary_name(self._name)
                yield Server(f"{name}-{i}", name, True, self._weight / 100 / ready)

    def pass_time(self, now: datetime) -> None:
        """The Deployment's own rolling update goes on, if it is not paused."""
        if self._paused or now - self._rolled_at < self._ready_after:
            return
        self._rolled_at = now
        mine = self._own.setdefault(self._revision, _Pods())
        missing = self._size - mine.ready(now)
        for revision, pods in self._own.items():
            if revision != self._revision:
                pods.scale(min(len(pods.ready_at), missing), now)
        mine.scale(min(self._size, len(mine.ready_at) + max(1, self._size // _ROLLED_AT_ONCE)), now + self._ready_after)

    # --- What is seen ---

    def observe(self, measurements: Measurements, now: datetime) -> Observation:
        own = {
            revision: [
                Pod(f"{rs}-{i}", f"{revision}{i}", at <= now, leaving=False, restarts=0, replica_set=rs)
                for i, at in enumerate(pods.ready_at)
            ]
            for revision, pods in self._own.items()
            for rs in (f"{self._name}-{revision}",)
        }
        pods = tuple(pod for each in own.values() for pod in each)
        seen = Seen(
            deployment=self._deployment(now),
            replica_sets=tuple(
                ReplicaSet(
                    f"{self._name}-{revision}",
                    revision,
                    "1",
                    revision,
                    len(its),
                    sum(pod.ready for pod in its),
                    number,
                    template={"revision": revision},
                )
                for number, (revision, its) in enumerate(own.items(), 1)
            ),
            pods=pods,
            endpoints={self._pair.stable: frozenset(pod.name for pod in pods if pod.ready)},
            canary=self._parts(now),
            routes=(
                Route(
                    self._original.key,
                    self._weight,
                    not self._named,
                    now - self._written_at >= self._accepted_after,
                    self._original,
                ),
            ),
            services=(self._pair,),
            selector_key="app",
        )
        return Observation(self.change, {self._name: seen}, self._policy, measurements=measurements)

    def _deployment(self, now: datetime) -> Deployment:
        ready = sum(pods.ready(now) for pods in self._own.values())
        mine = self._own.get(self._revision, _Pods())
        return Deployment(
            name=self._name,
            namespace=self.change.namespace,
            uid="deployment",
            resource_version="1",
            replicas=self._size,
            total=sum(len(pods.ready_at) for pods in self._own.values()),
            updated=len(mine.ready_at),
            ready=ready,
            available=ready,
            observed=True,
            paused=self._paused,
            held=self._held,
            change=self.change.change_id,
            revision=self._revision,
            template={"revision": self._revision},
            selector={"app": self._name},
            recreate=False,
            unavailable_max=self._size // _ROLLED_AT_ONCE,
            progress_deadline_seconds=600,
            min_ready_seconds=0,
            annotations={"serin.dev/type": str(self.change.type)},
            labels={},
        )

    def _parts(self, now: datetime) -> CanaryParts:
        services = (self._pair.canary,) if self._service else ()
        if self._canary is None:
            return CanaryParts(services=services)
        name, ready_at = canary_name(self._name), self._canary.ready_at
        return CanaryParts(
            replace(self._deployment(now), name=name, uid="canary", replicas=len(ready_at)),
            services,
            {self._pair.canary: self._canary.ready(now)},
            tuple(
                Pod(f"{name}-{i}", f"canary{i}", at <= now, leaving=False, restarts=0) for i, at in enumerate(ready_at)
            ),
        )

    # --- What is written ---

    def apply(self, intent: plan.Intent, now: datetime) -> None:
        match intent:
            case plan.Mark():
                self._held, self._paused = intent.held.value, True
            case plan.Release():
                self._held, self._paused = "", False
            case plan.Promote():
                self._held, self._paused = Held.PROMOTING.value, False
            case plan.Restore():
                self._revision, self._held, self._paused = self._stable, Held.RESTORING.value, False
            case plan.DeleteReplicaSet():
                del self._own[intent.replica_set.revision]
                self._own[self._stable].scale(self._size, now + self._ready_after)
            case plan.CreateService():
                self._service = True
            case plan.CreateCanary() | plan.ScaleCanary():
                self._canary = self._canary or _Pods()
                self._canary.scale(intent.replicas, now + self._ready_after)
            case plan.Shift():
                self._weight, self._named, self._written_at = intent.weight, True, now
            case plan.PutBack():
                self._named, self._written_at = False, now
            case plan.DeleteCanary(kind="Deployment"):
                self._canary = None
            case plan.DeleteCanary():
                self._service = False
            case _:
                raise NotImplementedError(intent)
