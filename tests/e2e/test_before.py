"""Jobs before the start on a real cluster: made of CronJobs, run by the Job controller, with real exit codes."""

from datetime import timedelta
from typing import Any

import pytest

from testbed.control_plane import Manifest
from testbed.waiting import eventually
from tests.e2e.conftest import Serin
from tests.e2e.scenes import Scene, begin

SOON = timedelta(seconds=40)


def cron_job(namespace: str, script: str, *, offered: bool = True) -> Manifest:
    """Suspended: for changes alone."""
    container = {"name": "backup", "image": "backup:1", "command": ["sh", "-c", script]}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    labels = {"serin.dev/job": "true"} if offered else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "backup", "namespace": namespace, "labels": labels},
        "spec": {
            "schedule": "0 0 1 1 *",
            "suspend": True,
            "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": spec}}},
        },
    }


def asks_for_backup(deployment: Manifest) -> None:
    if deployment["metadata"]["labels"].get("serin.dev/change"):
        deployment["metadata"]["annotations"]["serin.dev/jobs"] = "backup"


@pytest.fixture(scope="module")
def scenes(serin: Serin) -> dict[str, Scene]:
    """One application for each way that a backup can go, all given v2 at the same moment."""
    scripts = {"good": "sleep 1; exit 0", "bad": "sleep 1; exit 3", "unlabelled": "exit 0"}
    apps = {
        name: Scene(
            serin,
            f"before-{name}",
            edit=asks_for_backup,
            around=(cron_job(f"before-{name}", script, offered=name != "unlabelled"),),
        )
        for name, script in scripts.items()
    }
    begin(*apps.values())
    with serin.policy({}):
        for number, app in enumerate(apps.values(), 1):
            app.change("v2", change_of(number))
        apps["good"].started(change_of(1))
    return apps


def change_of(number: int) -> str:
    return f"CHG-20261201-{number:03d}"


def jobs_of(app: Scene) -> list[dict[str, Any]]:
    return app.items("apis/batch/v1", "jobs")


def test_a_job_that_succeeds_lets_the_change_start_and_is_in_its_record(scenes: dict[str, Scene]) -> None:
    app, change = scenes["good"], change_of(1)
    done = app.wait(change, "Completed", within=timedelta(seconds=90))
    (run,) = done["jobs"]
    revision = done["revision"]
    assert run["job"] == f"chg-20261201-001-{revision}-backup"
    assert (run["cronJob"], run["outcome"], run["exitCode"]) == ("backup", "Succeeded", 0)
    assert run["startedAt"] <= run["endedAt"] <= done["startedAt"]
    (job,) = jobs_of(app)
    assert job["metadata"]["ownerReferences"][0]["kind"] == "ChangeRequest"
    assert job["metadata"]["annotations"]["cronjob.kubernetes.io/instantiate"] == "manual"
    app.bed.kubectl("delete", "chg", change.lower(), "-n", app.namespace)
    eventually(lambda: not jobs_of(app), within=timedelta(seconds=30))


def test_one_that_fails_holds_it_with_its_exit_code_until_it_is_mended(scenes: dict[str, Scene]) -> None:
    app, change = scenes["bad"], change_of(2)
    held = app.wait(change, "Waiting", reason="JobFailed", within=SOON)
    (run,) = held["jobs"]
    assert (run["outcome"], run["exitCode"]) == ("Failed", 3)
    assert f"{run['job']} failed with exit code 3; its log: kubectl logs job/{run['job']}" in held["message"]
    app.told("ChangeRequest", "JobFailed")
    (job,) = jobs_of(app)
    app.apply(cron_job(app.namespace, "exit 0"))
    command = held["message"].partition("run again: ")[2].partition(";")[0].removeprefix("kubectl ").split()
    app.bed.kubectl(*command, user="admin")
    done = app.wait(change, "Completed", within=timedelta(seconds=150))
    assert done["jobs"][0]["outcome"] == "Succeeded"
    (again,) = jobs_of(app)
    assert again["metadata"]["name"] == job["metadata"]["name"]
    assert again["metadata"]["uid"] != job["metadata"]["uid"]


def test_a_cron_job_without_the_label_is_not_run_by_naming_it(scenes: dict[str, Scene]) -> None:
    app, change = scenes["unlabelled"], change_of(3)
    held = app.wait(change, "Waiting", reason="NoSuchJob", within=SOON)
    assert f"kubectl label cronjob/backup -n {app.namespace} serin.dev/job=true" in held["message"]
    assert jobs_of(app) == []
    app.bed.kubectl("label", "cronjob/backup", "-n", app.namespace, "serin.dev/job=true")
    app.wait(change, "Completed", within=timedelta(seconds=150))
    assert len(jobs_of(app)) == 1
