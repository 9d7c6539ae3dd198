"""Between the API server's JSON and the nouns of core: what is read of an object, and the objects that are made.

Pure.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from controller.core import template as pod_template
from controller.core.change import CHANGE_LABEL, JOB_LABEL, PREFIX, RUN_LABEL, check_id, check_spec, printable
from controller.core.codec import FieldError, decode, parse_moment
from controller.core.form import not_before
from controller.core.model import (
    SCHEMA,
    Action,
    Author,
    Autoscaler,
    Change,
    Decision,
    Deployment,
    Drift,
    Job,
    JobRun,
    Pod,
    ReplicaSet,
    Review,
    Seen,
    ServicePair,
    State,
    Target,
)
from controller.core.policy import ChangeType

Json = dict[str, Any]
MANAGER = "serin"
FINALIZER = PREFIX + "run"
SAID_MAX = 400
"""Characters that are kept of what Kubernetes, a webhook or a registry says in passing."""


# --- Read ---


def moment(text: str | None) -> datetime | None:
    return parse_moment(text) if text else None


def author(raw: Json, *path: str) -> Author | None:
    """Who else wrote a field, or a part of it, last; None: we did, or admission, whose writes nobody owns."""
    owners = [entry for entry in raw["metadata"].get("managedFields") or [] if _owns(entry, path)]
    if not owners or any(entry.get("manager") == MANAGER for entry in owners):
        return None
    newest = max(owners, key=lambda entry: str(entry.get("time") or ""))
    return Author(printable(str(newest.get("manager") or "?"), 60), moment(newest.get("time")))


def _owns(entry: Json, path: Sequence[str]) -> bool:
    fields = entry.get("fieldsV1") or {}
    for name in path:
        if f"f:{name}" not in fields:
            return False
        fields = fields[f"f:{name}"]
    return True


def deployment(raw: Json) -> Deployment:
    meta, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    observed = int(status.get("observedGeneration") or 0) >= int(meta.get("generation") or 0)
    replicas = int(spec.get("replicas", 1))
    strategy = spec.get("strategy") or {}
    selector = spec.get("selector") or {}
    annotations = meta.get("annotations") or {}
    return Deployment(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        replicas=replicas,
        total=int(status.get("replicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        ready=int(status.get("readyReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        observed=observed,
        paused=bool(spec.get("paused")),
        held=annotations.get(PREFIX + "held", ""),
        change=(meta.get("labels") or {}).get(CHANGE_LABEL, ""),
        revision=pod_template.revision(spec["template"]),
        template=spec["template"],
        selector=selector.get("matchLabels") or {},
        strategy=strategy,
        recreate=strategy.get("type") == "Recreate",
        unavailable_max=_count((strategy.get("rollingUpdate") or {}).get("maxUnavailable", "25%"), replicas),
        progress_deadline_seconds=int(spec.get("progressDeadlineSeconds") or 600),
        min_ready_seconds=int(spec.get("minReadySeconds") or 0),
        annotations={key: value for key, value in annotations.items() if key.startswith(PREFIX)},
        labels=meta.get("labels") or {},
        failure=_failure(status.get("conditions") or []),
        controlled_by=_other_controller(meta),
        template_owners=tuple(
            entry.get("manager", "") for entry in meta.get("managedFields") or [] if _owns(entry, ("spec", "template"))
        ),
        authors={
            name: found
            for name in ("template", "paused", "replicas")
            if (found := author(raw, "spec", name)) is not None
        },
        created_at=moment(meta.get("creationTimestamp")),
    )


def _count(value: int | str, replicas: int) -> int:
    return int(value) if isinstance(value, int) else replicas * int(value.removesuffix("%")) // 100


def _failure(conditions: Iterable[Json]) -> str:
    for condition in conditions:
        kind, status = condition["type"], condition["status"]
        if (kind, status) in (("ReplicaFailure", "True"), ("Progressing", "False")):
            return printable(f"{condition.get('reason', kind)}: {condition.get('message', '')}", SAID_MAX)
    return ""


def _other_controller(meta: Json) -> str:
    owner = next((o for o in meta.get("ownerReferences") or [] if o.get("controller")), None)
    if owner:
        return f"{owner['kind']} {owner['name']}"
    if "rollouts.kruise.io/workload-type" in (meta.get("labels") or {}):
        return "Kruise Rollouts"
    return ""


def claims(raw: Json) -> Iterator[tuple[str, str]]:
    """The Deployment that an object of another rollout controller names, and what to call that object.

    Argo Rollouts and Kruise Rollouts name it in `workloadRef`, Flagger in `targetRef`.
    """
    spec, name = raw.get("spec") or {}, raw["metadata"]["name"]
    group = raw.get("apiVersion", "").partition("/")[0]
    for ref in (spec.get("workloadRef"), spec.get("targetRef")):
        if isinstance(ref, dict) and ref.get("kind") == "Deployment" and isinstance(ref.get("name"), str):
            yield ref["name"], f"{raw.get('kind')} {name} ({group})"


def claimed(seen: Seen, claims: Mapping[str, str]) -> Seen:
    d = seen.deployment
    if d is None or d.controlled_by or d.name not in claims:
        return seen
    return replace(seen, deployment=replace(d, controlled_by=claims[d.name]))


def replica_set(raw: Json) -> ReplicaSet:
    meta, status = raw["metadata"], raw.get("status") or {}
    template = copy.deepcopy(raw["spec"]["template"])
    (template.get("metadata") or {}).get("labels", {}).pop(pod_template.HASH_LABEL, None)
    return ReplicaSet(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        revision=pod_template.revision(template),
        replicas=int(raw["spec"].get("replicas") or 0),
        ready=int(status.get("readyReplicas") or 0),
        number=int((meta.get("annotations") or {}).get("deployment.kubernetes.io/revision") or 0),
        template=template,
        created_at=moment(meta.get("creationTimestamp")),
    )


def pod(raw: Json) -> Pod:
    meta, status = raw["metadata"], raw.get("status") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or []}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    trouble, detail = _trouble(containers)
    owner = next((o["name"] for o in meta.get("ownerReferences") or [] if o["kind"] == "ReplicaSet"), "")
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        ready=conditions.get("Ready") == "True",
        leaving="deletionTimestamp" in meta
        or conditions.get("DisruptionTarget") == "True"
        or status.get("reason") == "Evicted",
        restarts=sum(int(c.get("restartCount") or 0) for c in containers),
        trouble=trouble,
        replica_set=owner,
        detail=detail,
        labels=meta.get("labels") or {},
        crashed_at=max(filter(None, map(_ended_at, containers)), default=None),
    )


def _ended_at(container: Json) -> datetime | None:
    """When the run before the one that is on now ended."""
    return moment(((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt"))


def _trouble(containers: Sequence[Json]) -> tuple[str, str]:
    for container in containers:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if (ended := state.get("terminated")) and ended.get("reason") == "OOMKilled":
                return "OOMKilled", f"container {container['name']}"
    for container in containers:
        if waiting := (container.get("state") or {}).get("waiting"):
            reason = waiting.get("reason", "")
            if reason not in ("", "ContainerCreating", "PodInitializing"):
                said = printable(f"container {container['name']}: {waiting.get('message', '')}", 160)
                return printable(reason, 60), said
    return "", ""


def ready_endpoints(raw: Json) -> frozenset[str]:
    """The pods behind an EndpointSlice that are ready."""
    found = (e for e in raw.get("endpoints") or [] if (e.get("conditions") or {}).get("ready") is not False)
    return frozenset((e.get("targetRef") or {}).get("name") or ",".join(e["addresses"]) for e in found)


def autoscaler(raw: Json) -> Autoscaler:
    spec = raw["spec"]
    ours = any(
        entry.get("manager") == MANAGER and _owns(entry, ("spec", "minReplicas"))
        for entry in raw["metadata"].get("managedFields") or []
    )
    return Autoscaler(
        name=raw["metadata"]["name"],
        min_replicas=int(spec.get("minReplicas") or 1),
        max_replicas=int(spec["maxReplicas"]),
        ours=ours,
        resource_version=raw["metadata"]["resourceVersion"],
        author=author(raw, "spec", "minReplicas"),
    )


def written(raw: Json, kind: str, name: str) -> Drift:
    """What someone else made of a field of its spec."""
    found = author(raw, "spec", name)
    what = f"spec.{name} of {kind} {raw['metadata']['name']}"
    return Drift(what, found.manager, found.at) if found else Drift(what)


def edits(raw: Json, kind: str, *fields: str) -> Iterator[Drift]:
    """The fields of its spec that someone else has written."""
    return (written(raw, kind, name) for name in fields if author(raw, "spec", name))


def change(raw: Json) -> tuple[Change, State]:
    """A ChangeRequest: its request and what is remembered of it.

    A spec that cannot be used becomes `Change.problem`; a status that cannot be read raises FieldError (a newer
    version wrote it: hands off).
    """
    meta, spec = raw["metadata"], raw.get("spec") or {}
    try:
        kind = ChangeType(spec.get("type", "normal"))
    except ValueError:
        kind = None
    change_id = str(spec.get("changeId") or meta["name"].upper())
    unknown = "" if kind else f"UnknownType: spec.type is {spec.get('type')!r}: write standard, normal or emergency"
    problem = str(spec.get("problem") or "") or unknown or check_id(change_id, "spec.changeId") or check_spec(spec)
    found = Change(
        namespace=meta["namespace"],
        name=meta["name"],
        change_id=change_id,
        type=kind,
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        requested_by=str(spec.get("requestedBy") or ""),
        author=str(spec.get("author") or ""),
        deployments=tuple(spec.get("deployments") or ()),
        jobs=tuple(spec.get("jobs") or ()),
        revision=str(spec.get("revision") or ""),
        not_before=not_before(spec),
        deleting="deletionTimestamp" in meta,
        finalizer=FINALIZER in (meta.get("finalizers") or []),
        created_at=moment(meta.get("creationTimestamp")),
        problem=str(problem or ""),
        spec=spec,
    )
    state = decode(State, raw.get("status") or {}, "status")
    if state.schema != SCHEMA:
        raise FieldError("status.schema", state.schema, f"this version knows {SCHEMA}")
    return found, state


def decision(raw: Json) -> Decision:
    """A ChangeDecision; the CRD has checked its form."""
    meta, spec = raw["metadata"], raw["spec"]
    review = spec.get("review")
    return Decision(
        uid=meta["uid"],
        name=meta["name"],
        namespace=meta["namespace"],
        change_id=spec["change"],
        change_uid=spec["changeUid"],
        revision=spec["revision"],
        type=spec["type"],
        action=Action(spec["action"]),
        by=spec["by"],
        groups=tuple(spec.get("groups") or ()),
        created_at=moment(meta.get("creationTimestamp")),
        reason=spec.get("reason") or "",
        tests=spec.get("tests") or "",
        over_budget=bool(spec.get("overBudget")),
        forward_only=bool(spec.get("forwardOnly")),
        expires_at=moment(spec.get("expiresAt")),
        review=decode(Review, review, "spec.review") if review else None,
    )


def job(raw: Json, pods: Iterable[Json]) -> Job:
    """A Job, with the exit code of the container of `pods` that failed last."""
    status = raw.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or [] if c["status"] == "True"}
    complete, failed = conditions.get("Complete"), conditions.get("Failed")
    end = failed or complete
    return Job(
        name=raw["metadata"]["name"],
        started_at=moment(status.get("startTime") or raw["metadata"].get("creationTimestamp")),
        ended_at=moment(end.get("lastTransitionTime")) if end else None,
        failed=failed is not None,
        exit_code=_exit_code(pods) if failed or not end else 0,
        detail=printable(f"{failed.get('reason', '')}: {failed.get('message', '')}", SAID_MAX) if failed else "",
    )


def _exit_code(pods: Iterable[Json]) -> int | None:
    containers = (
        container
        for pod in pods
        for kind in ("initContainerStatuses", "containerStatuses")
        for container in (pod.get("status") or {}).get(kind) or []
    )
    ends = (
        ended
        for container in containers
        for state in (container.get("state") or {}, container.get("lastState") or {})
        if (ended := state.get("terminated")) and ended.get("exitCode")
    )
    newest = max(ends, key=lambda ended: str(ended.get("finishedAt") or ""), default=None)
    return int(newest["exitCode"]) if newest else None


def lax(raw: Json | None) -> str:
    """Why an admission policy or binding of ours does not do what it is there for; empty: it does."""
    if raw is None:
        return "not found"
    spec = raw["spec"]
    if "policyName" not in spec:
        return "" if spec.get("failurePolicy", "Fail") == "Fail" else "does not fail closed"
    if spec["policyName"] != raw["metadata"]["name"]:
        return f"binds {spec['policyName']}"
    if spec.get("validationActions") is not None and "Deny" not in spec["validationActions"]:
        return "does not deny"
    return "leaves some objects out" if _narrowed(spec.get("matchResources") or {}) else ""


def _narrowed(match: Json) -> bool:
    selectors = (match.get("namespaceSelector") or {}, match.get("objectSelector") or {})
    return any(selectors) or bool(match.get("resourceRules") or match.get("excludeResourceRules"))


def selects(selector: Mapping[str, str] | None, labels: Mapping[str, str]) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in (selector or {}).items())


def selects_all(selector: Json, labels: Mapping[str, str]) -> bool:
    """A LabelSelector with expressions; the empty one selects everything."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], expression.get("values") or []
        match expression["operator"]:
            case "In":
                holds = labels.get(key) in values
            case "NotIn":
                holds = labels.get(key) not in values
            case "Exists":
                holds = key in labels
            case _:
                holds = key not in labels
        if not holds:
            return False
    return True


# --- Made ---


def canary_labels(labels: Mapping[str, str], target: Target, run: str) -> dict[str, str]:
    """Labels of the canary's pods: those of the template with one selector label altered, and the run's."""
    altered = {**labels, RUN_LABEL: run}
    altered[target.selector_key] = pod_template.canary_value(labels[target.selector_key])
    return altered


def _owned(kind: Json, name: str, labels: Mapping[str, str], owner: Change) -> Json:
    plain = {key: value for key, value in labels.items() if key != CHANGE_LABEL}
    reference = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }
    return {
        **kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**plain, RUN_LABEL: owner.name},
            "ownerReferences": [reference],
        },
    }


def canary_deployment(d: Deployment, target: Target, owner: Change, replicas: int) -> Json:
    template = copy.deepcopy(d.template)
    meta = template.setdefault("metadata", {})
    labels = meta.get("labels") or {}
    meta["labels"] = canary_labels(labels, target, owner.name)
    made = _owned({"apiVersion": "apps/v1", "kind": "Deployment"}, target.canary, d.labels, owner)
    made["spec"] = {
        "replicas": replicas,
        "revisionHistoryLimit": 0,
        "progressDeadlineSeconds": d.progress_deadline_seconds,
        "minReadySeconds": d.min_ready_seconds,
        "selector": {"matchLabels": canary_labels(d.selector, target, owner.name)},
        "template": template,
    }
    return made


def canary_service(stable: Json, pair: ServicePair, target: Target, owner: Change) -> Json:
    """The stable Service for the canary's pods, without what is bound to one Service: addresses and node ports."""
    spec = stable["spec"]
    kept = (
        "ipFamilies",
        "ipFamilyPolicy",
        "sessionAffinity",
        "sessionAffinityConfig",
        "internalTrafficPolicy",
        "publishNotReadyAddresses",
        "trafficDistribution",
    )
    made = _owned({"apiVersion": "v1", "kind": "Service"}, pair.canary, stable["metadata"].get("labels") or {}, owner)
    made["spec"] = {
        **{key: copy.deepcopy(spec[key]) for key in kept if key in spec},
        "type": "ClusterIP",
        "ports": [{key: value for key, value in port.items() if key != "nodePort"} for port in spec.get("ports") or []],
        "selector": canary_labels(spec["selector"], target, owner.name),
    }
    if spec.get("clusterIP") == "None":
        made["spec"]["clusterIP"] = "None"
    return made


def needs_copy(raw: Json, stable: Mapping[str, str], canary: Mapping[str, str]) -> bool:
    """Whether a NetworkPolicy or PodDisruptionBudget means the stable pods but would miss the canary's."""
    if raw["kind"] == "PodDisruptionBudget":
        return _misses(raw["spec"].get("selector") or {}, stable, canary)
    spec = raw["spec"]
    peers = [
        p.get("podSelector") or {}
        for side in ("ingress", "egress")
        for rule in spec.get(side) or []
        for p in rule.get("from" if side == "ingress" else "to") or []
    ]
    return any(_misses(selector, stable, canary) for selector in [spec.get("podSelector") or {}, *peers])


def _misses(selector: Json, stable: Mapping[str, str], canary: Mapping[str, str]) -> bool:
    return selects_all(selector, stable) and not selects_all(selector, canary)


def job_from(cron_job: Json, run: JobRun, owner: Change) -> Json:
    """As `kubectl create job --from=cronjob/…` makes it, but owned by the change.

    It ends by the deadline, and stays until the change goes: it is evidence.
    """
    template = cron_job["spec"]["jobTemplate"]
    meta = template.get("metadata") or {}
    spec = copy.deepcopy(template["spec"])
    for key in ("ttlSecondsAfterFinished", "suspend"):
        spec.pop(key, None)
    longest = int(run.deadline.total_seconds())
    spec["activeDeadlineSeconds"] = min(longest, int(spec.get("activeDeadlineSeconds") or longest))
    made = _owned({"apiVersion": "batch/v1", "kind": "Job"}, run.job, meta.get("labels") or {}, owner)
    made["metadata"]["annotations"] = {**(meta.get("annotations") or {}), "cronjob.kubernetes.io/instantiate": "manual"}
    return made | {"spec": spec}


def offered(cron_job: Json) -> bool:
    """Whether changes may run it."""
    return (cron_job["metadata"].get("labels") or {}).get(JOB_LABEL) == "true"


def owned_by(raw: Json, owner: Change) -> bool:
    return any(reference["uid"] == owner.uid for reference in raw["metadata"].get("ownerReferences") or [])


def companion(raw: Json, target: Target, stable: Mapping[str, str], owner: Change) -> Json:
    """A copy for the canary's pods; peers that mean stable pods mean the canary's as well."""
    spec = copy.deepcopy(raw["spec"])
    canary = canary_labels(stable, target, owner.name)

    def for_canary(selector: Json) -> Json:
        return {
            "matchLabels": {
                key: canary[key] for key in {*(selector.get("matchLabels") or {}), RUN_LABEL} if key in canary
            }
        }

    if raw["kind"] == "PodDisruptionBudget":
        spec = {"maxUnavailable": 1, "selector": for_canary(spec["selector"])}
    else:
        if _misses(spec.get("podSelector") or {}, stable, canary):
            spec["podSelector"] = for_canary(spec["podSelector"])
        for side, field in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(side) or []:
                for peer in list(rule.get(field) or []):
                    if _misses(peer.get("podSelector") or {}, stable, canary):
                        rule[field].append({**peer, "podSelector": for_canary(peer["podSelector"])})
    kind = {"apiVersion": raw["apiVersion"], "kind": raw["kind"]}
    return _owned(kind, pod_template.copy_name(target.name, raw["metadata"]["name"]), {}, owner) | {"spec": spec}


def change_request(namespace: str, name: str, spec: Json) -> Json:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "metadata": {"name": name, "namespace": namespace, "finalizers": [FINALIZER]},
        "spec": spec,
    }
