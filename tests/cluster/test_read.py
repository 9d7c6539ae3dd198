"""What is read of the cluster, and what is not asked for again and again."""

from datetime import timedelta
from typing import Any, cast

import pytest

from controller.cluster import kinds, read
from controller.cluster.client import Client, Resource
from controller.cluster.read import Cluster
from controller.errors import NotServedError


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
