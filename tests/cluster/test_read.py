"""What is read of the cluster, and what is not asked for again and again."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, cast

import pytest

from controller.cluster import kinds, manifest, read
from controller.cluster.cache import Key
from controller.cluster.client import Client, Resource
from controller.cluster.read import Cluster
from controller.core.change import HELD
from controller.core.codec import encode
from controller.core.intake import Rehold, intake
from controller.core.model import Held, Phase, State, Strategy, Target
from controller.errors import NotServedError, TransientError


class Plain:
    """An API server with the built-in kinds alone, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def list(self, resource: Resource, *_: object, **__: object) -> tuple[list[dict[str, Any]], str]:
        self.asked.append(resource.label)
        if "." in resource.label:
            raise NotServedError("NotServed", resource.label)
        return [{"metadata": {"name": "shop"}}], "1"


CLAIMING = ["rollouts.argoproj.io", "canaries.flagger.app", "rollouts.rollouts.kruise.io"]


async def test_it_is_asked_once_and_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Plain()
    cluster = Cluster(cast(Client, api), frozenset(), lambda key: None)
    for _ in range(5):
        assert await cluster._claims("demo") == {}
    assert api.asked == CLAIMING
    monkeypatch.setattr(read, "UNSERVED_FOR", timedelta(0))
    cluster = Cluster(cast(Client, api), frozenset(), lambda key: None)
    for _ in range(2):
        await cluster._claims("demo")
    assert api.asked == CLAIMING * 3


def test_an_autoscaler_that_another_controller_makes_is_not_written() -> None:
    scaler: dict[str, Any] = {"metadata": {}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "shop"}}}
    assert read._scales(scaler, "shop")
    assert not read._scales({**scaler, "metadata": {"ownerReferences": [{"controller": True}]}}, "shop")


async def test_what_is_served_is_read_at_each_look() -> None:
    api = Plain()
    cluster = Cluster(cast(Client, api), frozenset(), lambda key: None)
    for _ in range(2):
        assert await cluster._items(kinds.SERVICES, "demo") == [{"metadata": {"name": "shop"}}]
    assert api.asked == ["services", "services"]


# --- Answers of the past ---


class Past:
    """An API server whose next answers are of version 5."""

    async def list(self, *_: object, **__: object) -> tuple[list[dict[str, Any]], str]:
        return [], "5"

    async def get(self, *_: object, **__: object) -> dict[str, Any]:
        return found("5")


def found(version: str) -> dict[str, Any]:
    meta = {"namespace": "demo", "name": "shop", "uid": "d", "resourceVersion": version}
    return {"metadata": meta, "spec": {"template": {}, "selector": {"matchLabels": {}}}}


def seen_at_9() -> Cluster:
    """It has seen lists, a Deployment and a route of version 9."""
    cluster = Cluster(cast(Client, Past()), frozenset(), lambda key: None)
    cluster._listed[kinds.DEPLOYMENTS] = 9
    cluster.deployments._store(Key("demo", "shop"), manifest.deployment(found("9")))
    cluster.routes["HTTPRoute"]._store(Key("demo", "shop"), {"kind": "HTTPRoute", **found("9")})
    cluster.deployments._version = 9
    return cluster


LOOKS: dict[str, Callable[[Cluster], Awaitable[object]]] = {
    "the list that a watch follows": lambda cluster: cluster.deployments._relist(),
    "a list": lambda cluster: cluster._items(kinds.DEPLOYMENTS, "demo"),
    "a Deployment": lambda cluster: cluster._deployment("demo", "shop"),
    "a route": lambda cluster: cluster._live_route("HTTPRoute", "demo", "shop"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
async def test_an_answer_of_the_past_is_refused(look: Callable[[Cluster], Awaitable[object]]) -> None:
    """It would miss a canary, or what was done to the Deployment since."""
    with pytest.raises(TransientError, match="Stale"):
        await look(seen_at_9())


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
async def test_without_a_look_at_the_version_it_is_believed(
    look: Callable[[Cluster], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(read, "_not_older", lambda *_: None)
    cluster = seen_at_9()
    cluster._listed.clear()
    cluster.deployments._version = 0
    await look(cluster)


# --- What stands behind a mark ---


class Running:
    """A Deployment that is marked as running, and its change, which has just begun."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase

    async def get(self, *_: object, **__: object) -> dict[str, Any]:
        raw = found("9")
        raw["metadata"]["annotations"] = {HELD: Held.RUNNING.value}
        return raw

    async def list(self, resource: Resource, *_: object, **__: object) -> tuple[list[dict[str, Any]], str]:
        return [request(self.phase)] if resource is kinds.CHANGES else [], "9"


def request(phase: Phase) -> dict[str, Any]:
    meta = {"namespace": "demo", "name": "chg-20260101-001", "uid": "c", "resourceVersion": "8"}
    target = Target("shop", "d", "new", strategy=Strategy.CANARY)
    spec = {"changeId": "CHG-20260101-001", "type": "standard", "deployments": ["shop"]}
    return {"metadata": meta, "spec": spec, "status": encode(State(phase=phase, targets=(target,)))}


@pytest.mark.parametrize(("phase", "wanted"), [(Phase.PROGRESSING, None), (Phase.COMPLETED, Rehold())])
async def test_whether_a_change_stands_behind_a_mark_is_asked_and_not_remembered(
    phase: Phase, wanted: Rehold | None
) -> None:
    """The cache of a process that has just taken over may not know yet that the change has begun."""
    cluster = Cluster(cast(Client, Running(phase)), frozenset(), lambda key: None)
    cluster.deployments._store(Key("demo", "shop"), manifest.deployment(found("9")))
    waiting = read._known(request(Phase.WAITING))
    cluster.changes._store(Key("demo", "chg-20260101-001"), waiting)
    ask = await cluster.ask("demo", "shop")
    assert ask is not None
    assert intake(ask, date(2026, 1, 1)) == wanted
    believed = replace(ask, changes=[(waiting.change, waiting.other)])
    assert intake(believed, date(2026, 1, 1)) == Rehold(), "the control"
