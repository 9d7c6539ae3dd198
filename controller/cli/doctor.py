"""What `doctor` looks at: whether everything that Serin stands on is there, line by line, each with its mend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from rich.table import Table
from rich.text import Text

from controller.app import IDENTITY, KUBERNETES_MIN, RIGHTS
from controller.cli.cluster import TYPES, Cluster
from controller.cli.options import now
from controller.cluster import manifest
from controller.cluster.client import Resource
from controller.cluster.kinds import (
    CHANGES,
    DECISIONS,
    DEPLOYMENTS,
    MUTATING_BINDINGS,
    MUTATING_POLICIES,
    PODS,
    POLICIES,
    REPLICA_SETS,
    ROUTES,
    SERVICES,
    VALIDATING_BINDINGS,
    VALIDATING_POLICIES,
)
from controller.cluster.lease import LEASES
from controller.cluster.read import REQUIRED_POLICIES
from controller.core.change import CHANGE_LABEL, RUN_LABEL, printable
from controller.core.codec import FieldError, parse_moment
from controller.core.model import LOCKED, Action, Deployment, Held, ReplicaSet
from controller.core.policy import ChangeType, parse_policy
from controller.errors import ForbiddenError, NotFoundError, NotServedError, SerinError
from controller.metrics.presets import PRESETS
from controller.traffic import gateway

Json = dict[str, Any]

INSTALL = "kubectl apply --server-side -k manifests/"
INSTALL_POLICIES = "kubectl apply --server-side -k policies/"
NAMESPACE = "serin-system"
SELECTOR = "app.kubernetes.io/name=serin"
NO_METRICS = frozenset(
    ("NoData", "NoMetrics", "PartialData", "PrometheusError", "PrometheusUnreachable", "InvalidQuery")
)
VERBS = (*dict.fromkeys(action.verb for action in Action), "declare")


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    WRONG = "wrong"


STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.WRONG: "red"}


@dataclass(frozen=True)
class Finding:
    """`mend`: a command, or what to do; empty when all is well."""

    level: Level
    about: str
    text: str
    mend: str = ""

    def as_data(self) -> dict[str, str]:
        return {key: str(value) for key, value in asdict(self).items() if value}


def ok(about: str, text: str) -> Finding:
    return Finding(Level.OK, about, text)


def warn(about: str, text: str, mend: str) -> Finding:
    return Finding(Level.WARN, about, text, mend)


def wrong(about: str, text: str, mend: str) -> Finding:
    return Finding(Level.WRONG, about, text, mend)


def shown(findings: Iterable[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(printable(finding.text, 1000))
        if finding.mend:
            text.append(f"\n→ {printable(finding.mend, 1000)}", "bold")
        table.add_row(Text(finding.level, STYLES[finding.level]), finding.about, text)
    return table


async def examine(cluster: Cluster) -> list[Finding]:
    """Every check; one that may not look says so, and hides no other."""
    await cluster.client.version()  # when nobody answers, that is all there is to say
    checks: list[tuple[str, Callable[[Cluster], AsyncIterator[Finding]]]] = [
        ("server", server),
        ("kinds", kinds),
        ("admission", admission),
        ("policies", policies),
        ("rights", rights),
        ("controller", controller),
        ("metrics", metrics),
        ("routes", routes),
        ("workloads", workloads),
        ("you", you),
    ]
    groups = await asyncio.gather(*(_safely(about, check(cluster)) for about, check in checks))
    return [finding for group in groups for finding in group]


async def _safely(about: str, findings: AsyncIterator[Finding]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found += [finding async for finding in findings]
    except ForbiddenError as error:
        found.append(warn(about, f"you may not look: {error.message}", "ask someone who may, or for serin-auditor"))
    except SerinError as error:
        found.append(wrong(about, error.message, "try again; see the API server's log"))
    return found


# --- What Serin stands on ---


async def server(cluster: Cluster) -> AsyncIterator[Finding]:
    version = await cluster.client.version()
    have, want = (".".join(map(str, v)) for v in (version, KUBERNETES_MIN))
    if version < KUBERNETES_MIN:
        yield wrong(
            "server", f"Kubernetes {have}: MutatingAdmissionPolicy is not GA before {want}", f"upgrade to {want}"
        )
    else:
        yield ok("server", f"Kubernetes {have}")


async def kinds(cluster: Cluster) -> AsyncIterator[Finding]:
    served = await cluster.client.api_resources(CHANGES.group_version) or set()
    missing = [kind.kind for kind in (CHANGES, DECISIONS, POLICIES) if kind.plural not in served]
    if missing:
        yield wrong("kinds", f"{', '.join(missing)} not served", INSTALL)
    else:
        yield ok("kinds", "ChangeRequest, ChangeDecision, ChangePolicy are served")
    if not await cluster.client.api_resources(ROUTES["HTTPRoute"].group_version):
        yield warn("kinds", "no Gateway API: every rollout is native, without a canary", "install the Gateway API CRDs")


async def admission(cluster: Cluster) -> AsyncIterator[Finding]:
    """There, bound, and those that guard as strict as they ship: others only warn, or write to the audit log."""
    lists: dict[Resource, list[Json]] = {}
    for resource in (MUTATING_POLICIES, MUTATING_BINDINGS, VALIDATING_POLICIES, VALIDATING_BINDINGS):
        lists[resource] = [i for i in await _items(cluster, resource) if i["metadata"]["name"].startswith("serin-")]
    missing = [
        f"{resource.kind} {name}"
        for resource, names in REQUIRED_POLICIES.items()
        for name in names
        if name not in {item["metadata"]["name"] for item in lists[resource]}
    ]
    if missing:
        yield wrong("admission", f"{', '.join(missing)} not found: no change starts", INSTALL_POLICIES)
    bound = {b["spec"]["policyName"] for kind in (MUTATING_BINDINGS, VALIDATING_BINDINGS) for b in lists[kind]}
    for resource in (MUTATING_POLICIES, VALIDATING_POLICIES):
        for item in lists[resource]:
            name = item["metadata"]["name"]
            if name not in bound:
                yield wrong("admission", f"{resource.kind} {name} is not bound: it does nothing", INSTALL_POLICIES)
            if name in REQUIRED_POLICIES[resource] and item["spec"].get("failurePolicy") != "Fail":
                yield wrong("admission", f"{resource.kind} {name} does not fail closed", INSTALL_POLICIES)
    for item in lists[VALIDATING_BINDINGS]:
        name = item["metadata"]["name"]
        if name in REQUIRED_POLICIES[VALIDATING_BINDINGS] and "Deny" not in item["spec"].get("validationActions", ()):
            yield wrong("admission", f"binding {name} does not deny", INSTALL_POLICIES)
    if not missing:
        count = sum(len(lists[kind]) for kind in (MUTATING_POLICIES, VALIDATING_POLICIES))
        yield ok("admission", f"{count} policies are there and bound")


async def policies(cluster: Cluster) -> AsyncIterator[Finding]:
    found = {item["metadata"]["name"]: item for item in await _items(cluster, POLICIES)}
    for name, item in sorted(found.items()):
        try:
            parse_policy(item.get("spec") or {}, frozenset(PRESETS))
            yield ok("policies", f"ChangePolicy {name} can be used")
        except FieldError as error:
            yield wrong("policies", f"ChangePolicy {name}: {error}", f"kubectl edit chgp {name}")
    if missing := [kind for kind in ChangeType if kind not in found]:
        yield wrong("policies", f"no ChangePolicy {', '.join(missing)}: such changes wait", INSTALL_POLICIES)


async def rights(cluster: Cluster) -> AsyncIterator[Finding]:
    """Of the controller, asked as someone who may ask for others."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated")
    asked = [(verb, resource) for resource, verbs in RIGHTS.items() for verb in verbs.split()]
    answers = await asyncio.gather(
        *(cluster.client.subject_review(IDENTITY, groups, verb, r.group, r.plural, "", "") for verb, r in asked)
    )
    denied = [f"{verb} {r.label}" for (verb, r), may in zip(asked, answers, strict=True) if not may]
    if denied:
        yield wrong("rights", f"{IDENTITY} may not {', '.join(denied)}", INSTALL)
    else:
        yield ok("rights", f"{IDENTITY} has all {len(asked)} that it needs")


async def controller(cluster: Cluster) -> AsyncIterator[Finding]:
    """Somebody leads, and renewed the Lease a moment ago."""
    look = f"kubectl get pods -n {NAMESPACE}"
    try:
        spec = (await cluster.client.get(LEASES, NAMESPACE, "serin"))["spec"]
    except NotFoundError:
        yield wrong("controller", f"no Lease serin in {NAMESPACE}: it has never led here", look)
        return
    yield leading(spec, now(), look)


def leading(spec: Json, at: datetime, look: str) -> Finding:
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if not holder or not renewed:
        return wrong("controller", "nobody leads: nothing moves", look)
    age = at - parse_moment(renewed)
    if age > 2 * timedelta(seconds=float(spec.get("leaseDurationSeconds") or 15)):
        return wrong("controller", f"{holder} has not renewed its Lease for {age.total_seconds():.0f} s", look)
    return ok("controller", f"{holder} leads; renewed {max(0, age.total_seconds()):.0f} s ago")


async def metrics(cluster: Cluster) -> AsyncIterator[Finding]:
    """What the controller says of Prometheus: its own metrics where they can be reached, and what its changes show."""
    log = f"kubectl logs -n {NAMESPACE} deployment/serin"
    pods = [manifest.pod(pod) for pod in await _items(cluster, PODS, NAMESPACE, SELECTOR)]
    for pod in pods:
        try:
            text = await cluster.client.pod_text(NAMESPACE, pod.name, 8080, "/metrics")
        except SerinError:
            continue
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        if samples.get("serin_leader") == "1.0":
            up = samples.get("serin_prometheus_up") == "1.0"
            yield (
                ok("metrics", "Prometheus answers")
                if up
                else wrong("metrics", "Prometheus does not answer the controller: no canary is started", log)
            )
            return
    known = await cluster.changes()
    blind = [(change, state) for change, state in known if not state.phase.terminal and state.reason in NO_METRICS]
    for change, state in blind:
        yield wrong("metrics", f"{change.change_id} in {change.namespace}: {state.reason}: {state.message}", log)
    if not blind:
        yield ok("metrics", "no change lacks data; the controller's own metrics cannot be seen from here")


# --- The workloads ---


async def routes(cluster: Cluster) -> AsyncIterator[Finding]:
    """Those that lead to a labelled Deployment."""
    labelled = [manifest.deployment(raw) for raw in await _here(cluster, DEPLOYMENTS, CHANGE_LABEL)]
    services = [raw for raw in await _here(cluster, SERVICES) if RUN_LABEL not in (raw["metadata"].get("labels") or {})]
    behind = {
        (s["metadata"]["namespace"], s["metadata"]["name"])
        for s in services
        for d in labelled
        if d.namespace == s["metadata"]["namespace"]
        and manifest.selects(s["spec"].get("selector"), (d.template.get("metadata") or {}).get("labels") or {})
    }
    namespaces = {namespace for namespace, _ in behind}
    leading = [
        (f"{kind} {raw['metadata']['name']} in {raw['metadata']['namespace']}", raw)
        for kind, resource in ROUTES.items()
        for raw in await _here(cluster, resource)
        if any((ns, name) in behind for ns in namespaces for name in gateway.services_named(raw, ns))
    ]
    refused = [name for name, raw in leading if not gateway.accepted(raw)]
    for name in refused:
        yield wrong("routes", f"{name} is not accepted by its gateway", "see its status.parents, and mend what it says")
    if not refused:
        yield ok("routes", f"{len(leading)} lead to {len(labelled)} labelled Deployments, all accepted")


async def workloads(cluster: Cluster) -> AsyncIterator[Finding]:
    """Labelled Deployments whose hold is not what the label promises."""
    raws = await _here(cluster, DEPLOYMENTS, CHANGE_LABEL)
    sets = await _here(cluster, REPLICA_SETS)
    known = await cluster.changes()
    active = {(c.namespace, t.name) for c, s in known if not s.phase.terminal for t in s.targets}
    bad = 0
    for raw in raws:
        owned = [
            manifest.replica_set(rs)
            for rs in sets
            if any(o["uid"] == raw["metadata"]["uid"] for o in rs["metadata"].get("ownerReferences") or ())
        ]
        deployment = manifest.deployment(raw)
        for finding in held_as_promised(deployment, owned, active=(deployment.namespace, deployment.name) in active):
            bad += 1
            yield finding
    if not bad:
        yield ok("workloads", f"{len(raws)} labelled Deployments are held, or run what was let through")


def held_as_promised(d: Deployment, replica_sets: Iterable[ReplicaSet], *, active: bool) -> Iterator[Finding]:
    name = f"Deployment {d.name} in {d.namespace}"
    runs = any(rs.replicas and rs.revision == d.revision for rs in replica_sets)
    apply_again = "apply its template again, with the admission policies installed"
    if d.held in (Held.WAITING, Held.REJECTED):
        if not d.paused:
            yield wrong("workloads", f"{name} is held and not paused: nothing stops its template", apply_again)
        elif runs and d.held == Held.REJECTED:
            yield wrong("workloads", f"{name} runs pods of the template that was rejected", apply_again)
    elif d.held in LOCKED:
        if not active:
            yield warn("workloads", f"{name} is marked {d.held}, and no change is under way for it", apply_again)
    elif d.paused:
        resume = f"kubectl rollout resume deployment/{d.name} -n {d.namespace}"
        yield warn("workloads", f"{name} is paused by somebody, not held by Serin", resume)


async def you(cluster: Cluster) -> AsyncIterator[Finding]:
    me = await cluster.who_am_i()
    asked = [(kind, verb) for kind in ChangeType for verb in VERBS]
    answers = await asyncio.gather(*(cluster.may(verb, TYPES, cluster.namespace, kind) for kind, verb in asked))
    may = {kind: [v for (k, v), yes in zip(asked, answers, strict=True) if yes and k is kind] for kind in ChangeType}
    text = "; ".join(f"{kind}: {', '.join(verbs)}" for kind, verbs in may.items() if verbs)
    yield ok("you", f"{me} may, in {cluster.namespace}, {text or 'decide nothing'}")


# --- Reading ---


async def _items(cluster: Cluster, resource: Resource, namespace: str | None = None, selector: str = "") -> list[Json]:
    try:
        return (await cluster.client.list(resource, namespace, label_selector=selector))[0]
    except NotServedError:
        return []


def _here(cluster: Cluster, resource: Resource, selector: str = "") -> Awaitable[list[Json]]:
    return _items(cluster, resource, None if cluster.everywhere else cluster.namespace, selector)
