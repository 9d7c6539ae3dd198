"""What the plugin reads and writes in a cluster, with the rights of the person who runs it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from controller.cli.holders import Roles, holders
from controller.cli.options import Where
from controller.cli.surroundings import Live, surroundings
from controller.cli.waits import REQUESTER, SRE, Wait
from controller.cluster import manifest
from controller.cluster.client import Client, Resource
from controller.cluster.kinds import CHANGES, DECISIONS, DEPLOYMENTS, POLICIES, REPLICA_SETS
from controller.core.change import CHANGE_LABEL, RUN_LABEL, object_name, printable
from controller.core.codec import FieldError, decode
from controller.core.decisions import OF_OTHERS
from controller.core.model import Action, Change, ReplicaSet, State
from controller.core.policy import ChangeType, Policy, parse_policy
from controller.errors import ForbiddenError, NotFoundError, NotServedError, PermanentError, TransientError
from controller.metrics.presets import PRESETS

Json: TypeAlias = dict[str, Any]
Known: TypeAlias = tuple[Change, State]

TIMEOUT = timedelta(seconds=10)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False)
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
CLUSTER_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
TYPES = Resource("serin.dev", "v1alpha1", "changetypes", "")
"""Virtual: the rights to decide are verbs on them, by change type."""
MANAGER = "kubectl-serin"
PAUSE = timedelta(seconds=1)
LOOK = timedelta(milliseconds=250)


class Cluster:
    """Changes and policies, as one person sees them."""

    def __init__(self, client: Client, namespace: str, *, everywhere: bool = False) -> None:
        self.client = client
        self.namespace = namespace
        self.everywhere = everywhere
        self._may: dict[tuple[str, str, str | None, str], asyncio.Future[bool]] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, where: Where) -> AsyncIterator["Cluster"]:
        paths = kubeconfigs(where.kubeconfig)
        client = await Client.connect(
            kubeconfig=os.pathsep.join(paths) or None, context=where.context, impersonate=None, timeout=TIMEOUT
        )
        try:
            namespace = where.namespace or namespace_of_context(paths, where.context)
            yield cls(client, namespace, everywhere=where.everywhere)
        finally:
            await client.close()

    async def changes(self, *, everywhere: bool = False) -> list[Known]:
        """Oldest first: of the namespace, or, if that was asked for, of all."""
        try:
            found, _ = await self.client.list(CHANGES, None if everywhere or self.everywhere else self.namespace)
        except NotServedError:
            raise PermanentError(
                "NotInstalled",
                "this cluster has no ChangeRequests. Install Serin: kubectl apply --server-side -k manifests/",
            ) from None
        known = [read_or_say(raw) for raw in found]
        return sorted(known, key=lambda k: (k[0].created_at is None, k[0].created_at, k[0].name))

    async def find(self, change_id: str) -> Change:
        """The change of that ID, or object name; PermanentError says which there are instead."""
        wanted = change_id.lower()

        def named(known: list[Known]) -> list[Change]:
            return [change for change, _ in known if wanted in (change.change_id.lower(), change.name)]

        here = await self.changes()
        if len(found := named(here)) > 1:
            where = ", ".join(change.namespace for change in found)
            raise PermanentError(
                "AmbiguousChange", f"{printable(change_id, 70)} is in namespaces {where}: say which with -n"
            )
        if found:
            return found[0]
        elsewhere = [change.namespace for change in named(await self._everywhere_if_allowed())]
        if elsewhere:
            hint = f"it is in namespace {elsewhere[0]}: add -n {elsewhere[0]}"
        elif here:
            hint = "there are " + ", ".join(f"{c.change_id} ({s.phase})" for c, s in here[-8:])
        else:
            hint = "there are none; look everywhere with: kubectl serin list -A"
        place = "any namespace" if self.everywhere else f"namespace {self.namespace}"
        raise PermanentError("UnknownChange", f"no change {printable(change_id, 70)} in {place}; {hint}")

    async def look(self, change_id: str) -> Known:
        """The change of that ID and what it is at now."""
        change = await self.find(change_id)
        return read(await self.client.get(CHANGES, change.namespace, change.name))

    async def _everywhere_if_allowed(self) -> list[Known]:
        try:
            return await self.changes(everywhere=True)
        except ForbiddenError:
            return []

    async def taken_ids(self) -> set[str]:
        """Every change ID in use, as far as this person may look: of requests, and on Deployments."""
        changes = await self._everywhere_if_allowed() or await self.changes()
        try:
            labelled, _ = await self.client.list(DEPLOYMENTS, label_selector=CHANGE_LABEL)
        except ForbiddenError:
            labelled, _ = await self.client.list(DEPLOYMENTS, self.namespace, label_selector=CHANGE_LABEL)
        return {change.change_id for change, _ in changes} | {d["metadata"]["labels"][CHANGE_LABEL] for d in labelled}

    async def policy(self, change: Change) -> Policy | None:
        """The policy of the change's type; None when there is none that can be read."""
        if change.type is None:
            return None
        try:
            raw = await self.client.get(POLICIES, None, change.type)
            return decode(Policy, raw["spec"], "spec")
        except (PermanentError, FieldError):
            return None

    async def usable_policy(self, kind: ChangeType) -> Policy:
        """The policy of a type, checked as the controller checks it; PermanentError when there is none to use."""
        try:
            raw = await self.client.get(POLICIES, None, kind)
            return parse_policy(raw.get("spec") or {}, frozenset(PRESETS))
        except NotFoundError:
            mend = "kubectl apply --server-side -k policies/"
            raise PermanentError("PolicyNotFound", f"there is no ChangePolicy {kind}: {mend}") from None
        except FieldError as error:
            raise PermanentError("InvalidPolicy", f"ChangePolicy {kind}: {error}") from None

    async def policies(self) -> dict[str, Policy]:
        """By type, those that can be read and used."""
        found = {}
        with suppress(ForbiddenError, NotServedError):
            for raw in (await self.client.list(POLICIES))[0]:
                with suppress(FieldError):
                    found[str(raw["metadata"]["name"])] = decode(Policy, raw.get("spec") or {}, "spec")
        return found

    async def may(self, verb: str, resource: Resource, namespace: str | None, name: str = "") -> bool:
        """By RBAC; asked once for each question."""
        key = (verb, resource.label, namespace, name)
        if key not in self._may:
            self._may[key] = asyncio.ensure_future(
                self.client.access_review(verb, resource.group, resource.plural, namespace, name)
            )
        return await self._may[key]

    async def may_end(self, change: Change, state: State, wait: Wait | None, me: str) -> bool:
        """Whether it is the turn of the person who asks."""
        if wait is None:
            return False
        if wait.verb and change.type:
            own = Action(wait.verb.title()) in OF_OTHERS and me in (*state.requesters, change.requested_by)
            return not own and await self.may(wait.verb, TYPES, change.namespace, change.type)
        if wait.turn == SRE:
            return await self.may("update", POLICIES, None)
        return wait.turn == REQUESTER and me == change.requested_by

    async def holders(self, verb: str, change: Change) -> list[str]:
        """Who may end a wait; empty when this person may not read roles, or nobody may."""
        try:
            cluster_roles, cluster_bindings, roles, bindings = await asyncio.gather(
                self.client.list(CLUSTER_ROLES),
                self.client.list(CLUSTER_ROLE_BINDINGS),
                self.client.list(ROLES, change.namespace),
                self.client.list(ROLE_BINDINGS, change.namespace),
            )
        except ForbiddenError:
            return []
        rbac = Roles(cluster_roles[0], cluster_bindings[0], roles[0], bindings[0])
        return holders(rbac, verb, change.type or "")

    async def deployment(self, namespace: str, name: str) -> Json | None:
        """None when there is none, or when this person may not read it."""
        try:
            return await self.client.get(DEPLOYMENTS, namespace, name)
        except (NotFoundError, ForbiddenError):
            return None

    async def find_deployment(self, name: str) -> Json:
        """`NAME`, or `deployment/NAME` as kubectl writes it."""
        name = name.split("/")[-1]
        if not self.everywhere:
            return await self.client.get(DEPLOYMENTS, self.namespace, name)
        found, _ = await self.client.list(DEPLOYMENTS, field_selector=f"metadata.name={name}")
        if len(found) == 1:
            return found[0]
        where = ", ".join(d["metadata"]["namespace"] for d in found)
        way_on = f"it is in namespaces {where}: say which with -n" if found else "there is none in any namespace"
        raise PermanentError("UnknownDeployment", f"deployment {printable(name, 70)}: {way_on}")

    async def names_of_deployments(self) -> list[str]:
        found, _ = await self.client.list(DEPLOYMENTS, None if self.everywhere else self.namespace)
        return [item["metadata"]["name"] for item in found if RUN_LABEL not in (item["metadata"].get("labels") or {})]

    async def names_of_namespaces(self) -> list[str]:
        return [item["metadata"]["name"] for item in (await self.client.list(NAMESPACES))[0]]

    async def replica_sets(self, deployment: Json) -> list[ReplicaSet]:
        meta = deployment["metadata"]
        found, _ = await self.client.list(REPLICA_SETS, meta["namespace"])
        owned = [
            rs for rs in found if any(o["uid"] == meta["uid"] for o in rs["metadata"].get("ownerReferences") or ())
        ]
        return [manifest.replica_set(rs) for rs in owned]

    async def edit_deployment(self, deployment: Json, patch: list[Json]) -> Json:
        """ConflictError when it is not as it was read any more."""
        meta = deployment["metadata"]
        return await self.client.patch(
            DEPLOYMENTS, meta["namespace"], meta["name"], patch, content_type="json", field_manager=MANAGER
        )

    async def surroundings(self, change: Change, state: State) -> list[Live]:
        """The Deployments of a change that has not ended, as they are now."""
        return [] if state.phase.terminal else await surroundings(self.client, change, state)

    async def who_am_i(self) -> str:
        return await self.client.who_am_i()

    async def decide(self, namespace: str, decision: Json) -> Json:
        """Create a ChangeDecision; the answer is the object as admission stamped it."""
        try:
            return await self.client.create(DECISIONS, namespace, decision)
        except NotServedError:
            raise PermanentError(
                "NotInstalled",
                "this cluster has no ChangeDecisions. Install Serin anew: kubectl apply --server-side -k manifests/",
            ) from None

    async def record(self, namespace: str, change_id: str, spec: Json) -> Json:
        """Create the ChangeRequest of that ID; AlreadyExistsError when there is one."""
        meta = {"name": object_name(change_id), "namespace": namespace}
        made = {"apiVersion": "serin.dev/v1alpha1", "kind": CHANGES.kind, "metadata": meta, "spec": spec}
        return await self.client.create(CHANGES, namespace, made)

    async def appears(self, change_id: str, namespace: str, within: timedelta) -> Known | None:
        """The change once the controller has recorded and seen it; None when it has not in time."""
        end = asyncio.get_running_loop().time() + within.total_seconds()
        while asyncio.get_running_loop().time() < end:
            with suppress(NotFoundError):
                change, state = read(await self.client.get(CHANGES, namespace, object_name(change_id)))
                if state.reason:
                    return change, state
            await asyncio.sleep(LOOK.total_seconds())
        return None

    async def follow(self, change: Change) -> AsyncIterator[Known]:
        """The change now and whenever it is another, through broken connections; PermanentError when it is deleted."""
        while True:
            try:
                items, version = await self.client.list(
                    CHANGES, change.namespace, field_selector=f"metadata.name={change.name}"
                )
                if not items:
                    raise NotFoundError("Deleted", f"{change.change_id} was deleted")
                yield read(items[0])
                events = self.client.watch(
                    CHANGES,
                    namespace=change.namespace,
                    resource_version=version,
                    field_selector=f"metadata.name={change.name}",
                )
                async with aclosing(events):
                    async for event in events:
                        if event.type == "DELETED":
                            raise NotFoundError("Deleted", f"{change.change_id} was deleted")
                        if event.type != "BOOKMARK":
                            yield read(json.loads(bytes(event.raw)))
            except TransientError:
                pass
            await asyncio.sleep(PAUSE.total_seconds())


def read(raw: Json) -> Known:
    try:
        return manifest.change(raw)
    except FieldError as error:
        raise PermanentError("UnknownStatus", f"{raw['metadata']['name']}: {error}; is this plugin too old?") from None


def read_or_say(raw: Json) -> Known:
    """In a list one status that cannot be read hides no other."""
    try:
        return read(raw)
    except PermanentError as error:
        change, _ = manifest.change({key: value for key, value in raw.items() if key != "status"})
        return change, State(reason=error.reason, message=error.message)


def kubeconfigs(given: str | None) -> list[str]:
    """The files to use; none: in a pod, as its ServiceAccount."""
    paths = given or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    there = [path for path in paths.split(os.pathsep) if Path(path).exists()]
    if not there and (given or "KUBERNETES_SERVICE_HOST" not in os.environ):
        raise PermanentError("NoKubeconfig", f"{paths} does not exist: set KUBECONFIG or give --kubeconfig")
    return there


def contexts_of(paths: list[str]) -> list[str]:
    files = [yaml.safe_load(Path(path).read_text()) or {} for path in paths]
    return [str(context["name"]) for file in files for context in file.get("contexts") or ()]


def namespace_of_context(paths: list[str], context: str | None = None) -> str:
    """As kubectl finds it: of the context, or the first current-context among the files."""
    files = [yaml.safe_load(Path(path).read_text()) or {} for path in paths]
    current = context or next((f["current-context"] for f in files if f.get("current-context")), "")
    contexts = [c for f in files for c in f.get("contexts") or () if c.get("name") == current]
    return str((contexts[0].get("context") or {}).get("namespace") or "default") if contexts else "default"
