"""Everything that one decision rests on, read from the cluster.

Caches of the objects that carry our labels say when to look, and hold what changes often (pods, endpoints). What a
write will rest on, the Deployment, its ReplicaSets, the routes and the canary's objects, is read live: a lagging copy
must not delete a canary that still has traffic.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

import structlog

from controller.cluster import gitops, kinds, manifest
from controller.cluster.cache import Cache
from controller.cluster.client import Client, Resource
from controller.core import jobs
from controller.core import template as pod_template
from controller.core.change import CHANGE_LABEL, RUN_LABEL
from controller.core.codec import FieldError
from controller.core.decisions import needs_rights
from controller.core.intake import Ask
from controller.core.model import (
    LOCKED,
    CanaryParts,
    Change,
    CronJob,
    Decision,
    Deployment,
    Held,
    Job,
    Measurements,
    Observation,
    Other,
    Phase,
    Pod,
    ReplicaSet,
    Revert,
    Route,
    RouteOriginal,
    Seen,
    ServicePair,
    State,
    Target,
)
from controller.core.policy import JOB_NAME, Policy, parse_policy
from controller.errors import NotFoundError, NotServedError, SerinError, TransientError
from controller.traffic import gateway

Json = dict[str, Any]
log = structlog.get_logger()

ROUTE_LAG = timedelta(milliseconds=500)
"""From a route's acceptance to the proxies that act on it; 0.25 s was measured with Contour and one Envoy."""

UNSERVED_FOR = timedelta(seconds=15)
"""A kind that the API server does not serve is asked for again after that: who installs a rollout controller may give
it a Deployment at once. However many changes wait, that is one request in that time for each kind."""

RIGHTS_MAX = timedelta(seconds=2)
"""An authorizer that hangs delays no rollback by more than that."""

_MUTATING = ("serin-hold", "serin-stamp", "serin-decider", "serin-decision-owner")
_VALIDATING = (
    *("serin-guard", "serin-children", "serin-own", "serin-requests"),
    *("serin-decisions", "serin-decisions-change", "serin-decisions-account"),
)
REQUIRED_POLICIES = {
    kinds.MUTATING_POLICIES: _MUTATING,
    kinds.MUTATING_BINDINGS: _MUTATING,
    kinds.VALIDATING_POLICIES: _VALIDATING,
    kinds.VALIDATING_BINDINGS: _VALIDATING,
}
"""Without these an approval could be gone around, or forged: no change starts."""


class Key(NamedTuple):
    """What to reconcile: a ChangeRequest, or a Deployment that may ask for one."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True)
class Known:
    """A ChangeRequest as the cache has it. `unreadable`: a newer version of us wrote its status."""

    change: Change
    state: State
    unreadable: str = ""

    @property
    def other(self) -> Other:
        return replace(Other.of(self.change, self.state), unreadable=self.unreadable)


@dataclass(frozen=True)
class Rulebook:
    """A ChangePolicy, or what is wrong with it."""

    name: str
    policy: Policy | None
    problem: str = ""


class Cluster:
    """Caches and live reads. `on_change` is told which keys to look at again."""

    def __init__(self, client: Client, presets: frozenset[str], on_change: Callable[[Key], None]) -> None:
        self._client = client
        self._tell = on_change
        self._presets = presets
        self.lacking: tuple[str, ...] = ()
        """`Reason: text` for what the controller itself needs and does not have."""
        self.changes = Cache(
            client,
            kinds.CHANGES,
            _known,
            self._change_moved,
            indexes={"id": lambda k: [k.change.change_id], "deployment": _deployments_of, "owed": _owed_to},
        )
        self.decisions = Cache(
            client,
            kinds.DECISIONS,
            manifest.decision,
            self._decision_moved,
            indexes={"change": lambda d: [(d.namespace, d.change_id)]},
        )
        self.policies = Cache(client, kinds.POLICIES, self._rulebook, self._policy_moved)
        self.deployments = Cache(
            client,
            kinds.DEPLOYMENTS,
            manifest.deployment,
            self._deployment_moved,
            label_selector=CHANGE_LABEL,
            indexes={"change": lambda d: [(d.namespace, d.change)]},
        )
        self.canaries = Cache(
            client,
            kinds.DEPLOYMENTS,
            _run_and_replicas,
            self._part_moved,
            indexes={"run": lambda c: [c[0]]},
            label_selector=RUN_LABEL,
        )
        self.pods = Cache(
            client,
            kinds.PODS,
            _run_and_pod,
            self._part_moved,
            indexes={"run": lambda p: [p[0]]},
            label_selector=RUN_LABEL,
        )
        self.slices = Cache(
            client,
            kinds.ENDPOINT_SLICES,
            _run_and_endpoints,
            self._part_moved,
            indexes={"run": lambda s: [s[0]]},
            label_selector=RUN_LABEL,
        )
        self.routes = {
            kind: Cache(client, resource, _raw(kind), self._route_moved) for kind, resource in kinds.ROUTES.items()
        }
        self._accepted_at: dict[str, tuple[int, float]] = {}
        self._unserved_until: dict[Resource, float] = {}
        self._listed: dict[Resource, int] = {}
        """The newest resource version that a list of the kind was of."""
        self.caches: tuple[Cache[Any], ...] = (
            self.policies,
            self.decisions,
            self.changes,
            *self.routes.values(),
            self.canaries,
            self.pods,
            self.slices,
            self.deployments,
        )

    # --- Who has to look again ---

    def _change_moved(self, old: Known | None, new: Known | None) -> None:
        known = new or old
        assert known is not None
        key = Key("ChangeRequest", known.change.namespace, known.change.name)
        self._tell(key)
        if new is None or (old and old.state.phase is not new.state.phase):
            for name in _names(known):
                self._tell(Key("Deployment", known.change.namespace, name))
            waiting = {
                w.change.name for name in _names(known) for w in self.changes.by("deployment", (key.namespace, name))
            }
            for name in waiting - {key.name}:
                self._tell(Key("ChangeRequest", key.namespace, name))

    def _decision_moved(self, old: Decision | None, new: Decision | None) -> None:
        decision = new or old
        assert decision is not None
        for known in self.changes.by("id", decision.change_id):
            if known.change.namespace == decision.namespace:
                self._tell(Key("ChangeRequest", known.change.namespace, known.change.name))

    def _policy_moved(self, old: Rulebook | None, new: Rulebook | None) -> None:
        for known in self.changes.list():
            if not known.state.phase.terminal:
                self._tell(Key("ChangeRequest", known.change.namespace, known.change.name))

    def _deployment_moved(self, old: Deployment | None, new: Deployment | None) -> None:
        d = new or old
        assert d is not None
        self._tell(Key("Deployment", d.namespace, d.name))
        for known in self.changes.by("deployment", (d.namespace, d.name)):
            self._tell(Key("ChangeRequest", known.change.namespace, known.change.name))

    def _part_moved(self, old: Any, new: Any) -> None:
        namespace, name = (new or old)[0]
        self._tell(Key("ChangeRequest", namespace, name))

    def _route_moved(self, old: Json | None, new: Json | None) -> None:
        meta = (new or old or {})["metadata"]
        for known in self.changes.list():
            if not known.state.phase.terminal and (
                meta["namespace"] == known.change.namespace
                or any(r.name == meta["name"] for t in known.state.targets for r in t.routes)
            ):
                self._tell(Key("ChangeRequest", known.change.namespace, known.change.name))

    def _rulebook(self, raw: Json) -> Rulebook:
        name = raw["metadata"]["name"]
        try:
            return Rulebook(name, parse_policy(raw.get("spec") or {}, self._presets))
        except FieldError as error:
            return Rulebook(name, None, f"InvalidPolicy: ChangePolicy {name}: {error}")

    # --- What the controller itself needs ---

    async def check_admission(self) -> None:
        """Look whether the admission policies are there, bound without exceptions, and refuse what they find."""
        wrong = []
        for resource, names in REQUIRED_POLICIES.items():
            try:
                found = {item["metadata"]["name"]: item for item in (await self._client.list(resource))[0]}
            except NotServedError:
                found = {}
            wrong += [f"{resource.kind} {name} {why}" for name in names if (why := manifest.lax(found.get(name)))]
        way_on = "install them: kubectl apply --server-side -k policies/"
        self.lacking = (f"AdmissionMissing: {', '.join(wrong)}; {way_on}",) if wrong else ()

    # --- One Deployment's question ---

    async def ask(self, namespace: str, name: str) -> Ask | None:
        if self.deployments.get(namespace, name) is None:
            return None
        try:
            d = manifest.deployment(await self._client.get(kinds.DEPLOYMENTS, namespace, name))
        except NotFoundError:
            return None
        known = self.changes.list()
        running = any(k.other.active for k in self.changes.by("deployment", (namespace, name)))
        if d.held == Held.WAITING or (d.held in LOCKED and not running):
            # Live: a record that was made a moment ago, for this template, must not be made twice; and of the change
            # that has marked it as running, the cache may not know yet that it does.
            here = [_known({"kind": "ChangeRequest", **raw}) for raw in await self._items(kinds.CHANGES, namespace)]
            known = [*here, *(k for k in known if k.change.namespace != namespace)]
        return Ask(
            deployment=d,
            replica_sets=await self._replica_sets(d),
            changes=[(k.change, k.other) for k in known if k.change.namespace == namespace],
            taken_ids=[k.change.change_id for k in known],
        )

    # --- One change ---

    def known(self, namespace: str, name: str) -> Known | None:
        return self.changes.get(namespace, name)

    async def reread(self, namespace: str, name: str) -> Known | None:
        """The ChangeRequest of now, of which the cache may not have heard yet."""
        try:
            return _known({"kind": "ChangeRequest", **await self._client.get(kinds.CHANGES, namespace, name)})
        except NotFoundError:
            return None

    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation:
        labelled = {d.name for d in self.deployments.by("change", (change.namespace, change.change_id))}
        names = {
            *change.deployments,
            *(t.name for t in state.targets),
            *(labelled if state.phase is Phase.WAITING else ()),
        }
        seen = await asyncio.gather(*(self._see(change, state, name) for name in sorted(names)))
        if state.phase is Phase.WAITING:
            claims = await self._claims(change.namespace)
            seen = [manifest.claimed(each, claims) for each in seen]
        policy, problem = self._policy_for(change)
        siblings = {k.change.name: k for name in names for k in self.changes.by("deployment", (change.namespace, name))}
        same_id = (k for k in self.changes.by("id", change.change_id) if k.change.namespace != change.namespace)
        return Observation(
            change=change,
            targets=dict(zip(sorted(names), seen, strict=True)),
            policy=policy,
            policy_problem=problem,
            measurements=measurements,
            others=tuple(k.other for k in (*siblings.values(), *same_id) if k.change.uid != change.uid),
            decisions=await self._decisions(change, state),
            cron_jobs=await self._cron_jobs(change, state, policy),
            environment=self.lacking,
        )

    async def conclusion(self, change: Change, state: State) -> Observation:
        """What matters to a change that has ended: what people decide about it, and a canary that came late."""
        policy, problem = self._policy_for(change)
        decisions = await self._decisions(change, state)
        run = (change.namespace, change.name)
        names = [t.name for t in state.targets] if self.canaries.by("run", run) or self.slices.by("run", run) else []
        seen = await asyncio.gather(*(self._see(change, state, name) for name in names))
        there = dict(zip(names, seen, strict=True))
        return Observation(change, there, policy, policy_problem=problem, decisions=decisions)

    async def _decisions(self, change: Change, state: State) -> tuple[Decision, ...]:
        """Those that name the change; and whether their authors may, as the API server says, where it matters.

        While it cannot be asked nothing is known, so nothing new counts; what is under way goes on.
        """
        found = self.decisions.by("change", (change.namespace, change.change_id))
        return tuple(await asyncio.gather(*(self._with_rights(change, state, d) for d in found)))

    async def _with_rights(self, change: Change, state: State, decision: Decision) -> Decision:
        if not needs_rights(state, decision) or change.type is None:
            return decision
        asked = (decision.action.verb, kinds.DECISIONS.group, "changetypes", change.namespace, change.type.value)
        try:
            async with asyncio.timeout(RIGHTS_MAX.total_seconds()):
                allowed = await self._client.subject_review(decision.by, decision.groups, *asked)
        except (SerinError, TimeoutError) as error:
            reason = error.reason if isinstance(error, SerinError) else "Timeout"
            log.warning("rights_unknown", change=change.change_id, by=decision.by, reason=reason)
            return decision
        return replace(decision, authorized=allowed)

    def policy(self, change: Change) -> Policy | None:
        """The one in force for its type, if it can be used."""
        return self._policy_for(change)[0]

    async def _claims(self, namespace: str) -> Mapping[str, str]:
        """Deployments that another rollout controller is told to roll out, and the object that tells it."""
        found = await asyncio.gather(
            self._items(kinds.ARGO_ROLLOUTS, namespace),
            self._items(kinds.FLAGGER_CANARIES, namespace),
            self._items(kinds.KRUISE_ROLLOUTS, namespace),
        )
        return dict(claim for items in found for raw in items for claim in manifest.claims(raw))

    async def _cron_jobs(self, change: Change, state: State, policy: Policy | None) -> Mapping[str, CronJob]:
        """What is to be run before the start; nothing afterwards."""
        rules = jobs.wanted(change, policy) if policy and state.phase is Phase.WAITING else ()
        names = [rule.cron_job for rule in rules if JOB_NAME.fullmatch(rule.cron_job)]
        found = await asyncio.gather(*(self._cron_job(change, state, name) for name in names))
        return dict(zip(names, found, strict=True))

    async def _cron_job(self, change: Change, state: State, name: str) -> CronJob:
        job = await self._job(change, pod_template.job_name(change.name, state.revision, name))
        try:
            found = await self._client.get(kinds.CRON_JOBS, change.namespace, name)
        except NotFoundError:
            return CronJob(found=False, job=job)
        return CronJob(found=True, offered=manifest.offered(found), job=job)

    async def _job(self, change: Change, name: str) -> Job | None:
        """The Job of that name, if it is this change's."""
        try:
            raw = await self._client.get(kinds.JOBS, change.namespace, name)
        except NotFoundError:
            return None
        if not manifest.owned_by(raw, change):
            return None
        pods = await self._items(kinds.PODS, change.namespace, f"batch.kubernetes.io/job-name={name}")
        return manifest.job(raw, pods)

    def _policy_for(self, change: Change) -> tuple[Policy | None, str]:
        if change.type is None:
            return None, "UnknownType: the type must be standard, normal or emergency"
        book = self.policies.get("", change.type)
        if book is None:
            return (
                None,
                f"PolicyNotFound: there is no ChangePolicy {change.type}: kubectl apply --server-side -k policies/",
            )
        return book.policy, book.problem

    async def _see(self, change: Change, state: State, name: str) -> Seen:
        target = state.target(name)
        d = await self._deployment(change.namespace, name)
        canary = (
            await self._canary(change, state, target) if target and state.phase is not Phase.WAITING else CanaryParts()
        )
        scalers = (s for s in await self._items(kinds.AUTOSCALERS, change.namespace) if _scales(s, name))
        scaler = next(scalers, None)
        autoscaler = manifest.autoscaler(scaler) if scaler else None
        if scaler and autoscaler and autoscaler.author and state.phase is Phase.WAITING:
            autoscaler = replace(
                autoscaler, reverts=await self._reverts(scaler, kinds.AUTOSCALERS, "/spec/minReplicas")
            )
        if d is None or (target and state.phase is not Phase.WAITING and d.uid != target.uid):
            pairs = target.services if target else ()
            return Seen(
                deployment=d,
                endpoints=await self._endpoints(change.namespace, pairs),
                canary=canary,
                routes=await self._routes(change, state, target, pairs),
                autoscaler=autoscaler,
            )
        replica_sets, services = await asyncio.gather(
            self._replica_sets(d), self._items(kinds.SERVICES, change.namespace)
        )
        labels = (d.template.get("metadata") or {}).get("labels") or {}
        behind = [
            s
            for s in services
            if manifest.selects(s["spec"].get("selector"), labels)
            and RUN_LABEL not in (s["metadata"].get("labels") or {})
        ]
        named = self._named(change.namespace)
        pairs = (
            target.services
            if target and state.phase is not Phase.WAITING
            else tuple(_pair(s) for s in behind if s["metadata"]["name"] in named)
        )
        unserved = name if name in named and not any(s["metadata"]["name"] == name for s in behind) else ""
        waiting = state.phase is Phase.WAITING
        chosen = {s["metadata"]["name"] for s in behind}
        mine = {pair.stable for pair in pairs}
        stray = [s for s in services if s["metadata"]["name"] in mine - chosen]
        return Seen(
            deployment=d,
            replica_sets=replica_sets,
            pods=await self._own_pods(d) if state.promoted else (),
            endpoints=await self._endpoints(change.namespace, pairs) if state.promoted else {},
            canary=canary,
            routes=await self._routes(change, state, target, pairs),
            services=pairs,
            autoscaler=autoscaler,
            companions=await self._companions(d, target, change, state),
            obstacles=tuple(pod_template.obstacles(d.template, await self._shared_claims(d))) if waiting else (),
            selector_key=pod_template.selector_key(d.selector, [s["spec"]["selector"] for s in behind])
            if waiting
            else "",
            taken=await self._taken(change.namespace, name, services, pairs) if waiting else "",
            unserved=f"Service {unserved} is named by a route but selects no pod of Deployment {name}"
            if unserved
            else "",
            strays=tuple(manifest.written(s, "Service", "selector") for s in stray),
        )

    async def _taken(self, namespace: str, name: str, services: list[Json], pairs: Iterable[ServicePair]) -> str:
        needed = {pair.canary for pair in pairs}
        foreign = sorted(needed & {s["metadata"]["name"] for s in services if not _is_ours(s)})
        if foreign:
            return f"Service {foreign[0]}"
        canary = pod_template.canary_name(name)
        found = await self._deployment(namespace, canary)
        return f"Deployment {canary}" if found and RUN_LABEL not in found.labels else ""

    async def _deployment(self, namespace: str, name: str) -> Deployment | None:
        """None when it is gone, or going: in the foreground, its pods are deleted before it."""
        known = self.deployments.get(namespace, name)
        try:
            found = await self._client.get(kinds.DEPLOYMENTS, namespace, name)
        except NotFoundError:
            return None
        if known and known.uid == found["metadata"]["uid"]:
            _not_older(found, known.resource_version, f"Deployment {name}")
        return None if "deletionTimestamp" in found["metadata"] else manifest.deployment(found)

    async def _replica_sets(self, d: Deployment) -> tuple[ReplicaSet, ...]:
        found = await self._items(kinds.REPLICA_SETS, d.namespace, _selector(d.selector))
        return tuple(
            manifest.replica_set(rs)
            for rs in found
            if any(o["uid"] == d.uid for o in rs["metadata"].get("ownerReferences") or [])
        )

    async def _own_pods(self, d: Deployment) -> tuple[Pod, ...]:
        return tuple(manifest.pod(p) for p in await self._items(kinds.PODS, d.namespace, _selector(d.selector)))

    async def _endpoints(self, namespace: str, pairs: Iterable[ServicePair]) -> Mapping[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for pair in pairs:
            slices = await self._items(kinds.ENDPOINT_SLICES, namespace, f"kubernetes.io/service-name={pair.stable}")
            found[pair.stable] = frozenset().union(*map(manifest.ready_endpoints, slices))
        return found

    async def _shared_claims(self, d: Deployment) -> Mapping[str, bool]:
        if not any("persistentVolumeClaim" in v for v in (d.template.get("spec") or {}).get("volumes") or []):
            return {}
        claims = await self._items(kinds.CLAIMS, d.namespace)
        shared = {"ReadWriteMany", "ReadOnlyMany"}
        return {c["metadata"]["name"]: bool(shared & set(c["spec"].get("accessModes") or [])) for c in claims}

    async def _canary(self, change: Change, state: State, target: Target) -> CanaryParts:
        selector = f"{RUN_LABEL}={change.name}"
        setting_up = state.settled_at is None or state.phase is not Phase.PROGRESSING
        deployments, services, *copies = await asyncio.gather(
            self._items(kinds.DEPLOYMENTS, change.namespace, selector),
            self._items(kinds.SERVICES, change.namespace, selector),
            *(self._items(kind, change.namespace, selector) for kind in kinds.COMPANIONS.values() if setting_up),
        )
        own = next((d for d in deployments if d["metadata"]["name"] == target.canary), None)
        mine = manifest.deployment(own) if own else None
        wanted = {pair.canary for pair in target.services}
        edits = list(manifest.edits(own, "Deployment", "template")) if own else []
        for service in services:
            edits += manifest.edits(service, "Service", "selector", "ports")
        run = (change.namespace, change.name)
        pods = tuple(pod for _, pod in self.pods.by("run", run) if mine and manifest.selects(mine.selector, pod.labels))
        endpoints: dict[str, frozenset[str]] = {}
        for _, service, ready in self.slices.by("run", run):
            endpoints[service] = endpoints.get(service, frozenset()) | ready
        prefix = pod_template.copy_name(target.name, "").removesuffix("canary")[:-1]
        return CanaryParts(
            deployment=mine,
            services=tuple(sorted(name for s in services if (name := s["metadata"]["name"]) in wanted)),
            endpoints={service: len(ready) for service, ready in endpoints.items()},
            pods=pods,
            companions=tuple(
                f"{kind}/{item['metadata']['name']}"
                for kind, items in zip(kinds.COMPANIONS, copies, strict=False)
                for item in items
                if item["metadata"]["name"].startswith(prefix)
            ),
            edits=tuple(edits),
        )

    async def _companions(self, d: Deployment, target: Target | None, change: Change, state: State) -> tuple[str, ...]:
        if target is None or not target.selector_key or state.phase is not Phase.PROGRESSING or state.settled_at:
            return ()
        stable = (d.template.get("metadata") or {}).get("labels") or {}
        canary = manifest.canary_labels(stable, target, change.name)
        found = []
        for kind, resource in kinds.COMPANIONS.items():
            for item in await self._items(resource, change.namespace):
                ours = RUN_LABEL in (item["metadata"].get("labels") or {})
                if not ours and manifest.needs_copy({"kind": kind, **item}, stable, canary):
                    found.append(f"{kind}/{item['metadata']['name']}")
        return tuple(found)

    # --- Routes ---

    def _named(self, namespace: str) -> set[str]:
        """The Services of a namespace that any route names."""
        return {
            name
            for cache in self.routes.values()
            for route in cache.list()
            for name in gateway.services_named(route, namespace)
        }

    async def _routes(
        self, change: Change, state: State, target: Target | None, pairs: Iterable[ServicePair]
    ) -> tuple[Route, ...]:
        pairs = tuple(pairs)
        names = [name for pair in pairs for name in (pair.stable, pair.canary)]
        found = {
            (kind, r["metadata"]["namespace"], r["metadata"]["name"]): r
            for kind, cache in self.routes.items()
            for r in cache.list()
            if gateway.names_service(r, change.namespace, names)
        }
        known = {r.key: r for r in target.routes} if target else {}
        if state.phase is not Phase.WAITING:
            keys = {*found, *((r.kind, r.namespace, r.name) for r in known.values())}
            found = {key: raw for key in sorted(keys) if (raw := await self._live_route(*key))}
        grants = (
            await self._items(kinds.REFERENCE_GRANTS, change.namespace)
            if any(key[1] != change.namespace for key in found)
            else []
        )
        # Before the start nothing was written that has to be taken in; and what has settled once has been: a process
        # that has just begun would find it pending else, and begin the dwell anew.
        lag = state.phase is not Phase.WAITING and state.settled_at is None
        home = change.namespace
        routes = [self._route(raw, home, pairs, known, grants, lag=lag) for _, raw in sorted(found.items())]
        if state.phase is not Phase.WAITING:
            return tuple(routes)
        written = [raw for _, raw in sorted(found.items())]
        reverts = [await self._reverts(raw, kinds.ROUTES[raw["kind"]], "/spec/rules") for raw in written]
        return tuple(replace(route, reverts=each) for route, each in zip(routes, reverts, strict=True))

    async def _reverts(self, raw: Json, resource: Resource, pointer: str) -> tuple[Revert, ...]:
        """What the GitOps tools that the object comes from do to a field of it."""
        field = gitops.Written({**raw, "kind": resource.kind}, resource.group, pointer)
        found = [
            gitops.revert(field, owner, await self._items(kinds.GITOPS[owner.kind], owner.namespace, name=owner.name))
            for owner in gitops.owners(field.raw)
        ]
        return tuple(revert for revert in found if revert)

    async def _live_route(self, kind: str, namespace: str, name: str) -> Json | None:
        known = self.routes[kind].get(namespace, name)
        try:
            found = await self._client.get(kinds.ROUTES[kind], namespace, name)
        except (NotFoundError, NotServedError):
            return None
        if known and known["metadata"]["uid"] == found["metadata"]["uid"]:
            _not_older(found, known["metadata"]["resourceVersion"], f"{kind} {name}")
        return {"kind": kind, **found}

    def _route(
        self,
        raw: Json,
        namespace: str,
        pairs: tuple[ServicePair, ...],
        known: Mapping[str, RouteOriginal],
        grants: list[Json],
        *,
        lag: bool,
    ) -> Route:
        key = f"{raw['kind']}/{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        wanted = gateway.original(raw, namespace, pairs, known.get(key))
        accepted = gateway.accepted(raw)
        taken_in = accepted and self._taken_in(key, raw)
        return Route(
            key=key,
            weight=gateway.weight(raw, namespace, pairs, wanted),
            intact=gateway.intact(raw, wanted),
            accepted=taken_in or (accepted and not lag),
            original=wanted,
            problem=gateway.grant_problem(raw, namespace, pairs, grants),
            author=manifest.author(raw, "spec", "rules"),
            resource_version=raw["metadata"]["resourceVersion"],
        )

    def _taken_in(self, key: str, raw: Json) -> bool:
        """Whether this generation was seen accepted a moment ago already; by our own clock."""
        now, generation = asyncio.get_running_loop().time(), int(raw["metadata"].get("generation") or 0)
        if self._accepted_at.get(key, (0, 0.0))[0] != generation:
            self._accepted_at[key] = (generation, now)
        return now - self._accepted_at[key][1] >= ROUTE_LAG.total_seconds()

    async def _items(self, resource: Resource, namespace: str, selector: str = "", *, name: str = "") -> list[Json]:
        """Those of a namespace, or of all (""); with `name`, the one of that name. What is not served has none.

        Of now: an API server, or a proxy before it, that answers from its past would have us miss a canary.
        """
        now = asyncio.get_running_loop().time()
        if now < self._unserved_until.get(resource, now):
            return []
        only = f"metadata.name={name}" if name else ""
        watched = (cache.version for cache in self.caches if cache.resource == resource)
        newest = max(self._listed.get(resource, 0), *watched, 0)
        try:
            items, version = await self._client.list(resource, namespace, label_selector=selector, field_selector=only)
        except NotServedError:
            self._unserved_until[resource] = now + UNSERVED_FOR.total_seconds()
            return []
        if int(version) < newest:
            raise TransientError("StaleRead", f"list {resource.label}: version {version}, but {newest} was seen")
        self._listed[resource] = max(int(version), self._listed.get(resource, 0))
        return items

    @property
    def oldest_contact(self) -> timedelta:
        return max(cache.age for cache in self.caches)


def _not_older(found: Json, known: str, what: str) -> None:
    """Refuse what an API server that lags behind says about an object that we have seen as it is since."""
    version = found["metadata"]["resourceVersion"]
    if int(version) < int(known):
        raise TransientError("StaleRead", f"get {what}: version {version}, but {known} was seen")


def _known(raw: Json) -> Known:
    try:
        return Known(*manifest.change(raw))
    except FieldError as error:
        plain = {key: value for key, value in raw.items() if key != "status"}
        return Known(manifest.change(plain)[0], State(), f"UnknownStatus: {error}; was it written by a newer version?")


def _is_ours(raw: Json) -> bool:
    return RUN_LABEL in (raw["metadata"].get("labels") or {})


def _names(known: Known) -> set[str]:
    return {*known.change.deployments, *(t.name for t in known.state.targets)}


def _owed_to(known: Known) -> set[str]:
    """Sinks that people have not been told by."""
    return {sink for told in known.state.told for sink in told.owed}


def _deployments_of(known: Known) -> list[tuple[str, str]]:
    return [(known.change.namespace, name) for name in _names(known)]


def _run(raw: Json) -> tuple[str, str]:
    return raw["metadata"]["namespace"], raw["metadata"]["labels"][RUN_LABEL]


def _run_and_pod(raw: Json) -> tuple[tuple[str, str], Pod]:
    return _run(raw), manifest.pod(raw)


def _run_and_replicas(raw: Json) -> tuple[tuple[str, str], str, int]:
    return _run(raw), raw["metadata"]["name"], int((raw.get("status") or {}).get("readyReplicas") or 0)


def _run_and_endpoints(raw: Json) -> tuple[tuple[str, str], str, frozenset[str]]:
    return _run(raw), raw["metadata"]["labels"].get("kubernetes.io/service-name", ""), manifest.ready_endpoints(raw)


def _raw(kind: str) -> Callable[[Json], Json]:
    def keep(raw: Json) -> Json:
        return {"kind": kind, "metadata": raw["metadata"], "spec": raw["spec"], "status": raw.get("status") or {}}

    return keep


def _pair(service: Json) -> ServicePair:
    name = service["metadata"]["name"]
    ports = tuple(int(port["port"]) for port in service["spec"].get("ports") or [])
    return ServicePair(name, pod_template.canary_name(name), ports)


def _scales(scaler: Json, name: str) -> bool:
    """One that another controller makes (KEDA) is not written: it would be written back at once."""
    ref = scaler["spec"]["scaleTargetRef"]
    made = any(owner.get("controller") for owner in scaler["metadata"].get("ownerReferences") or [])
    return bool(ref["kind"] == "Deployment" and ref["name"] == name and not made)


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())
