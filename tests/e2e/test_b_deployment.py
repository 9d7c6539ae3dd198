"""The Deployment itself is deleted or replaced under way; and Deployments of two strategies under one change."""

from datetime import timedelta
from typing import Any

from testbed.waiting import eventually
from tests.e2e.conftest import Played
from tests.e2e.scenes import begin

AT_100 = {"steps": [{"weight": 100, "bake": "60s"}]}
LONG = timedelta(seconds=120)


def at_100(app: Played) -> str:
    change = app.start("v2", policy=AT_100)
    eventually(lambda: app.status(change).get("reason") in ("Baking", "NoVerdict"), within=timedelta(seconds=40))
    return change


def ready_pods(app: Played) -> int:
    return int(app.live()["status"].get("readyReplicas", 0))


def test_a_deployment_that_is_replaced_by_force_is_served_without_a_failed_request(app: Played) -> None:
    with app.users(rps=20) as users:
        change = at_100(app)
        app.bed.kubectl("delete", "deployment", app.name, "-n", app.namespace, user="alice")
        app.apply(app.deployment("v2", change, kind="standard"), user="alice")
        done = app.wait(change, "Superseded", within=LONG)
        summary = users.stop()
    assert done["cause"] == "DeploymentDeleted"
    assert summary.failed == 0
    assert "serin.dev/held" not in app.live()["metadata"]["annotations"]
    assert (ready_pods(app), app.weights(), app.leftovers()) == (4, {"shop": 1}, [])


def test_a_deployment_that_is_deleted_ends_its_change_and_leaves_nothing(app: Played) -> None:
    with app.users(rps=20):
        change = at_100(app)
        app.bed.kubectl("delete", "deployment", app.name, "-n", app.namespace, user="alice")
        done = app.wait(change, "Superseded", within=timedelta(seconds=45))
    assert done["cause"] == "DeploymentDeleted"
    assert (app.weights(), app.leftovers()) == ({"shop": 1}, [])


def test_a_group_of_a_canary_and_a_native_rollout_completes_together(app: Played) -> None:
    worker = Played(app.serin, app.namespace, "worker", replicas=2, routed=False)
    begin(worker)
    change = app.serin.change_id()
    with app.users(rps=20), app.serin.policy({}):
        app.apply(*(a.deployment("v2", change, kind="standard") for a in (app, worker)), user="alice")
        app.wait(change, "Progressing", within=timedelta(seconds=30))
        assert len(app.pods("v2")) < len(app.pods("v1")), "the native one waits for the canary's steps"
    with app.users(rps=20):
        done = app.wait(change, "Completed", within=LONG)
    strategies: dict[str, Any] = {t["name"]: t["strategy"] for t in done["targets"]}
    assert strategies == {"shop": "canary", "worker": "native"}
    assert (app.pods("v1"), app.leftovers(), app.weights()) == ({}, [], {"shop": 1})


def test_a_native_rollout_that_crashes_once_it_was_ready_is_undone(app: Played) -> None:
    worker = Played(app.serin, app.namespace, "worker", replicas=2, routed=False)
    begin(worker)
    change = app.serin.change_id()
    with app.serin.policy(
        {"steps": [{"weight": 100, "bake": "20s"}]}
    ):  # long enough for one more crash of its first pod
        worker.change("v2", change, CRASH_AFTER="4s")
        worker.started(change)
    done = worker.wait(change, "RolledBack", within=LONG)
    assert done["cause"] in ("CrashLoop", "Restarts", "NotReady")
    eventually(lambda: ready_pods(worker) == 2, within=timedelta(seconds=30))
    assert (app.pods("v2"), len(app.pods("v1"))) == ({}, 6)
