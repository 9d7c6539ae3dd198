"""A real API server drops what its CRD does not know, and publishes what it would keep."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cluster.client import Client, Resource
from controller.core.model import State
from controller.core.schema import unkept
from controller.errors import NotServedError
from testbed.bed import Bed

SHIPPED = Path(__file__).parents[2] / "manifests/crds/changerequests.yaml"
OLDER = Resource("older.serin.test", "v1alpha1", "changerequests", "ChangeRequest")
"""The same kind in a group of this test's own, as a version that had no `promoted`."""


@pytest.fixture
def older(control_plane: Bed) -> Iterator[Resource]:
    crd: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(SHIPPED.read_text())))
    crd["metadata"]["name"] = OLDER.label
    crd["spec"]["group"] = OLDER.group
    crd["spec"]["names"].pop("categories")
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["promoted"]
    control_plane.apply(crd)
    control_plane.await_crds()
    yield OLDER
    control_plane.kubectl("delete", "crd", OLDER.label)


async def published(client: Client, resource: Resource) -> dict[str, Any]:
    """Some seconds after the CRD."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.schema(resource)
            except NotServedError:
                await asyncio.sleep(0.2)


async def test_what_an_older_crd_would_drop_is_what_it_drops(client: Client, namespace: str, older: Resource) -> None:
    schema = await published(client, older)
    assert list(unkept(State, schema["properties"]["status"], "status")) == ["status.promoted"]
    name = "chg-20261123-001"
    spec = {"changeId": name.upper(), "type": "standard"}
    made = {"apiVersion": older.group_version, "kind": older.kind, "metadata": {"name": name}, "spec": spec}
    await client.create(older, namespace, made)
    status = {"phase": "Promoting", "promoted": True}
    kept = await client.patch(older, namespace, name, {"status": status}, subresource="status")
    assert kept["status"] == {"phase": "Promoting"}
