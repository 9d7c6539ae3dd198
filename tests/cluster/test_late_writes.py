"""Writes of a leader that stood still after it had decided: what the next one wrote meanwhile stays as it is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from controller.cluster import kinds, manifest
from controller.cluster.client import Client, Resource
from controller.cluster.write import Writer
from controller.core.change import HELD
from controller.core.model import (
    CanaryParts,
    Change,
    Held,
    Observation,
    Route,
    RouteOriginal,
    Seen,
    ServicePair,
    Strategy,
    Target,
)
from controller.core.plan import DeleteCanary, DisownTemplate, Promote, PutBack, ScaleCanary, SetFloor, Shift
from controller.core.policy import ChangeType
from controller.errors import ConflictError
from testbed import gateway
from testbed.bed import Bed
from tests.cluster.conftest import CONFIG_MAPS, config_map

Json = dict[str, Any]
CRDS = Path(__file__).resolve().parents[2] / "manifests" / "crds"
LABELS = {"app": "shop"}
PAIR = ServicePair("shop", "shop-canary", (80,))
TARGET = Target("shop", "uid", "new", strategy=Strategy.CANARY, services=(PAIR,), replicas=4)


@pytest.fixture
def served(control_plane: Bed) -> Bed:
    """With the Gateway API and our own kinds."""
    control_plane.kubectl("apply", "--server-side", "-f", str(gateway.crds()[0]), "-f", str(CRDS))
    control_plane.await_crds()
    return control_plane


def metadata(kind: str, version: str, name: str = "shop") -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def deployment(name: str, owner: Json | None = None) -> Json:
    made = metadata("Deployment", "apps/v1", name)
    if owner:
        meta = owner["metadata"]
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"]}
        made["metadata"]["ownerReferences"] = [reference]
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "shop", "image": "shop:v1"}]}}
    made["spec"] = {"replicas": 0, "paused": True, "selector": {"matchLabels": LABELS}, "template": template}
    return made


def http_route() -> Json:
    rules = [{"backendRefs": [{"name": "shop", "port": 80}]}]
    return {**metadata("HTTPRoute", "gateway.networking.k8s.io/v1"), "spec": {"rules": rules}}


def scaler() -> Json:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nothing"}
    spec = {"scaleTargetRef": ref, "minReplicas": 1, "maxReplicas": 9}
    return {**metadata("HorizontalPodAutoscaler", "autoscaling/v2"), "spec": spec}


def change_request() -> Json:
    made = metadata("ChangeRequest", "serin.dev/v1alpha1", "chg-20260101-001")
    return {**made, "spec": {"changeId": "CHG-20260101-001", "type": "standard"}}


def with_canary(weight: int) -> list[Json]:
    names = (("shop", 100 - weight), ("shop-canary", weight))
    return [{"backendRefs": [{"name": name, "port": 80, "weight": w} for name, w in names]}]


@dataclass(frozen=True)
class Write:
    """`decide` gives the write that follows from an object as it was seen; `other` is what the next leader writes."""

    resource: Resource
    made: Json
    other: Json
    decide: Callable[[Writer, Json, str], Awaitable[None]]
    done: Callable[[Json], bool]


def about(namespace: str, raw: Json, **seen: Any) -> Observation:
    change = Change(namespace, "chg-1", "CHG-20260101-001", ChangeType.STANDARD, raw["metadata"]["uid"])
    return Observation(change, {"shop": Seen(None, **seen)}, None)


async def shift(writer: Writer, raw: Json, namespace: str) -> None:
    await writer.apply(Shift(TARGET, f"HTTPRoute/{namespace}/shop", 50), about(namespace, raw, routes=seen_route(raw)))


async def put_back(writer: Writer, raw: Json, namespace: str) -> None:
    await writer.apply(PutBack(TARGET, f"HTTPRoute/{namespace}/shop"), about(namespace, raw, routes=seen_route(raw)))


def seen_route(raw: Json) -> tuple[Route]:
    meta = raw["metadata"]
    original = RouteOriginal("HTTPRoute", meta["namespace"], "shop", ([{"name": "shop", "port": 80}],))
    version = meta["resourceVersion"]
    return (Route(original.key, 0, intact=False, accepted=True, original=original, resource_version=version),)


async def set_floor(writer: Writer, raw: Json, namespace: str) -> None:
    await writer.apply(SetFloor(TARGET, "shop", 4), about(namespace, raw, autoscaler=manifest.autoscaler(raw)))


async def scale_canary(writer: Writer, raw: Json, namespace: str) -> None:
    parts = CanaryParts(manifest.deployment(raw))
    await writer.apply(ScaleCanary(TARGET, 3), about(namespace, raw, canary=parts))


async def disown(writer: Writer, raw: Json, namespace: str) -> None:
    await writer.apply(DisownTemplate(TARGET, manifest.deployment(raw)), about(namespace, raw))


async def add_finalizer(writer: Writer, raw: Json, namespace: str) -> None:
    change, _ = manifest.change(raw)
    await writer.finalizer(change, present=True)


WRITES = {
    "shift": Write(
        kinds.HTTP_ROUTES,
        http_route(),
        {"spec": {"rules": with_canary(0)}},
        shift,
        lambda raw: raw["spec"]["rules"][0]["backendRefs"][-1].get("weight") == 50,
    ),
    "put back": Write(
        kinds.HTTP_ROUTES,
        {**http_route(), "spec": {"rules": with_canary(0)}},
        {"spec": {"rules": with_canary(10)}},
        put_back,
        lambda raw: len(raw["spec"]["rules"][0]["backendRefs"]) == 1,
    ),
    "floor": Write(
        kinds.AUTOSCALERS,
        scaler(),
        {"spec": {"minReplicas": 2}},
        set_floor,
        lambda raw: raw["spec"]["minReplicas"] == 4,
    ),
    "size of the canary": Write(
        kinds.DEPLOYMENTS,
        deployment("shop-canary"),
        {"metadata": {"annotations": {"next": "leader"}}},
        scale_canary,
        lambda raw: raw["spec"]["replicas"] == 3,
    ),
    "managed fields": Write(
        kinds.DEPLOYMENTS,
        deployment("shop"),
        {"metadata": {"annotations": {"next": "leader"}}},
        disown,
        lambda raw: all(e["manager"] != manifest.MANAGER for e in raw["metadata"]["managedFields"]),
    ),
    "finalizer": Write(
        kinds.CHANGES,
        change_request(),
        {"metadata": {"annotations": {"next": "leader"}}},
        add_finalizer,
        lambda raw: manifest.FINALIZER in raw["metadata"].get("finalizers", []),
    ),
}


async def moved_on(client: Client, namespace: str, write: Write) -> Json:
    """What was decided about; another leader has written to it since."""
    name = write.made["metadata"]["name"]
    await client.create(write.resource, namespace, write.made)
    ours = {"metadata": {"annotations": {"some": "field"}}}
    await client.patch(write.resource, namespace, name, ours, field_manager=manifest.MANAGER)
    decided_about = await quiet(client, write.resource, namespace, name)
    await client.patch(write.resource, namespace, name, write.other, field_manager="another-leader")
    return decided_about


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_decision_about_what_has_changed_since_is_not_written(
    served: Bed, client: Client, namespace: str, write: Write
) -> None:
    name = write.made["metadata"]["name"]
    decided_about = await moved_on(client, namespace, write)
    with pytest.raises(ConflictError):
        await write.decide(Writer(client), decided_about, namespace)
    assert not write.done(await client.get(write.resource, namespace, name))
    # Whoever has seen what is there may write.
    for _ in range(5):
        try:
            await write.decide(Writer(client), await quiet(client, write.resource, namespace, name), namespace)
            break
        except ConflictError:  # its status was written
            continue
    assert write.done(await client.get(write.resource, namespace, name))


class Unguarded:
    """The client, without the versions of what was decided about."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Any, **options: Any) -> Json:
        if isinstance(patch, list):
            patch = [op for op in patch if op["path"] != "/metadata/resourceVersion"]
        else:
            meta = {key: value for key, value in patch.get("metadata", {}).items() if key != "resourceVersion"}
            patch = {**patch, "metadata": meta}
        return await self._client.patch(resource, namespace, name, patch, **options)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_without_its_version_it_would_be(served: Bed, client: Client, namespace: str, write: Write) -> None:
    """The control."""
    decided_about = await moved_on(client, namespace, write)
    await write.decide(Writer(cast(Client, Unguarded(client))), decided_about, namespace)
    assert write.done(await client.get(write.resource, namespace, write.made["metadata"]["name"]))


@pytest.mark.parametrize(("mark", "passes"), [(Held.RETURNING, False), (Held.RUNNING, True)])
async def test_a_promotion_that_arrives_after_the_way_back_has_begun_is_refused(
    served: Bed, client: Client, namespace: str, mark: Held, passes: bool
) -> None:
    """The control is the mark that it has already: that write changes nothing, not even the version."""
    made = deployment("shop")
    made["metadata"]["annotations"] = {HELD: Held.RUNNING.value}
    await client.create(kinds.DEPLOYMENTS, namespace, made)
    raw = await quiet(client, kinds.DEPLOYMENTS, namespace, "shop")
    decided_about = manifest.deployment(raw)
    await Writer(client).mark(decided_about, mark)
    promotion = Writer(client).apply(Promote(TARGET, decided_about), about(namespace, raw))
    if passes:
        await promotion
    else:
        with pytest.raises(ConflictError):
            await promotion
    now = manifest.deployment(await client.get(kinds.DEPLOYMENTS, namespace, "shop"))
    assert (now.held, now.paused) == (Held.PROMOTING if passes else mark, not passes)


async def quiet(client: Client, resource: Resource, namespace: str, name: str) -> Json:
    return {"kind": resource.kind, **await client.get(resource, namespace, name)}


async def test_only_the_canary_of_its_own_change_is_deleted(served: Bed, client: Client, namespace: str) -> None:
    """The next change's has the same name, and may carry all the traffic."""
    own = await client.create(CONFIG_MAPS, namespace, config_map("own"))
    next_one = await client.create(CONFIG_MAPS, namespace, config_map("next"))
    intent = DeleteCanary(TARGET, "Deployment", "shop-canary")
    await client.create(kinds.DEPLOYMENTS, namespace, deployment("shop-canary", owner=next_one))
    await Writer(client).apply(intent, about(namespace, own))
    assert "deletionTimestamp" not in (await client.get(kinds.DEPLOYMENTS, namespace, "shop-canary"))["metadata"]
    await client.delete(kinds.DEPLOYMENTS, namespace, "shop-canary")
    await client.create(kinds.DEPLOYMENTS, namespace, deployment("shop-canary", owner=own))
    await Writer(client).apply(intent, about(namespace, own))
    assert (await client.list(kinds.DEPLOYMENTS, namespace))[0] == []


async def test_by_its_name_alone_the_next_ones_would_go(
    served: Bed, client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(manifest, "owned_by", lambda *_: True)
    own = await client.create(CONFIG_MAPS, namespace, config_map("own"))
    next_one = await client.create(CONFIG_MAPS, namespace, config_map("next"))
    await client.create(kinds.DEPLOYMENTS, namespace, deployment("shop-canary", owner=next_one))
    await Writer(client).apply(DeleteCanary(TARGET, "Deployment", "shop-canary"), about(namespace, own))
    assert (await client.list(kinds.DEPLOYMENTS, namespace))[0] == []
