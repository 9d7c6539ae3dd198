"""Deployments that cannot have a canary, or need none: their own rolling update, under watch, with a way back."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from testbed.control_plane import Manifest
from tests.e2e.conftest import Serin
from tests.e2e.scenes import Scene, begin

Edit = Callable[[Manifest], object]


def container(deployment: Manifest) -> Any:
    return deployment["spec"]["template"]["spec"]["containers"][0]


def recreate(deployment: Manifest) -> None:
    deployment["spec"]["strategy"] = {"type": "Recreate"}


def host_port(deployment: Manifest) -> None:
    container(deployment)["ports"][0]["hostPort"] = 18080


def volume(deployment: Manifest) -> None:
    spec = deployment["spec"]["template"]["spec"]
    spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]


def other_label(deployment: Manifest) -> None:
    """Selected by `app`, but its Service selects by `tier`, which is not in the selector."""
    deployment["spec"]["selector"]["matchLabels"] = {"part": "front"}
    deployment["spec"]["template"]["metadata"]["labels"]["part"] = "front"


def claim(namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


REASONS = {
    "no-route": "no route names a Service of its pods",
    "recreate": "its update strategy is Recreate",
    "one-replica": "it has 1 replicas, and the policy asks for 2 to make a canary",
    "host-port": "its pods take the host's port 18080",
    "volume": "its volume data can be written from one place only",
    "no-key": "no label of its selector is also in the selector of each of its Services",
}
EDITS: dict[str, Edit] = {"recreate": recreate, "host-port": host_port, "volume": volume, "no-key": other_label}


@pytest.fixture(scope="module")
def natives(serin: Serin) -> dict[str, Scene]:
    """One Deployment for each reason, all given v2 at the same moment."""
    apps: dict[str, Scene] = {
        name: Scene(
            serin,
            f"native-{name}",
            replicas=1 if name == "one-replica" else 2,
            routed=name != "no-route",
            edit=EDITS.get(name, lambda deployment: None),
            around=(claim(f"native-{name}"),) if name == "volume" else (),
        )
        for name in REASONS
    }
    begin(*apps.values())
    with serin.policy({}):
        for number, app in enumerate(apps.values(), 1):
            app.change("v2", f"CHG-20261101-{number:03d}")
        for number, app in enumerate(apps.values(), 1):
            app.started(f"CHG-20261101-{number:03d}")
    return apps


@pytest.mark.parametrize("name", REASONS)
def test_a_deployment_without_a_canary_completes_by_its_own_rolling_update_and_says_why(
    natives: dict[str, Scene], name: str
) -> None:
    app, change = natives[name], f"CHG-20261101-{list(natives).index(name) + 1:03d}"
    status = app.wait(change, "Completed")
    (target,) = status["targets"]
    assert (target["strategy"], target["strategyReason"]) == ("native", REASONS[name])
    assert status["history"][0]["phase"] == "Promoting"
    assert all(t["weight"] == 0 for t in status["history"])
    live = app.live()
    assert not live["spec"].get("paused")
    assert "serin.dev/held" not in live["metadata"]["annotations"]
    assert container(live)["image"] == "shop:v2"
    assert live["status"]["updatedReplicas"] == live["status"]["readyReplicas"] == live["status"]["replicas"]
    if app.routed:
        assert app.weights() == {"shop": 1}
    assert app.leftovers() == []


@pytest.fixture(scope="module")
def undone(serin: Serin) -> dict[str, Scene]:
    """Deployments without a route that are given a version that crashes, at its start or (Recreate) once ready."""
    apps: dict[str, Scene] = {
        "rolling": Scene(serin, "crash-rolling", replicas=4, routed=False),
        "recreate": Scene(serin, "crash-recreate", routed=False, edit=recreate),
    }
    begin(*apps.values())
    return apps


def ready_pods(app: Scene) -> int:
    return int(app.live()["status"].get("readyReplicas", 0))


def test_a_crash_looping_native_change_is_undone_with_pods_ready_throughout(undone: dict[str, Scene]) -> None:
    app = undone["rolling"]
    stable = {rs["metadata"]["uid"] for rs in replica_sets(app)}
    with app.serin.policy({}):
        app.change("v2", "CHG-20261102-001", CRASH_AT_START="true")
        undone["recreate"].change("v2", "CHG-20261102-002", CRASH_AFTER="500ms")
        app.started("CHG-20261102-001")
    ready, deadline = [], time.monotonic() + 60
    while app.status("CHG-20261102-001").get("phase") not in ("RolledBack", "Completed"):
        ready.append(ready_pods(app))
        assert time.monotonic() < deadline, app.status("CHG-20261102-001")
    status = app.wait("CHG-20261102-001", "RolledBack")
    assert status["cause"] in ("CrashLoop", "Restarts")
    assert min(ready) >= 3  # maxUnavailable is 25 % of 4
    live = app.live()
    assert live["metadata"]["annotations"]["serin.dev/held"] == "rejected"
    assert live["spec"]["paused"]
    assert ready_pods(app) == 4
    (running,) = (rs for rs in replica_sets(app) if rs["spec"]["replicas"])
    assert running["metadata"]["uid"] in stable
    app.told("Deployment", status["cause"])


def test_a_crash_looping_recreate_gets_its_stable_pods_back(undone: dict[str, Scene]) -> None:
    app = undone["recreate"]
    status = app.wait("CHG-20261102-002", "RolledBack", within=timedelta(seconds=90))
    assert status["cause"] in ("CrashLoop", "Restarts")
    pods = app.bed.get("pods", "-n", app.namespace, "-l", "app=shop")["items"]
    assert {container({"spec": {"template": pod}})["image"] for pod in pods} == {"shop:v1"}
    assert ready_pods(app) == 2
    assert app.leftovers() == []


def replica_sets(app: Scene) -> list[Any]:
    found: list[Any] = app.bed.get("replicasets", "-n", app.namespace)["items"]
    return found
