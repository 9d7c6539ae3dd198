"""The client against a real API server, with and without a failing proxy in between."""

import asyncio
import gc
import json
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from controller.cluster.client import SUBJECT_REVIEWS, Client, Resource
from controller.errors import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    NotServedError,
    PermanentError,
    TransientError,
)
from testbed import proxy as faults
from testbed.bed import Bed
from testbed.proxy import Act, Proxy, hang, lists, pages_on, status, stream, text, watches, writes
from tests.cluster.conftest import CONFIG_MAPS, NAMESPACES, Connect, config_map

CONTROLLER = "system:serviceaccount:serin-system:serin"
ABSENT = Resource("absent.example", "v1", "things", "Thing")


async def fill(client: Client, namespace: str, number: int) -> set[str]:
    names = {f"cm-{i}" for i in range(number)}
    for name in names:
        await client.create(CONFIG_MAPS, namespace, config_map(name, team="a"))
    return names


async def listed(client: Client, namespace: str) -> set[str]:
    items, _ = await client.list(CONFIG_MAPS, namespace, label_selector="team=a", limit=2)
    return {item["metadata"]["name"] for item in items}


async def test_objects_are_created_read_patched_and_deleted(client: Client, namespace: str) -> None:
    await client.create(CONFIG_MAPS, namespace, config_map("one", "1"), dry_run=True)
    with pytest.raises(NotFoundError):
        await client.get(CONFIG_MAPS, namespace, "one")
    created = await client.create(CONFIG_MAPS, namespace, config_map("one", "1"))
    assert await client.get(CONFIG_MAPS, namespace, "one") == created
    patched = await client.patch(CONFIG_MAPS, namespace, "one", {"data": {"value": None, "other": "2"}})
    assert patched["data"] == {"other": "2"}
    replace = [{"op": "replace", "path": "/data/other", "value": "3"}]
    assert (await client.patch(CONFIG_MAPS, namespace, "one", replace, content_type="json"))["data"] == {"other": "3"}
    ours = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"other": "4"}}
    applied = await client.patch(CONFIG_MAPS, namespace, "one", ours, content_type="apply", field_manager="tester")
    assert applied["data"] == {"other": "4"}
    assert {"manager": "tester", "operation": "Apply"}.items() <= next(
        entry.items() for entry in applied["metadata"]["managedFields"] if entry["manager"] == "tester"
    )
    await client.delete(CONFIG_MAPS, namespace, "one")
    with pytest.raises(NotFoundError, match="one"):
        await client.delete(CONFIG_MAPS, namespace, "one")


async def test_a_subresource_is_patched_by_itself(client: Client, namespace: str) -> None:
    condition = {
        "type": "Tested",
        "status": "True",
        "reason": "Yes",
        "message": "",
        "lastTransitionTime": "2026-11-23T00:00:00Z",
    }
    patch = {"status": {"conditions": [condition]}, "metadata": {"labels": {"ignored": "yes"}}}
    patched = await client.patch(NAMESPACES, None, namespace, patch, subresource="status")
    assert [c["type"] for c in patched["status"]["conditions"]] == ["Tested"]


async def test_refusals_are_named_for_what_happens_next(client: Client, namespace: str) -> None:
    created = await client.create(CONFIG_MAPS, namespace, config_map("one"))
    with pytest.raises(AlreadyExistsError):
        await client.create(CONFIG_MAPS, namespace, config_map("one"))
    await client.patch(CONFIG_MAPS, namespace, "one", {"data": {"value": "newer"}})
    old = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "data": {"value": "lost"}}
    with pytest.raises(ConflictError) as conflict:
        await client.patch(CONFIG_MAPS, namespace, "one", old)
    assert not isinstance(conflict.value, AlreadyExistsError)
    with pytest.raises(ConflictError):
        await client.delete(CONFIG_MAPS, namespace, "one", uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(ConflictError):
        await client.delete(CONFIG_MAPS, namespace, "one", resource_version=created["metadata"]["resourceVersion"])
    with pytest.raises(PermanentError) as invalid:
        await client.create(CONFIG_MAPS, namespace, config_map("Not A Name"))
    assert invalid.value.reason == "Invalid"
    with pytest.raises(NotFoundError, match="nowhere"):
        await client.create(CONFIG_MAPS, "nowhere", config_map("one"))
    assert (await client.get(CONFIG_MAPS, namespace, "one"))["data"] == {"value": "newer"}


@contextmanager
def without_space(bed: Bed) -> Iterator[None]:
    """The alarm that etcd raises by itself when it is full, and that keeps its answer until someone takes it back."""

    def alarm(action: str) -> None:
        asked = json.dumps({"action": action, "alarm": "NOSPACE"}).encode()
        with urllib.request.urlopen(f"http://{bed.host}:2379/v3/maintenance/alarm", asked, timeout=5) as answer:
            assert answer.status == 200

    alarm("ACTIVATE")
    try:
        yield
    finally:
        alarm("DEACTIVATE")


async def test_an_etcd_without_space_is_trouble_that_passes(control_plane: Bed, client: Client, namespace: str) -> None:
    """What cannot be written is tried again, and what is there can be read, so that it is known what to write then."""
    await client.create(CONFIG_MAPS, namespace, config_map("one", "1"))
    with without_space(control_plane):
        for write in (
            client.create(CONFIG_MAPS, namespace, config_map("two")),
            client.patch(CONFIG_MAPS, namespace, "one", {"data": {"value": "2"}}),
        ):
            with pytest.raises(TransientError, match="space"):
                await write
        assert (await client.get(CONFIG_MAPS, namespace, "one"))["data"] == {"value": "1"}
    await client.patch(CONFIG_MAPS, namespace, "one", {"data": {"value": "2"}})


async def test_a_kind_that_is_not_served_is_not_an_object_that_is_gone(client: Client) -> None:
    with pytest.raises(NotServedError):
        await client.list(ABSENT)
    with pytest.raises(NotServedError):
        await client.get(ABSENT, "default", "one")
    with pytest.raises(NotServedError):
        await client.list(Resource("apps", "v1", "absents", "Absent"))
    assert await client.api_resources("absent.example/v1") is None
    assert "deployments" in (await client.api_resources("apps/v1") or set())
    assert {"pods", "configmaps"} <= (await client.api_resources("v1") or set())


async def test_forbidden_names_verb_and_resource(control_plane: Bed, connect: Connect) -> None:
    alice = await connect(control_plane.kubeconfig("alice"))
    roles = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
    with pytest.raises(ForbiddenError) as refused:
        await alice.list(roles)
    assert (refused.value.verb, refused.value.resource, refused.value.namespace) == (
        "list",
        "clusterroles.rbac.authorization.k8s.io",
        "",
    )
    assert await alice.access_review("create", "apps", "deployments", "default")
    assert not await alice.access_review("list", roles.group, roles.plural, None)


async def test_version_and_identity(client: Client) -> None:
    assert await client.version() >= (1, 36)
    assert await client.who_am_i() == "admin"


async def test_it_acts_as_the_service_account_with_its_groups(control_plane: Bed, connect: Connect) -> None:
    client = await connect(control_plane.kubeconfig(), impersonate=CONTROLLER)
    assert await client.who_am_i() == CONTROLLER
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}}
    user = (await client.create(SUBJECT_REVIEWS, None, review))["status"]["userInfo"]
    assert set(user["groups"]) == {
        "system:serviceaccounts",
        "system:serviceaccounts:serin-system",
        "system:authenticated",
    }


async def test_nobody_is_impersonated_by_who_may_not(control_plane: Bed, connect: Connect) -> None:
    # Not the ServiceAccount: the ClusterRole `edit` lets its holders act as those of their namespaces.
    with pytest.raises(ForbiddenError, match="impersonate"):
        await connect(control_plane.kubeconfig("alice"), impersonate="bob")


async def test_credentials_are_sent_and_nobody_impersonates_himself(
    proxy: Proxy, proxied_kubeconfig: Path, connect: Connect, token: str
) -> None:
    client = await connect(proxied_kubeconfig, impersonate="admin")
    await client.list(CONFIG_MAPS, "default")
    assert {request.headers["Authorization"] for request in proxy.requests} == {f"Bearer {token}"}
    assert not any("Impersonate-User" in request.headers for request in proxy.requests)


async def test_missing_credentials_are_named(tmp_path: Path) -> None:
    for kubeconfig in (str(tmp_path / "absent"), None):
        with pytest.raises(PermanentError, match="credentials") as refused:
            await Client.connect(kubeconfig=kubeconfig, impersonate=None, timeout=timedelta(seconds=1))
        assert refused.value.reason == "NoCredentials"


async def test_a_token_that_ran_out_is_read_again(proxy: Proxy, connect: Connect, token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    client = await connect(faults.kubeconfig(tmp_path / "by-file", proxy.url, {"tokenFile": str(file)}))
    assert await client.who_am_i() == "admin"
    file.write_text("run out")
    again = await connect(faults.kubeconfig(tmp_path / "by-file", proxy.url, {"tokenFile": str(file)}))
    with pytest.raises(TransientError) as refused:
        await again.who_am_i()
    assert refused.value.reason == "Unauthorized"
    file.write_text(token)
    assert await again.who_am_i() == "admin"


@pytest.mark.parametrize(
    "fault",
    [text(503), text(502, "<html>bad gateway</html>"), text(200, "<html>log in</html>"), status(500, "InternalError"),
     status(429, "TooManyRequests", Retry_After="0")],
    ids=["text-503", "text-502", "html-200", "500", "429"],
)  # fmt: skip
async def test_reads_are_tried_three_times_and_writes_once(
    proxy: Proxy, proxied: Client, namespace: str, fault: Act
) -> None:
    proxy.inject(fault, lists, times=2)
    assert await proxied.list(CONFIG_MAPS, namespace, label_selector="team=a") != ([], "")
    assert proxy.count(lists) == 3
    proxy.inject(fault, lists)
    with pytest.raises(TransientError):
        await proxied.list(CONFIG_MAPS, namespace)
    assert proxy.count(lists) == 6
    proxy.inject(fault, writes)
    with pytest.raises(TransientError):
        await proxied.create(CONFIG_MAPS, namespace, config_map("one"))
    assert proxy.count(writes) == 1


async def test_calls_leave_nothing_behind_that_only_the_garbage_collector_can_free(
    proxy: Proxy, proxied: Client, namespace: str
) -> None:
    """It comes seldom in a large process: what had waited for it was most of the memory by which a long run grew."""

    async def calls() -> None:
        await proxied.list(CONFIG_MAPS, namespace)
        proxy.inject(status(503, "busy"), lists, times=1)
        await proxied.list(CONFIG_MAPS, namespace)
        for _ in range(10):
            await proxied.list(CONFIG_MAPS, namespace)
            with pytest.raises(NotFoundError):
                await proxied.get(CONFIG_MAPS, namespace, "nobody")

    await calls()
    gc.collect()
    gc.disable()
    try:
        await calls()
        assert gc.collect() < 50  # of the proxy, which runs here too, and of pytest
    finally:
        gc.enable()


async def test_retry_after_is_obeyed_by_reads_and_told_by_writes(proxy: Proxy, proxied: Client, namespace: str) -> None:
    loop = asyncio.get_running_loop()
    proxy.inject(status(429, "TooManyRequests", Retry_After="1"), lists, times=1)
    began = loop.time()
    await proxied.list(CONFIG_MAPS, namespace)
    assert 1 <= loop.time() - began < 2
    proxy.inject(status(429, "TooManyRequests", Retry_After="7"), lists, times=1)
    began = loop.time()
    with pytest.raises(TransientError):
        await proxied.list(CONFIG_MAPS, namespace)
    assert loop.time() - began < 1, "a wait past the time limit is the caller's affair"
    for asked, told in (("7", timedelta(seconds=7)), ("99999", timedelta(minutes=1)), ("soon", None)):
        proxy.inject(text(503, "busy", Retry_After=asked), writes, times=1)
        with pytest.raises(TransientError) as refused:
            await proxied.create(CONFIG_MAPS, namespace, config_map("one"))
        assert refused.value.retry_after == told


async def test_a_hung_read_is_tried_again_and_nothing_waits_longer_than_the_limit(
    proxy: Proxy, proxied_kubeconfig: Path, connect: Connect, namespace: str
) -> None:
    proxied = await connect(proxied_kubeconfig, limit=timedelta(seconds=1))
    loop = asyncio.get_running_loop()
    proxy.inject(hang, lists, times=1)
    await proxied.list(CONFIG_MAPS, namespace)
    proxy.inject(hang)
    for call in (
        proxied.list(CONFIG_MAPS, namespace),
        proxied.create(CONFIG_MAPS, namespace, config_map("one")),
    ):
        began = loop.time()
        with pytest.raises(TransientError) as refused:
            await call
        assert refused.value.reason == "Timeout"
        assert 0.9 < loop.time() - began < 1.5


async def test_an_answer_cut_short_is_no_answer(proxy: Proxy, proxied: Client, client: Client, namespace: str) -> None:
    names = await fill(client, namespace, 3)
    proxy.inject(proxy.cut, lists, times=1)
    assert await listed(proxied, namespace) == names
    proxy.inject(proxy.lose_answer, writes, times=1)
    with pytest.raises(TransientError) as refused:
        await proxied.create(CONFIG_MAPS, namespace, config_map("lost"))
    assert refused.value.reason == "ConnectionLost"
    assert await client.get(CONFIG_MAPS, namespace, "lost"), "it was done all the same"


async def test_a_list_is_whole_or_an_error(proxy: Proxy, proxied: Client, client: Client, namespace: str) -> None:
    names = await fill(client, namespace, 5)
    assert await listed(proxied, namespace) == names
    assert proxy.count(pages_on) == 2
    proxy.inject(status(410, "Expired"), pages_on, times=2)
    assert await listed(proxied, namespace) == names
    proxy.inject(status(410, "Expired"), pages_on)
    with pytest.raises(TransientError) as refused:
        await listed(proxied, namespace)
    assert refused.value.reason == "ListExpired"


async def test_an_unreachable_server_is_a_transient_error(connect: Connect, tmp_path: Path) -> None:
    client = await connect(faults.kubeconfig(tmp_path / "closed", "http://127.0.0.1:9", {"token": "none"}))
    with pytest.raises(TransientError) as refused:
        await client.version()
    assert refused.value.reason == "ConnectionLost"


async def test_discovery_is_not_fooled_by_a_404_of_a_proxy(proxy: Proxy, proxied: Client) -> None:
    proxy.inject(text(404, "404 page not found"), lambda request: request.path != "/apis")
    with pytest.raises(TransientError) as refused:
        await proxied.api_resources("apps/v1")
    assert refused.value.reason == "DiscoveryDisagrees"


async def test_a_watch_tells_what_happens_after_the_list(client: Client, namespace: str) -> None:
    _, version = await client.list(CONFIG_MAPS, namespace, label_selector="team=a")
    seen: list[tuple[str, str]] = []
    async with aclosing(
        client.watch(CONFIG_MAPS, namespace=namespace, label_selector="team=a", resource_version=version)
    ) as events:
        await client.create(CONFIG_MAPS, namespace, config_map("one", "x" * 300_000, team="a"))
        await client.create(CONFIG_MAPS, namespace, config_map("other", team="b"))
        await client.patch(CONFIG_MAPS, namespace, "one", {"data": {"more": "y"}})
        await client.patch(CONFIG_MAPS, namespace, "one", {"metadata": {"labels": {"team": None}}})
        async for event in events:
            if event.type != "BOOKMARK":
                seen.append((event.type, json.loads(bytes(event.raw))["metadata"]["name"]))
            if event.type == "DELETED":
                break
    assert seen == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (stream([faults.event("ERROR", faults.failure(410, "Expired"))]), ExpiredError),
        (stream([faults.event("ERROR", faults.failure(500, "InternalError"))]), TransientError),
        (stream([b"upstream request timeout\n"]), TransientError),
        (stream([b'{"type":"ADDED","object":{"metadata"']), TransientError),
        (stream([], silent_for=30), TransientError),
        (text(503), TransientError),
        (hang, TransientError),
        (status(429, "TooManyRequests"), TransientError),
    ],
    ids=["error-410", "error-500", "no-json", "cut-line", "silence", "text-503", "hang", "429"],
)
async def test_a_watch_that_fails_raises(proxy: Proxy, proxied: Client, fault: Act, expected: type[Exception]) -> None:
    proxy.inject(fault, watches)
    with pytest.raises(expected):
        await anext(proxied.watch(CONFIG_MAPS, resource_version="1", inactivity_max=timedelta(seconds=0.4)))
    assert proxy.count(watches) == 1
