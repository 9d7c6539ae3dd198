"""Clients of the real API server: `client` goes straight to it, `proxied` through a `proxy` that fails on demand."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cluster.client import Client, Resource
from testbed import proxy as proxies
from testbed.bed import Bed

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)

Connect = Callable[..., Awaitable[Client]]


def config_map(name: str, value: str = "", **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}


def read(kubeconfig: Path) -> Any:
    return yaml.safe_load(kubeconfig.read_text())


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make clients that are closed after the test."""
    clients: list[Client] = []

    async def make(
        kubeconfig: Path, *, impersonate: str | None = None, limit: timedelta = timedelta(seconds=5)
    ) -> Client:
        clients.append(await Client.connect(kubeconfig=str(kubeconfig), impersonate=impersonate, timeout=limit))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def client(control_plane: Bed, connect: Connect) -> Client:
    return await connect(control_plane.kubeconfig())


@pytest.fixture
async def proxy(control_plane: Bed) -> AsyncIterator[proxies.Proxy]:
    async with proxies.in_front_of(read(control_plane.kubeconfig())["clusters"][0]["cluster"]["server"]) as proxy:
        yield proxy


@pytest.fixture
def token(control_plane: Bed) -> str:
    return str(read(control_plane.kubeconfig())["users"][0]["user"]["token"])


@pytest.fixture
def proxied_kubeconfig(token: str, proxy: proxies.Proxy, tmp_path: Path) -> Path:
    return proxies.kubeconfig(tmp_path / "proxied", proxy.url, {"token": token})


@pytest.fixture
async def proxied(proxied_kubeconfig: Path, connect: Connect) -> Client:
    return await connect(proxied_kubeconfig, limit=timedelta(seconds=2))


@pytest.fixture
async def namespace(client: Client) -> AsyncIterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    await client.create(NAMESPACES, None, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await client.delete(NAMESPACES, None, name)
