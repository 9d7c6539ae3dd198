"""The cache against a real API server, and what it makes of the ways in which lists and watches fail."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from controller.cluster.cache import Cache, Key
from controller.cluster.client import Client, Resource
from controller.errors import ExpiredError, ForbiddenError, NotServedError
from testbed import proxy as faults
from testbed.bed import Bed
from testbed.proxy import Act, Proxy, lists, status, stream, text, watches
from tests.cluster.conftest import CONFIG_MAPS, Connect, config_map

CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)

Change = tuple[str | None, str | None]


class Metadata(msgspec.Struct):
    name: str
    labels: dict[str, str] = {}


class Shape(msgspec.Struct):
    metadata: Metadata
    data: dict[str, str] = {}


class Value(msgspec.Struct, frozen=True):
    name: str
    value: str
    owner: str


def project(shape: Shape) -> Value:
    return Value(shape.metadata.name, shape.data["value"], shape.metadata.labels.get("owner", ""))


class Recorder:
    """A running cache of the ConfigMaps of one test (label `run`), and the changes that it told."""

    def __init__(self, client: Client, **options: Any) -> None:
        self.run = uuid.uuid4().hex[:8]
        self.changes: list[Change] = []
        self.cache = Cache(
            client,
            CONFIG_MAPS,
            project,
            self.record,
            shape=Shape,
            label_selector=f"run={self.run}",
            indexes={"owner": lambda value: [value.owner]},
            **options,
        )

    def record(self, old: Value | None, new: Value | None) -> None:
        self.changes.append((old.value if old else None, new.value if new else None))

    def config_map(self, name: str, value: str, **labels: str) -> dict[str, Any]:
        return config_map(name, value, run=self.run, **labels)

    @property
    def values(self) -> dict[str, str]:
        return {value.name: value.value for value in self.cache.list()}


@asynccontextmanager
async def running(cache: Cache[Any]) -> AsyncIterator[None]:
    task = asyncio.create_task(cache.run())
    try:
        yield
        assert not task.done(), "a cache never stops by itself"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], object], within: float = 8) -> None:
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 (what is waited for is not ours)
            await asyncio.sleep(0.01)


@pytest.fixture
async def recorder(client: Client) -> AsyncIterator[Recorder]:
    recorder = Recorder(client)
    async with running(recorder.cache):
        yield recorder


async def test_it_follows_what_happens(recorder: Recorder, client: Client, namespace: str) -> None:
    cache = recorder.cache
    await cache.synced()
    assert recorder.values == {}
    await client.create(CONFIG_MAPS, namespace, recorder.config_map("a", "1", owner="x"))
    await client.create(CONFIG_MAPS, namespace, config_map("not-ours", "1"))
    await until(lambda: cache.get(namespace, "a"))
    assert [value.name for value in cache.by("owner", "x")] == ["a"]
    await client.patch(CONFIG_MAPS, namespace, "a", {"data": {"value": "2"}, "metadata": {"labels": {"owner": "y"}}})
    await until(lambda: cache.by("owner", "y"))
    assert cache.by("owner", "x") == []
    assert recorder.values == {"a": "2"}
    assert [value.name for value in cache.list(namespace)] == ["a"]
    assert cache.list("elsewhere") == []
    await client.patch(CONFIG_MAPS, namespace, "a", {"metadata": {"labels": {"run": None}}})
    await until(lambda: not cache.list())
    assert recorder.changes == [(None, "1"), ("1", "2"), ("2", None)]
    assert cache.by("owner", "y") == []


async def test_what_does_not_concern_the_value_is_no_change(recorder: Recorder, client: Client, namespace: str) -> None:
    await client.create(CONFIG_MAPS, namespace, recorder.config_map("a", "1"))
    await client.patch(CONFIG_MAPS, namespace, "a", {"metadata": {"annotations": {"noise": "1"}}})
    await client.patch(CONFIG_MAPS, namespace, "a", {"data": {"value": "2"}})
    await until(lambda: recorder.values == {"a": "2"})
    assert recorder.changes in ([(None, "1"), ("1", "2")], [(None, "2")])


async def test_an_odd_object_is_named_and_hides_no_other(recorder: Recorder, client: Client, namespace: str) -> None:
    odd = recorder.config_map("odd", "1")
    del odd["data"]["value"]
    await client.create(CONFIG_MAPS, namespace, odd)
    await client.create(CONFIG_MAPS, namespace, recorder.config_map("good", "1"))
    await until(lambda: recorder.values == {"good": "1"})
    assert recorder.cache.unreadable == {Key(namespace, "odd"): "KeyError: 'value'"}
    await client.patch(CONFIG_MAPS, namespace, "odd", {"data": {"value": "now good"}})
    await until(lambda: recorder.values == {"good": "1", "odd": "now good"})
    assert recorder.cache.unreadable == {}


async def test_what_was_deleted_while_disconnected_goes(
    proxy: Proxy, proxied: Client, client: Client, namespace: str
) -> None:
    recorder = Recorder(proxied, inactivity_max=timedelta(seconds=0.3))
    for name in ("a", "b"):
        await client.create(CONFIG_MAPS, namespace, recorder.config_map(name, "1"))
    async with running(recorder.cache):
        await recorder.cache.synced()
        assert recorder.values == {"a": "1", "b": "1"}
        proxy.inject(text(503))
        await until(lambda: recorder.cache.trouble)
        await client.delete(CONFIG_MAPS, namespace, "a")
        await client.patch(CONFIG_MAPS, namespace, "b", {"data": {"value": "2"}})
        assert recorder.values == {"a": "1", "b": "1"}, "what is not known to be gone stays"
        proxy.heal()
        await until(lambda: recorder.values == {"b": "2"})
    assert sorted(recorder.changes[2:], key=str) == [("1", "2"), ("1", None)]


async def test_a_replay_does_not_go_back_in_time(proxy: Proxy, proxied: Client, client: Client, namespace: str) -> None:
    recorder = Recorder(proxied)
    first = await client.create(CONFIG_MAPS, namespace, recorder.config_map("a", "1"))
    gone = await client.create(CONFIG_MAPS, namespace, recorder.config_map("gone", "1"))
    await client.delete(CONFIG_MAPS, namespace, "gone")
    await client.patch(CONFIG_MAPS, namespace, "a", {"data": {"value": "2"}})
    replay = [faults.event("MODIFIED", first), faults.event("ADDED", gone), faults.event("DELETED", first)]
    proxy.inject(stream(replay, silent_for=0.3), watches, times=2)
    async with running(recorder.cache):
        await until(lambda: proxy.count(watches) == 3)
        assert recorder.values == {"a": "2"}
    assert recorder.changes == [(None, "2")]


async def test_a_list_from_the_past_is_refused(proxy: Proxy, proxied: Client, client: Client, namespace: str) -> None:
    recorder = Recorder(proxied)
    await client.create(CONFIG_MAPS, namespace, recorder.config_map("a", "1"))

    async def past(request: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    proxy.inject(stream([], silent_for=0.3), watches, times=1)
    async with running(recorder.cache):
        await recorder.cache.synced()
        proxy.inject(past, lists)
        await until(lambda: recorder.cache.trouble and recorder.cache.trouble.reason == "StaleList")
        assert recorder.values == {"a": "1"}
        proxy.heal()
        await until(lambda: recorder.cache.trouble is None)
        assert recorder.values == {"a": "1"}


@pytest.mark.parametrize(
    ("fault", "when"),
    [
        (stream([]), watches),
        (stream([faults.event("ERROR", faults.failure(410, "Expired"))]), watches),
        (stream([faults.event("ERROR", faults.failure(500, "InternalError"))]), watches),
        (stream([b"upstream request timeout\n"]), watches),
        (stream([b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"soon"}}}\n']), watches),
        (text(503), watches),
        (status(410, "Expired"), watches),
        (text(503), lambda request: True),
        (text(404, "404 page not found"), lambda request: True),
    ],
    ids=["eof", "error-410", "error-500", "text-line", "bad-bookmark", "text-503", "410", "all-503", "all-404"],
)
async def test_failures_never_make_it_run_hot(
    proxy: Proxy, proxied: Client, client: Client, namespace: str, fault: Act, when: faults.When
) -> None:
    recorder = Recorder(proxied)
    await client.create(CONFIG_MAPS, namespace, recorder.config_map("a", "1"))
    proxy.inject(fault, when)
    async with running(recorder.cache):
        await asyncio.sleep(1)
        assert 2 <= len(proxy.requests) <= 16
        proxy.heal()
        await client.create(CONFIG_MAPS, namespace, recorder.config_map("b", "1"))
        await until(lambda: recorder.values == {"a": "1", "b": "1"}, within=10)
        assert recorder.cache.trouble is None
        assert recorder.cache.available


async def test_a_silent_watch_is_given_up(proxy: Proxy, proxied: Client, client: Client, namespace: str) -> None:
    recorder = Recorder(proxied, inactivity_max=timedelta(seconds=0.5))
    proxy.inject(stream([], silent_for=3600), watches, times=1)
    async with running(recorder.cache):
        await recorder.cache.synced()
        await client.create(CONFIG_MAPS, namespace, recorder.config_map("a", "1"))
        await until(lambda: recorder.cache.age > timedelta(seconds=0.4), within=2)
        await until(lambda: recorder.values == {"a": "1"}, within=3)
        assert recorder.cache.age < timedelta(seconds=0.4)


async def test_a_refused_list_is_told_and_tried_again(control_plane: Bed, connect: Connect) -> None:
    roles = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
    cache = Cache(await connect(control_plane.kubeconfig("alice")), roles, dict, lambda old, new: None)
    async with running(cache):
        await until(lambda: isinstance(cache.trouble, ForbiddenError))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.synced(), 0.2)


def definition(group: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [version],
        },
    }


async def eventually(attempt: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(10):
        while True:
            try:
                return await attempt()
            except NotServedError:
                await asyncio.sleep(0.1)


async def test_a_kind_may_come_and_go(proxy: Proxy, proxied: Client, client: Client, namespace: str) -> None:
    group = f"g{uuid.uuid4().hex[:8]}.example"
    things = Resource(group, "v1", "things", "Thing")
    cache = Cache(
        proxied,
        things,
        lambda thing: str(thing["metadata"]["name"]),
        lambda old, new: None,
        look_again_after=timedelta(seconds=0.5),
    )
    async with running(cache):
        await asyncio.wait_for(cache.synced(), 5)
        assert not cache.available
        assert cache.list() == []
        before = len(proxy.requests)
        await asyncio.sleep(1)
        assert len(proxy.requests) - before <= 9
        await client.create(CRDS, None, definition(group))
        thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "one"}}
        created = await eventually(lambda: client.create(things, namespace, thing))
        await until(lambda: cache.list() == ["one"])
        assert cache.available
        with pytest.raises(ExpiredError):  # older than the definition: the real API server's own 410
            await anext(client.watch(things, resource_version="1"))
        assert int(created["metadata"]["resourceVersion"]) > 1
        await client.delete(CRDS, None, f"things.{group}")
        await until(lambda: not cache.available)
        assert cache.list() == []


async def test_a_404_of_a_proxy_does_not_empty_it(
    proxy: Proxy, proxied: Client, client: Client, namespace: str
) -> None:
    recorder = Recorder(proxied)
    await client.create(CONFIG_MAPS, namespace, recorder.config_map("a", "1"))
    proxy.inject(stream([]), watches, times=1)
    async with running(recorder.cache):
        await recorder.cache.synced()
        proxy.inject(text(404, "404 page not found"))
        await until(lambda: recorder.cache.trouble)
        await asyncio.sleep(0.5)
        assert recorder.values == {"a": "1"}
        assert recorder.cache.available
