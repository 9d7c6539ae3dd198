"""Every version of every object of some kinds, in the order in which the cluster came by them."""

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from testbed.api import Api
from testbed.bed import Bed

Json = dict[str, Any]

KINDS = {
    "ChangeRequest": "/apis/serin.dev/v1alpha1/changerequests",
    "Deployment": "/apis/apps/v1/deployments",
    "ReplicaSet": "/apis/apps/v1/replicasets",
    "Service": "/api/v1/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/horizontalpodautoscalers",
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/httproutes",
}


class Version(NamedTuple):
    """`revision` counts over all kinds: it is the cluster's own clock. `object` is the last one of a deleted one.

    `seen_at` is when the recorder heard of it: what else happened then is known by it, not what came first.
    """

    revision: int
    kind: str
    namespace: str
    name: str
    object: Json
    deleted: bool = False
    seen_at: datetime | None = None


class Recorder:
    """Watches from its making to `close`. The API server tells a watch of every version, none is left out."""

    def __init__(self, bed: Bed) -> None:
        self._api = Api(bed)
        self._lock = threading.Lock()
        self._versions: list[Version] = []
        self._latest: dict[tuple[str, str, str], Version] = {}
        self._closing = False
        self._watches = []
        self._threads = []
        for kind, path in KINDS.items():
            found = self._api.get(path)
            assert found is not None, path
            for item in found["items"]:
                self._take(kind, "ADDED", item)
            watch = self._api.watch(path, found["metadata"]["resourceVersion"])
            thread = threading.Thread(target=self._follow, args=(kind, watch), daemon=True)
            thread.start()
            self._watches.append(watch)
            self._threads.append(thread)

    def latest(self, kind: str, namespace: str, name: str) -> Json | None:
        found = self._latest.get((kind, namespace, name))
        return None if found is None or found.deleted else found.object

    def history(self, namespaces: Iterable[str]) -> list[Version]:
        """All that happened in these namespaces, in its order."""
        wanted = set(namespaces)
        with self._lock:
            return sorted((v for v in self._versions if v.namespace in wanted), key=lambda v: v.revision)

    def holds(self, kind: str, namespace: str, name: str, told: Callable[[Json], object]) -> bool:
        """Whether the object is there, and `told` says so of it."""
        found = self.latest(kind, namespace, name)
        return found is not None and bool(told(found))

    def close(self) -> None:
        self._closing = True
        for watch in self._watches:
            watch.close()
        for thread in self._threads:
            thread.join()
        self._api.close()

    def _follow(self, kind: str, watch: Any) -> None:
        try:
            for event, item in watch:
                self._take(kind, event, item)
        except OSError:
            if not self._closing:
                raise
        finally:
            watch.end()
        assert self._closing, f"the watch of {kind} ended: versions are missing"

    def _take(self, kind: str, event: str, item: Json) -> None:
        assert event in ("ADDED", "MODIFIED", "DELETED"), (kind, event, item)
        meta = item["metadata"]
        meta.pop("managedFields", None)
        names = kind, meta.get("namespace", ""), meta["name"]
        version = Version(int(meta["resourceVersion"]), *names, item, event == "DELETED", datetime.now(UTC))
        with self._lock:
            self._versions.append(version)
            self._latest[kind, version.namespace, version.name] = version
