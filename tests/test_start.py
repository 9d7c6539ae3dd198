"""A cluster that cannot be worked with is refused at start, with the reason and the mend."""

from typing import Any, cast

import pytest

from controller import app
from controller.app import RIGHTS, check_cluster
from controller.cluster import kinds
from controller.cluster.client import Client, Resource
from controller.errors import NotServedError, PermanentError, SerinError, TransientError
from controller.settings import Settings, load_settings
from tests.core.test_schema import STATUS


class Server:
    """What `check_cluster` asks an API server."""

    def __init__(
        self,
        version: tuple[int, int] = (1, 37),
        served: set[str] | None = None,
        denied: str = "",
        lacks: str = "",
        published: bool = True,
    ) -> None:
        self._version, self._denied, self._lacks, self._published = version, denied, lacks, published
        self._served = {"changerequests", "changedecisions", "changepolicies"} if served is None else served

    async def version(self) -> tuple[int, int]:
        return self._version

    async def api_resources(self, group_version: str) -> set[str] | None:
        assert group_version == kinds.CHANGES.group_version
        return self._served or None

    async def schema(self, resource: Resource) -> dict[str, Any]:
        if not self._published:
            raise NotServedError("NotServed", "not published")
        status = {"type": "object", "properties": {n: s for n, s in STATUS["properties"].items() if n != self._lacks}}
        return {"properties": {"status": status}}

    async def close(self) -> None:
        pass

    async def access_review(self, verb: str, group: str, resource: str, namespace: str | None) -> bool:
        return f"{verb} {resource}" != self._denied


async def check(server: Server) -> None:
    await check_cluster(cast(Client, cast(Any, server)))


async def test_a_cluster_that_has_all_is_accepted() -> None:
    await check(Server())
    await check(Server(version=(1, 36)))


async def test_one_that_publishes_no_schema_is_accepted() -> None:
    """Then nobody can tell what it would not keep."""
    await check(Server(published=False))


@pytest.mark.parametrize(
    ("server", "reason", "says"),
    [
        (Server(version=(1, 35)), "KubernetesTooOld", "the API server is 1.35, but Serin needs 1.36"),
        (Server(served=set()), "MissingCRDs", "kubectl apply --server-side -k manifests/"),
        (Server(served={"changerequests"}), "MissingCRDs", "changedecisions.serin.dev, changepolicies.serin.dev"),
        (Server(lacks="promoted"), "OldCRDs", "changerequests.serin.dev would not keep status.promoted: kubectl apply"),
        (Server(denied="patch httproutes"), "PermissionDenied", "patch httproutes.gateway.networking.k8s.io"),
    ],
    ids=["too old", "no CRDs", "one CRD", "an old CRD", "a right"],
)
async def test_one_that_lacks_something_is_refused_by_name(server: Server, reason: str, says: str) -> None:
    with pytest.raises(PermanentError) as refused:
        await check(server)
    assert refused.value.reason == reason
    assert says in refused.value.message


def test_what_is_asked_for_are_rights_on_kinds() -> None:
    assert all(isinstance(resource, Resource) and verbs.split() for resource, verbs in RIGHTS.items())


# --- One that does not answer right now ---

THROTTLED = TransientError("TooManyRequests", "create selfsubjectreviews: slow down")


async def started(monkeypatch: pytest.MonkeyPatch, *refusals: SerinError) -> int:
    """How often it asked until it ran, when it is refused this often at first."""
    left, asked, ran = list(refusals), [], []

    async def connect(**options: object) -> Server:
        asked.append(options)
        if left:
            raise left.pop(0)
        return Server()

    async def run(settings: Settings, client: Client) -> None:
        ran.append(client)

    monkeypatch.setattr(Client, "connect", connect)
    monkeypatch.setattr(app, "_run", run)
    monkeypatch.setenv("SERIN_PROMETHEUS_URL", "http://prometheus:9090")
    await app.run(load_settings())
    assert len(ran) == 1
    return len(asked)


@pytest.mark.looptime
async def test_an_api_server_that_throttles_at_the_start_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends each time is kept waiting by the kubelet, twice as long each time."""
    assert await started(monkeypatch, THROTTLED, THROTTLED) == 3


@pytest.mark.looptime
@pytest.mark.parametrize("reason", ["KubernetesTooOld", "NoCredentials", "WrongIdentity"])
async def test_what_no_patience_mends_is_said_at_once(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    with pytest.raises(PermanentError, match=reason):
        await started(monkeypatch, PermanentError(reason, "no"))
