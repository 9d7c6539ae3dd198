"""A controller process: the real `Reconciler` over a view of the cluster that lags behind, and over an API that fails.

`Process` is its Reads and its Writes. Each of its calls may be the one at which the process is killed, before or after
the call is carried out, or is stopped for a while in which another one leads.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from controller.cluster.read import Key, Known
from controller.core.codec import JSON
from controller.core.decisions import needs_rights
from controller.core.form import merge
from controller.core.intake import Ask, Record
from controller.core.model import (
    LOCKED,
    Author,
    CanaryParts,
    Change,
    Deployment,
    Drift,
    Held,
    Measurements,
    Observation,
    Phase,
    Revert,
    Ruling,
    Seen,
    State,
)
from controller.core.plan import (
    CreateCanary,
    CreateService,
    DeleteCanary,
    DeleteReplicaSet,
    DisownTemplate,
    Intent,
    Mark,
    Promote,
    PutBack,
    Release,
    Restore,
    RunJob,
    ScaleCanary,
    SetFloor,
    Shift,
)
from controller.core.policy import ChangeType
from controller.core.template import job_name
from controller.errors import (
    ConflictError,
    ForbiddenError,
    LeaseLostError,
    NotFoundError,
    PermanentError,
    SerinError,
    TransientError,
)
from controller.reconcile import Reconciler
from tests.simulation.storm.cluster import BEGIN, NAMESPACE, SECOND, Canary, Cluster, Workload, template
from tests.simulation.storm.invariants import Watch

LOOK_AGAIN = SECOND
RETRY = timedelta(seconds=2)
LAG = timedelta(seconds=1)
RELIST = timedelta(seconds=70)
"""A watch that has stalled is noticed after that long at the latest (controller/cluster/cache.py)."""
RESYNC = timedelta(seconds=60)


class Killed(BaseException):
    """The process is gone, in the middle of whatever it did."""


@dataclass
class Trail:
    """The audit trail of one process, which keeps what cannot be written; all of them write into the same sink."""

    cluster: Cluster
    waiting: list[str] = field(default_factory=list)

    @property
    def problem(self) -> str:
        return self.cluster.trail_problem

    def kept(self, uid: str) -> int:
        return len(self.cluster.audit.get(uid, ()))

    def append(self, lines: Sequence[str]) -> None:
        self.waiting += lines
        self.flush()

    def flush(self) -> None:
        if self.cluster.trail_problem:
            return
        for line in self.waiting:
            chain = self.cluster.audit.setdefault(text(line, '"uid":"'), [])
            if number(line, '"seq":') == len(chain) + 1:
                chain.append(line)
        self.waiting = []


def number(line: str, mark: str) -> int:
    start = line.index(mark) + len(mark)
    end = start
    while line[end].isdigit():
        end += 1
    return int(line[start:end])


def text(line: str, mark: str) -> str:
    start = line.index(mark) + len(mark)
    return line[start : line.index('"', start)]


class Silent:
    """Reports that nobody reads."""

    def decision(self, change: Change, before: State, after: State, observation: Observation) -> None:
        return

    def judged(self, change: Change, record: JSON) -> None:
        return

    def unmanaged(self, namespace: str, workload: str, count: int) -> None:
        return

    def ruling(self, change: Change, ruling: Ruling) -> None:
        return

    def write(self, change: Change, kind: str, message: str, *, after_verdict: timedelta | None = None) -> None:
        return

    def forget(self, namespace: str, name: str) -> None:
        return


@dataclass
class Faults:
    """What the API server, or the road to it, does to this process, and until when."""

    kind: str = ""
    until: datetime = BEGIN
    ratio: float = 1.0


class Process:
    """`leads`: whether the Lease lets it write. `meanwhile`: what happens while it is stopped in a call."""

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        watch: Watch,
        leads: Callable[[], bool],
        meanwhile: Callable[["Process", timedelta], Awaitable[None]],
    ) -> None:
        self.name, self.cluster, self.watch = name, cluster, watch
        self._leads, self._meanwhile = leads, meanwhile
        self.faults = Faults()
        self.skew = timedelta()
        self.stalled_until: datetime | None = None
        self.calls = 0
        self.surprised = False
        """It was stopped since it looked last."""
        self.kill_at: tuple[int, bool] | None = None
        """The call at which it is killed, and whether that is after it was carried out."""
        self.stop_at: tuple[int, timedelta] | None = None
        self.alive = True
        self.back_at = cluster.now
        self.start()

    def start(self) -> None:
        """A new process of this name: nothing is left of the one before."""
        cluster = self.cluster
        self.alive, self.horizon, self._told = True, cluster.now, len(cluster.moves)
        self.due: dict[Key, datetime] = {}
        self.measured_at = cluster.now - timedelta(minutes=1)
        self.newest: dict[str, Measurements] = {}
        self.resync_at = cluster.now
        self.trail = Trail(cluster)
        for known in cluster.standing():
            self.trail.append(known.state.audit.last)
        self.reconciler = Reconciler(
            self,
            self,
            Silent(),
            self.trail,
            leads=self._leads,
            measured=lambda _, name: self.newest.get(name),
            now=lambda: self.cluster.now + self.skew,
        )

    @property
    def seen(self) -> datetime:
        return self.horizon

    @property
    def prometheus_problem(self) -> str:
        return next((m.problem for m in self.newest.values() if m.problem), "")

    @property
    def unseen(self) -> bool:
        arms = [arm for m in self.newest.values() for arm in m.arms.values()]
        return bool(arms) and all(arm.fresh_at is None for arm in arms)

    @property
    def refused(self) -> bool:
        return self.faults.kind == "forbidden" and self.cluster.now < self.faults.until

    # --- The loop of app.py: keys, and when each is looked at ---

    async def work(self) -> None:
        """All that is due now."""
        self._look()
        for _ in range(40):
            ready = [key for key, at in self.due.items() if at <= self.cluster.now]
            if not ready or not self.alive or not self._leads():
                return
            key = min(ready, key=lambda k: (self.due[k], k))
            del self.due[key]
            await self._one(key)
            self._look()
        self.watch.must(False, "I16: the loop comes to rest", f"{key} is looked at again and again")

    async def _one(self, key: Key) -> None:
        before, self.surprised = self.cluster.version, False
        try:
            after = await self.reconciler.reconcile(key)
        except LeaseLostError:
            return
        except ConflictError:
            after = LOOK_AGAIN
        except SerinError:
            after = RETRY
        except Killed:
            self.alive = False
            self.cluster.tell(f"{self.name} is killed at call {self.calls}")
            return
        if after is not None:
            again = after < SECOND and self.cluster.version != before
            at = self.cluster.now + (timedelta() if again else max(after, SECOND))
            self.due[key] = min(at, self.due.get(key, at))

    def _look(self) -> None:
        """What the watches tell meanwhile, and every so often everything."""
        cluster = self.cluster
        self.trail.flush()
        if self.stalled_until is not None and cluster.now >= self.stalled_until:
            self.stalled_until = None
        if self.stalled_until is None:
            self.horizon = max(self.horizon, cluster.now - LAG)
        moves = cluster.moves
        while self._told < len(moves) and moves[self._told][0] <= self.horizon:
            self._add(moves[self._told][1])
            self._told += 1
        if cluster.now >= self.resync_at:
            self.resync_at = cluster.now + RESYNC
            for name, past in cluster.changes.items():
                if past.now is not None:
                    self._add(Key("ChangeRequest", NAMESPACE, name))
            for w in cluster.workloads.values():
                if w.held:
                    self._add(Key("Deployment", NAMESPACE, w.name))
        if cluster.scraped_at > self.measured_at:
            self.measured_at = cluster.scraped_at
            self._measure()

    def _add(self, key: Key) -> None:
        self.due[key] = min(self.cluster.now, self.due.get(key, self.cluster.now))

    def _measure(self) -> None:
        cluster = self.cluster
        measured: dict[str, Measurements] = {}
        for name, past in cluster.changes.items():
            known = past.at(self.horizon)
            if known is None or known.state.phase.terminal:
                continue
            policy = known.state.policy or self._policy(known.change)[0]
            if policy:
                found = [t.name for t in known.state.targets]
                measured[name] = cluster.measure(found, policy, cluster.now + self.skew)
                if measured[name].arms or measured[name].problem:
                    self._add(Key("ChangeRequest", NAMESPACE, name))
        self.newest = measured

    # --- Calls ---

    async def _call(self, *, write: bool, status: bool = False) -> None:
        """What may happen before a request arrives. `status`: it is a commit, whose right is another one."""
        self.calls += 1
        if self.stop_at and self.calls >= self.stop_at[0]:
            span, self.stop_at = self.stop_at[1], None
            await self._meanwhile(self, span)
            self.surprised = True
        if self.kill_at and self.calls >= self.kill_at[0] and not self.kill_at[1]:
            self.kill_at = None
            raise Killed
        faults, cluster = self.faults, self.cluster
        if cluster.now < faults.until and cluster.random.random() < faults.ratio:
            match faults.kind:
                case "conflict" if write:
                    raise ConflictError("Conflict", "someone was faster")
                case "down":
                    raise TransientError("ServerError", "503")
                case "throttled" if write:
                    raise TransientError("TooManyRequests", "429", timedelta(seconds=2))
                case "forbidden" if write and not status:
                    raise ForbiddenError(
                        "Forbidden", "may not patch it", verb="patch", resource="*", namespace=NAMESPACE
                    )

    def _called(self, *, write: bool) -> None:
        """What may happen between its effect and the answer."""
        if self.kill_at and self.calls >= self.kill_at[0] and self.kill_at[1]:
            self.kill_at = None
            raise Killed
        faults, cluster = self.faults, self.cluster
        if write and faults.kind == "lost" and cluster.now < faults.until and cluster.random.random() < faults.ratio:
            raise TransientError("Timeout", "no answer")

    # --- Reads ---

    def known(self, namespace: str, name: str) -> Known | None:
        past = self.cluster.changes.get(name)
        return past.at(self.horizon) if past else None

    async def reread(self, namespace: str, name: str) -> Known | None:
        await self._call(write=False)
        return self.cluster.known(name)

    def _cached(self) -> list[Known]:
        return [known for past in self.cluster.changes.values() if (known := past.at(self.horizon)) is not None]

    async def ask(self, namespace: str, name: str) -> Ask | None:
        await self._call(write=False)
        w = self.cluster.workloads[name]
        d = self.cluster.deployment(w)
        if d is None or not w.label:
            return None
        known = self._cached()
        running = any(k.other.active for k in known if w.name in k.change.deployments)
        if d.held == Held.WAITING or (d.held in LOCKED and not running):
            known = list(self.cluster.standing())
        taken = [k.change.change_id for k in known]
        return Ask(d, self.cluster.replica_sets(w), [(k.change, k.other) for k in known], taken)

    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation:
        await self._call(write=False)
        cluster = self.cluster
        labelled = [w.name for w in cluster.workloads.values() if w.label == change.change_id and w.uid]
        names = sorted(
            {*change.deployments, *(t.name for t in state.targets), *(labelled if state.phase is Phase.WAITING else ())}
        )
        policy, problem = self._policy(change)
        others = tuple(
            k.other
            for k in self._cached()
            if k.change.uid != change.uid and ({*k.change.deployments, *(t.name for t in k.state.targets)} & set(names))
        )
        return Observation(
            change=change,
            targets={name: self._see(change, state, cluster.workloads[name]) for name in names},
            policy=policy,
            policy_problem=problem,
            measurements=measurements,
            others=(*others, *(o for o in cluster.foreign if o.change_id == change.change_id)),
            decisions=self._decisions(change, state),
            cron_jobs={
                name: replace(found, job=cluster.jobs.get(job_name(change.name, state.revision, name)))
                for name, found in cluster.cron_jobs.items()
                if state.phase is Phase.WAITING
            },
            environment=cluster.lacking,
        )

    async def conclusion(self, change: Change, state: State) -> Observation:
        await self._call(write=False)
        policy, problem = self._policy(change)
        found = [self.cluster.workloads[t.name] for t in state.targets]
        late = any((w.canary and w.canary.run == change.name) or change.name in w.services.values() for w in found)
        seen = {w.name: self._see(change, state, w) for w in found if late}
        return Observation(change, seen, policy, policy_problem=problem, decisions=self._decisions(change, state))

    def _policy(self, change: Change) -> Any:
        if change.type is None:
            return None, "UnknownType: the type must be standard, normal or emergency"
        return self.cluster.policies[change.type].at(self.horizon)

    def _decisions(self, change: Change, state: State) -> tuple[Any, ...]:
        found = [d for past in self.cluster.decisions.values() if (d := past.at(self.horizon)) is not None]
        return tuple(
            replace(d, authorized=d.by not in self.cluster.revoked) if needs_rights(state, d) else d
            for d in found
            if d.change_id == change.change_id
        )

    def _see(self, change: Change, state: State, w: Workload) -> Seen:
        cluster = self.cluster
        target = state.target(w.name)
        d = cluster.deployment(w)
        waiting = state.phase is Phase.WAITING
        canary = CanaryParts() if waiting or target is None else self._parts(change, w)
        own = d is not None and (waiting or target is None or d.uid == target.uid)
        routes = tuple(cluster.route(w, key) for key in w.routes)
        if waiting and w.reverts:
            routes = tuple(replace(r, reverts=(Revert("spec.rules", "Application shop", "the YAML"),)) for r in routes)
        promoted = state.promoted or not own
        taken = next((f"Service {name}" for name, run in w.services.items() if run == "someone"), "")
        return Seen(
            deployment=d,
            replica_sets=cluster.replica_sets(w) if own else (),
            pods=cluster.own_pods(w) if own and state.promoted else (),
            endpoints={w.name: cluster.behind_service(w)} if promoted else {},
            canary=canary,
            routes=routes,
            services=(w.pair,) if own else (),
            autoscaler=w.scaler,
            selector_key="app",
            taken=taken if waiting else "",
            strays=(Drift(f"spec.selector of Service {w.name}", "kubectl"),) if w.strays and own else (),
        )

    def _parts(self, change: Change, w: Workload) -> CanaryParts:
        """The Deployment and the Service as they are; pods and endpoints as the watches have told of them so far."""
        cluster, made = self.cluster, w.canary
        services = tuple(name for name, run in w.services.items() if run == change.name)
        if made is None or made.run != change.name:
            return CanaryParts(services=services)
        at = self.horizon
        pods = tuple(
            cluster.pod(f"{w.name}-canary-{i}", made.revision, born, at)
            for i, born in enumerate(made.pods.made_at)
            if born <= at
        )
        ready = sum(p.ready for p in pods)
        d = cluster.deployment(w)
        shown = Deployment(
            name=f"{w.name}-canary",
            namespace=NAMESPACE,
            uid="c",
            resource_version="1",
            replicas=len(made.pods),
            total=len(made.pods),
            updated=len(made.pods),
            ready=ready,
            available=ready,
            observed=True,
            paused=False,
            held="",
            change="",
            revision=made.revision,
            template=template(made.revision),
            selector={"app": w.name},
            recreate=False,
            unavailable_max=1,
            progress_deadline_seconds=600,
            min_ready_seconds=0,
            annotations={},
            labels={},
            failure=d.failure if d else "",
            authors={"replicas": Author(w.canary_scaled_by, cluster.now)} if w.canary_scaled_by else {},
        )
        return CanaryParts(shown, services, dict.fromkeys(services, ready), pods)

    # --- Writes ---

    async def commit(self, change: Change, state: State) -> str:
        await self._call(write=True, status=True)
        known = self._there(change.name)
        if change.resource_version != known.change.resource_version:
            raise ConflictError("Conflict", "the ChangeRequest has moved on")
        self.watch.committing(known, state)
        version = str(self.cluster.next_version())
        moved = replace(known, change=replace(known.change, resource_version=version), state=state)
        self.cluster.put(change.name, moved)
        self.cluster.tell(
            f"{self.name}: {change.change_id} {state.phase} {state.stage or state.step or ''} {state.weight} % "
            f"{state.reason}: {state.message}"[:170]
        )
        self._called(write=True)
        return version

    def _there(self, name: str) -> Known:
        known = self.cluster.known(name)
        if known is None:
            raise NotFoundError("NotFound", f"changerequests {name} not found")
        return known

    async def record(self, namespace: str, record: Record) -> None:
        await self._call(write=True)
        cluster, known = self.cluster, self.cluster.known(record.name)
        spec = merge((known.change.spec if known else None) or {}, record.spec)
        kind = spec.get("type")
        change = replace(
            known.change
            if known
            else Change(
                NAMESPACE,
                record.name,
                spec["changeId"],
                None,
                uid=f"uid-{cluster.next_version()}",
                created_at=cluster.now,
            ),
            type=ChangeType(kind) if kind in tuple(ChangeType) else None,
            resource_version=str(cluster.next_version()),
            requested_by=str(spec.get("requestedBy", "")),
            deployments=tuple(spec["deployments"]),
            revision=str(spec.get("revision", "")),
            problem=str(spec.get("problem", "")),
            spec=spec,
        )
        cluster.put(record.name, Known(change, known.state if known else State()))
        cluster.tell(f"{self.name}: {change.change_id} is recorded{': ' + change.problem if change.problem else ''}")
        self._called(write=True)

    async def finalizer(self, change: Change, *, present: bool) -> None:
        await self._call(write=True)
        known = self._there(change.name)
        if known.change.resource_version != change.resource_version:
            raise ConflictError("Conflict", "the ChangeRequest has moved on")
        if known.change.deleting and not present:
            self.watch.forgetting(known)
            self.cluster.put(change.name, None)
            self.cluster.tell(f"{change.change_id} is gone")
        elif known.change.finalizer != present:  # a patch that changes nothing makes no new version
            version = str(self.cluster.next_version())
            self.cluster.put(
                change.name, replace(known, change=replace(known.change, finalizer=present, resource_version=version))
            )
        self._called(write=True)

    async def forget(self, namespace: str, name: str) -> None:
        await self._call(write=True)
        if self.cluster.known(name):
            self.cluster.put(name, None)
        self._called(write=True)

    async def mark(self, d: Deployment, held: Held) -> None:
        await self._deployment(d, held.value, paused=True)

    async def release(self, d: Deployment) -> None:
        await self._deployment(d, "", paused=False)

    async def _deployment(
        self, d: Deployment, held: str, *, paused: bool, revision: str = "", disowned: bool = False
    ) -> None:
        await self._call(write=True)
        w = self.cluster.workloads[d.name]
        if d.uid != w.uid:
            raise (
                NotFoundError("NotFound", "the Deployment is another one")
                if not w.uid
                else ConflictError("Conflict", "another uid")
            )
        if not disowned and d.resource_version != str(w.version):
            raise ConflictError("Conflict", "the Deployment has moved on")
        self.watch.deploying(w, held, paused=paused, revision=revision or w.revision)
        if (held, paused) == (w.held, w.paused) and not (revision or disowned or w.unpaused_by):
            self._called(write=True)  # a patch that changes nothing makes no new version
            return
        w.held, w.paused, w.unpaused_by = held, paused, ""
        if not held:
            w.who = ""
        if revision:
            w.revision, w.owned = revision, True
        if disowned:
            w.owned = False
        self.cluster.touch(w)
        self.cluster.tell(f"{self.name}:   {w.name}: held={held or '-'}{' paused' if paused else ''} {revision}")
        self._called(write=True)

    async def apply(self, intent: Intent, observation: Observation) -> None:
        w, run = self.cluster.workloads[intent.target.name], observation.change.name
        match intent:
            case Mark():
                await self.mark(intent.deployment, intent.held)
            case Release():
                await self.release(intent.deployment)
            case Promote():
                await self._deployment(intent.deployment, Held.PROMOTING.value, paused=False)
            case Restore():
                await self._deployment(
                    intent.deployment, Held.RESTORING.value, paused=False, revision=intent.target.stable_revision
                )
            case DisownTemplate():
                await self._deployment(intent.deployment, w.held, paused=w.paused, disowned=True)
            case Shift():
                await self._route(w, intent.route, observation, intent.weight)
            case PutBack():
                await self._route(w, intent.route, observation, None)
            case _:
                await self._call(write=True)
                self._children(w, run, intent)
                self._called(write=True)

    async def _route(self, w: Workload, key: str, observation: Observation, weight: int | None) -> None:
        """As `Writer._route`: written over nothing but what was decided about."""
        run = observation.change.name
        version = next(r.resource_version for r in observation.targets[w.name].routes if r.key == key)
        await self._call(write=True)
        way = w.routes.get(key)
        if way is None:
            raise NotFoundError("NotFound", f"{key} not found")
        if str(way.version) != version:
            raise ConflictError("Conflict", "the route has moved on")
        self.watch.routing(w, way, run, weight)
        way.weight, way.named, way.by = weight or 0, weight is not None, run
        way.written_at, way.version = self.cluster.now, self.cluster.next_version()
        self.cluster.moved(Key("ChangeRequest", NAMESPACE, run))
        self.cluster.tell(f"{self.name}:   {key}: {'as the user wrote it' if weight is None else f'{weight} %'}")
        self._called(write=True)

    def _children(self, w: Workload, run: str, intent: Intent) -> None:
        cluster = self.cluster
        cluster.tell(f"{self.name}:   {type(intent).__name__} of {w.name}")
        match intent:
            case DeleteReplicaSet():
                pods = w.sets.get(intent.replica_set.revision)
                if pods is None or intent.replica_set.uid != f"{w.uid}-{intent.replica_set.revision}":
                    raise NotFoundError("NotFound", "no such ReplicaSet")
                if len(pods) != intent.replica_set.replicas:
                    raise ConflictError("Conflict", "the ReplicaSet has moved on")
                self.watch.deleting_set(w, intent.replica_set.revision)
                del w.sets[intent.replica_set.revision]
                cluster.touch(w)
            case SetFloor():
                if w.scaler is None:
                    raise NotFoundError("NotFound", "no autoscaler")
                w.scaler = replace(w.scaler, min_replicas=intent.min_replicas, ours=True)
            case CreateService():
                owner = w.services.setdefault(intent.pair.canary, run)
                if owner != run:
                    raise PermanentError("NameTaken", f"Service {intent.pair.canary} exists and is not ours")
            case CreateCanary():
                if w.canary is not None and w.canary.run != run:
                    raise PermanentError("NameTaken", f"Deployment {w.name}-canary exists and is not ours")
                if w.canary is None:
                    self.watch.creating(w, run, intent.deployment.revision)
                    w.canary = Canary(run, intent.deployment.revision)
                    w.canary.pods.scale(intent.replicas, cluster.now)
            case ScaleCanary():
                if w.canary is None:
                    raise NotFoundError("NotFound", "no canary")
                w.canary.pods.scale(intent.replicas, cluster.now)
                w.canary_scaled_by = ""
            case DeleteCanary(kind="Deployment"):
                if w.canary is not None and w.canary.run == run:
                    self.watch.deleting_canary(w)
                    w.canary = None
            case DeleteCanary():
                if w.services.get(intent.name) == run:
                    self.watch.deleting_service(w)
                    del w.services[intent.name]
            case RunJob():
                self.watch.running_job(run)
                cluster.run_job(intent.run)
            case _:
                raise NotImplementedError(intent)
        cluster.moved(Key("ChangeRequest", NAMESPACE, run))

    async def event(self, subject: dict[str, Any], reason: str, message: str, *, warning: bool) -> None:
        self.watch.told(reason, message)
