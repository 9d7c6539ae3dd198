"""Every write to the cluster: an intent of `core.plan` as one request.

What changes an object carries the resource version of the one that was decided about, also where a newer one is read
for the fields that the write has to repeat: a process that stood still between its decision and its write must not lay
the old decision over what another leader has written since. A delete names the uid of an object of its own change.
"""

import json
from datetime import UTC, datetime
from functools import singledispatchmethod
from typing import Any

from controller.cluster import kinds, manifest
from controller.cluster.client import Client
from controller.core.change import HELD, JOB_LABEL, REQUESTED_BY, printable
from controller.core.codec import encode
from controller.core.form import merge
from controller.core.intake import Record
from controller.core.model import Autoscaler, Change, Deployment, Held, Observation, Route, State, Target
from controller.core.plan import (
    CreateCanary,
    CreateCompanion,
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
from controller.errors import AlreadyExistsError, ConflictError, NotFoundError, PermanentError
from controller.traffic import gateway

Json = dict[str, Any]
TRIES = 5
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Writer:
    def __init__(self, client: Client) -> None:
        self._client = client

    # --- The record ---

    async def commit(self, change: Change, state: State) -> str:
        """Put the state into status; returns the new resource version. ConflictError when someone was there first."""
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": change.resource_version},
            {"op": "add", "path": "/status", "value": encode(state)},
        ]
        done = await self._client.patch(
            kinds.CHANGES, change.namespace, change.name, patch, content_type="json", subresource="status"
        )
        return str(done["metadata"]["resourceVersion"])

    async def record(self, namespace: str, record: Record) -> None:
        """Create the ChangeRequest, or bring what comes from the Deployment into the one that is there."""
        try:
            made = manifest.change_request(namespace, record.name, merge({}, record.spec))
            await self._client.create(kinds.CHANGES, namespace, made)
        except AlreadyExistsError:
            found = await self._client.get(kinds.CHANGES, namespace, record.name)
            spec = found.get("spec") or {}
            merged = merge(spec, record.spec)
            if merged != spec:
                version = found["metadata"]["resourceVersion"]
                patch = [
                    {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
                    {"op": "add", "path": "/spec", "value": merged},
                ]
                await self._client.patch(kinds.CHANGES, namespace, record.name, patch, content_type="json")

    async def finalizer(self, change: Change, *, present: bool) -> None:
        found = await self._client.get(kinds.CHANGES, change.namespace, change.name)
        kept = [f for f in found["metadata"].get("finalizers") or [] if f != manifest.FINALIZER]
        meta = {
            "resourceVersion": change.resource_version,
            "finalizers": [*kept, manifest.FINALIZER] if present else kept,
        }
        await self._client.patch(kinds.CHANGES, change.namespace, change.name, {"metadata": meta})

    async def forget(self, namespace: str, name: str) -> None:
        await self._delete(kinds.CHANGES, namespace, name)

    async def event(self, subject: Json, reason: str, message: str, *, warning: bool) -> None:
        """A Kubernetes Event about the object (apiVersion, kind, namespace, name, uid)."""
        now = datetime.now(UTC)
        stamp = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{subject['name'][:220]}.{int(now.timestamp() * 1e6):x}",
                "namespace": subject["namespace"],
            },
            "involvedObject": subject,
            "reason": reason,
            "message": printable(message, 1000),
            "type": "Warning" if warning else "Normal",
            "source": {"component": "serin"},
            "reportingComponent": "serin.dev/controller",
            "reportingInstance": "serin",
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        await self._client.create(kinds.EVENTS, subject["namespace"], event)

    # --- The user's Deployment ---

    async def mark(self, d: Deployment, held: Held) -> None:
        await self._deployment(d, {HELD: held.value}, paused=True)

    async def release(self, d: Deployment) -> None:
        """Both marks go: one that is left behind would make a `kubectl replace` of the user's file an edit of it."""
        await self._deployment(d, {HELD: None, REQUESTED_BY: None}, paused=False)

    async def _deployment(self, d: Deployment, annotations: Json, *, paused: bool) -> None:
        """While its pods are replaced, its status is written more often than everything is read: that changes nothing.

        Without this, who stops a rolling update comes too late again and again.
        """
        version = d.resource_version
        for last in (*[False] * (TRIES - 1), True):
            meta = {"resourceVersion": version, "annotations": annotations}
            patch = {"metadata": meta, "spec": {"paused": paused}}
            try:
                await self._client.patch(kinds.DEPLOYMENTS, d.namespace, d.name, patch, field_manager=manifest.MANAGER)
            except ConflictError:
                now = manifest.deployment(await self._client.get(kinds.DEPLOYMENTS, d.namespace, d.name))
                if last or _decided_about(now) != _decided_about(d):
                    raise
                version = now.resource_version
            else:
                return

    # --- Intents ---

    @singledispatchmethod
    async def apply(self, intent: Intent, observation: Observation) -> None:
        raise NotImplementedError(type(intent).__name__)

    @apply.register
    async def _(self, intent: Mark, observation: Observation) -> None:
        await self.mark(intent.deployment, intent.held)

    @apply.register
    async def _(self, intent: Release, observation: Observation) -> None:
        await self.release(intent.deployment)

    @apply.register
    async def _(self, intent: Promote, observation: Observation) -> None:
        await self._deployment(intent.deployment, {HELD: Held.PROMOTING.value}, paused=False)

    @apply.register
    async def _(self, intent: Restore, observation: Observation) -> None:
        d, template = intent.deployment, intent.target.stable_template
        found = await self._client.get(kinds.DEPLOYMENTS, d.namespace, d.name)
        annotations = {**(found["metadata"].get("annotations") or {}), HELD: Held.RESTORING.value}
        if LAST_APPLIED in annotations:
            annotations[LAST_APPLIED] = _with_template(annotations[LAST_APPLIED], template)
        patch: list[Json] = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": d.resource_version},
            {"op": "add", "path": "/metadata/annotations", "value": annotations},
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "add", "path": "/spec/paused", "value": False},
        ]
        await self._client.patch(
            kinds.DEPLOYMENTS, d.namespace, d.name, patch, content_type="json", field_manager=manifest.MANAGER
        )

    @apply.register
    async def _(self, intent: DisownTemplate, observation: Observation) -> None:
        d = intent.deployment
        found = await self._client.get(kinds.DEPLOYMENTS, d.namespace, d.name)
        kept = [
            entry for entry in found["metadata"].get("managedFields") or [] if entry.get("manager") != manifest.MANAGER
        ]
        patch: list[Json] = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": d.resource_version},
            {"op": "replace", "path": "/metadata/managedFields", "value": kept},
        ]
        await self._client.patch(
            kinds.DEPLOYMENTS, d.namespace, d.name, patch, content_type="json", field_manager=manifest.MANAGER
        )

    @apply.register
    async def _(self, intent: DeleteReplicaSet, observation: Observation) -> None:
        rs = intent.replica_set
        await self._client.delete(
            kinds.REPLICA_SETS, observation.change.namespace, rs.name, uid=rs.uid, resource_version=rs.resource_version
        )

    @apply.register
    async def _(self, intent: SetFloor, observation: Observation) -> None:
        scaler = observation.targets[intent.target.name].autoscaler
        patch = {"spec": {"minReplicas": intent.min_replicas}, **_of_version(scaler)}
        await self._client.patch(
            kinds.AUTOSCALERS, observation.change.namespace, intent.autoscaler, patch, field_manager=manifest.MANAGER
        )

    @apply.register
    async def _(self, intent: CreateService, observation: Observation) -> None:
        namespace = observation.change.namespace
        stable = await self._client.get(kinds.SERVICES, namespace, intent.pair.stable)
        made = manifest.canary_service(stable, intent.pair, intent.target, observation.change)
        await self._create(kinds.SERVICES, namespace, made)

    @apply.register
    async def _(self, intent: CreateCompanion, observation: Observation) -> None:
        namespace, resource = observation.change.namespace, kinds.COMPANIONS[intent.kind]
        found = await self._client.get(resource, namespace, intent.source)
        d = observation.targets[intent.target.name].deployment
        labels = ((d.template.get("metadata") or {}).get("labels") or {}) if d else {}
        raw = {**found, "kind": intent.kind, "apiVersion": resource.group_version}
        await self._create(resource, namespace, manifest.companion(raw, intent.target, labels, observation.change))

    @apply.register
    async def _(self, intent: CreateCanary, observation: Observation) -> None:
        made = manifest.canary_deployment(intent.deployment, intent.target, observation.change, intent.replicas)
        await self._create(kinds.DEPLOYMENTS, observation.change.namespace, made)

    @apply.register
    async def _(self, intent: ScaleCanary, observation: Observation) -> None:
        canary = observation.targets[intent.target.name].canary.deployment
        patch = {"spec": {"replicas": intent.replicas}, **_of_version(canary)}
        await self._client.patch(
            kinds.DEPLOYMENTS, observation.change.namespace, intent.target.canary, patch, field_manager=manifest.MANAGER
        )

    @apply.register
    async def _(self, intent: Shift, observation: Observation) -> None:
        await self._route(intent.route, intent.target, observation, intent.weight)

    @apply.register
    async def _(self, intent: PutBack, observation: Observation) -> None:
        await self._route(intent.route, intent.target, observation, None)

    async def _route(self, key: str, target: Target, observation: Observation, weight: int | None) -> None:
        """`weight` None: as the user wrote it."""
        kind, namespace, name = key.split("/")
        raw = {"kind": kind, **await self._client.get(kinds.ROUTES[kind], namespace, name)}
        seen = next(r for r in observation.targets[target.name].routes if r.key == key)
        home, pairs = observation.change.namespace, target.services
        wanted = gateway.original(raw, home, pairs, seen.original)
        rules = (
            gateway.rules_as_written(raw, wanted)
            if weight is None
            else gateway.rules_with(raw, home, pairs, wanted, weight)
        )
        patch = {"spec": {"rules": rules}, **_of_version(seen)}
        await self._client.patch(kinds.ROUTES[kind], namespace, name, patch, field_manager=manifest.MANAGER)

    @apply.register
    async def _(self, intent: DeleteCanary, observation: Observation) -> None:
        resource = {"Deployment": kinds.DEPLOYMENTS, "Service": kinds.SERVICES, **kinds.COMPANIONS}[intent.kind]
        change, namespace = observation.change, observation.change.namespace
        try:
            found = await self._client.get(resource, namespace, intent.name)
            if manifest.owned_by(found, change):  # else it is the next change's, and has the same name
                await self._client.delete(resource, namespace, intent.name, uid=found["metadata"]["uid"])
        except NotFoundError:
            return

    @apply.register
    async def _(self, intent: RunJob, observation: Observation) -> None:
        change, run = observation.change, intent.run
        cron_job = await self._client.get(kinds.CRON_JOBS, change.namespace, run.cron_job)
        if not manifest.offered(cron_job):
            raise ConflictError("Conflict", f"CronJob {run.cron_job} has lost its label {JOB_LABEL}")
        await self._create(kinds.JOBS, change.namespace, manifest.job_from(cron_job, run, change))

    async def _create(self, resource: Any, namespace: str, made: Json) -> None:
        """Create one of our objects; that ours is there already is no error, that someone else's is, is."""
        name = made["metadata"]["name"]
        try:
            await self._client.create(resource, namespace, made)
        except AlreadyExistsError as error:
            found = await self._client.get(resource, namespace, name)
            if not any(
                o["uid"] == made["metadata"]["ownerReferences"][0]["uid"]
                for o in found["metadata"].get("ownerReferences") or []
            ):
                message = f"{resource.kind} {name} exists and is not ours: rename it, the change needs that name"
                raise PermanentError("NameTaken", message) from error

    async def _delete(self, resource: Any, namespace: str, name: str) -> None:
        try:
            await self._client.delete(resource, namespace, name)
        except NotFoundError:
            return


def _decided_about(d: Deployment) -> tuple[object, ...]:
    """What a hold, a release or a promotion rests on: all but its size and status."""
    return d.uid, d.revision, d.strategy, d.paused, d.held, d.change, d.annotations


def _of_version(seen: Deployment | Autoscaler | Route | None) -> Json:
    """The part of a merge patch that has it refused when the object is not the one that was seen any more."""
    assert seen is not None
    return {"metadata": {"resourceVersion": seen.resource_version}}


def _with_template(last_applied: str, template: Json) -> str:
    """The annotation of client-side apply with the template that is put back, so that its fields are known to it."""
    try:
        applied = json.loads(last_applied)
        applied["spec"]["template"] = template
    except (ValueError, KeyError, TypeError):
        return last_applied
    return json.dumps(applied, separators=(",", ":")) + "\n"


def reference(kind: str, api_version: str, namespace: str, name: str, uid: str) -> Json:
    return {"apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name, "uid": uid}
