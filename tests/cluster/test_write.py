"""Writes of the Deployment against an API server where others write as well."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from controller.cluster import manifest
from controller.cluster.client import Client
from controller.cluster.write import TRIES, Writer
from controller.core.model import Held
from controller.errors import ConflictError

Json = dict[str, Any]


class Busy:
    """An API server that has one Deployment, and somebody who writes it before each of the first `writes` of ours."""

    def __init__(self, somebody: Callable[[Json], object], writes: int) -> None:
        self.somebody, self.writes, self.asked = somebody, writes, 0
        self.raw: Json = {
            "metadata": {"name": "shop", "namespace": "demo", "uid": "u", "resourceVersion": "1", "annotations": {}},
            "spec": {"replicas": 4, "template": {}, "selector": {"matchLabels": {"app": "shop"}}},
            "status": {},
        }

    async def get(self, *_: object) -> Json:
        return self.raw

    async def patch(self, resource: object, namespace: str, name: str, patch: Json, **_: object) -> Json:
        self.asked += 1
        if self.asked <= self.writes:
            self.somebody(self.raw)
            self.raw["metadata"]["resourceVersion"] = str(self.asked + 1)
        if patch["metadata"]["resourceVersion"] != self.raw["metadata"]["resourceVersion"]:
            raise ConflictError("Conflict", "the object has been modified")
        self.raw["spec"] |= patch["spec"]
        self.raw["metadata"]["annotations"] |= patch["metadata"]["annotations"]
        return self.raw


def stop(busy: Busy) -> None:
    writer = Writer(cast(Client, busy))
    asyncio.run(writer.mark(manifest.deployment(busy.raw), Held.RUNNING))


def test_a_status_that_is_written_all_the_time_does_not_keep_a_roll_from_being_stopped() -> None:
    busy = Busy(lambda raw: raw["status"].update(readyReplicas=raw["status"].get("readyReplicas", 0) + 1), TRIES - 1)
    stop(busy)
    assert (busy.raw["spec"]["paused"], busy.raw["metadata"]["annotations"]) == (True, {"serin.dev/held": "running"})


@pytest.mark.parametrize(
    "somebody",
    [
        lambda raw: raw["spec"]["template"].update(spec={"containers": []}),
        lambda raw: raw["spec"].update(paused=True),
        lambda raw: raw["metadata"]["annotations"].update({"serin.dev/held": "true"}),
        lambda raw: raw["metadata"].update(uid="another"),
    ],
)
def test_what_was_decided_about_another_one_is_decided_again(somebody: Callable[[Json], object]) -> None:
    busy = Busy(somebody, 1)
    with pytest.raises(ConflictError):
        stop(busy)
    assert busy.asked == 1


def test_it_does_not_go_on_for_ever() -> None:
    busy = Busy(lambda raw: None, 1000)
    with pytest.raises(ConflictError):
        stop(busy)
    assert busy.asked == TRIES
