"""What people ask for, rightly and wrongly: numbered changes, groups, malformed requests; and who leads."""

import os
import subprocess
import sys
import time
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.cluster.read import UNSERVED_FOR
from testbed import stage
from testbed.bed import Bed
from testbed.errors import BedError
from testbed.waiting import eventually
from tests.e2e.conftest import LEASE, Played, Serin
from tests.e2e.scenes import begin

LONG = timedelta(seconds=90)
QUICK = timedelta(seconds=30)
SLOW = {"steps": [{"weight": w, "bake": "20s"} for w in (10, 50, 100)]}


NOBODY = {"minRequests": 0}
"""Without users: nothing to wait for."""


def changes(app: Played) -> dict[str, dict[str, Any]]:
    """Name to ChangeRequest, of the namespace."""
    found = app.items("apis/serin.dev/v1alpha1", "changerequests")
    return {item["metadata"]["name"]: item for item in found}


def untouched(app: Played, pods: dict[str, Any]) -> None:
    assert app.pods().keys() == pods.keys()
    assert app.weights() == {"shop": 1}


# --- Numbered by Serin ---


def test_auto_numbers_each_template_and_nothing_else(app: Played) -> None:
    stable = app.pods()
    app.bed.kubectl("label", "deployment/shop", "serin.dev/change=auto", "-n", app.namespace, user="alice")
    app.bed.kubectl("annotate", "deployment/shop", "serin.dev/type=standard", "-n", app.namespace, user="alice")
    time.sleep(2)
    assert changes(app) == {}, "adopting makes no change"
    assert app.pods().keys() == stable.keys(), "and restarts nothing"
    with app.serin.policy(NOBODY):
        app.bed.kubectl("set", "image", "deployment/shop", "shop=shop:v2", "-n", app.namespace, user="alice")
        (first,) = eventually(lambda: changes(app), within=QUICK)
        app.wait(first.upper(), "Progressing", within=QUICK)
    app.wait(first.upper(), "Completed", within=LONG)
    with app.serin.policy(NOBODY):
        app.bed.kubectl("rollout", "restart", "deployment/shop", "-n", app.namespace, user="alice")
        second = eventually(lambda: next((n for n in changes(app) if n != first), ""), within=QUICK)
        done = app.wait(second.upper(), "Progressing", within=QUICK)
    assert second > first
    assert changes(app)[second]["spec"]["changeId"] == second.upper()
    assert done["targets"][0]["name"] == "shop"


# --- One change, several Deployments ---


def test_a_group_steps_together_and_one_breach_takes_all_back(app: Played) -> None:
    cart = Played(app.serin, app.namespace, "cart", replicas=2)
    begin(cart)
    stable = app.pods()
    change = app.serin.change_id()
    bad = cart.deployment("v2", change, kind="standard", CRASH_AFTER="3s")
    with app.serin.policy(SLOW):
        app.apply(app.deployment("v2", change, kind="standard"), bad, user="alice")
        app.wait(change, "Progressing", within=QUICK)
    done = app.wait(change, "RolledBack", within=LONG)
    assert {t["name"] for t in done["targets"]} == {"shop", "cart"}
    assert done["cause"] in ("CrashLoop", "Restarts")
    assert app.pods().keys() == stable.keys()
    assert (app.weights(), cart.weights(), app.leftovers()) == ({"shop": 1}, {"cart": 1}, [])


# --- Written beforehand, and outside what its type may change ---


def test_a_form_that_was_written_beforehand_keeps_what_people_wrote(app: Played) -> None:
    change = app.serin.change_id()
    form = {"description": "as admin wrote it", "impact": {"risk": "low"}, "notBefore": "2026-01-01T00:00:00Z"}
    meta = {"name": change.lower(), "namespace": app.namespace}
    spec = {"changeId": change, "type": "standard", **form}
    app.bed.apply({"apiVersion": "serin.dev/v1alpha1", "kind": "ChangeRequest", "metadata": meta, "spec": spec})
    said = {"serin.dev/description": "as alice says", "serin.dev/priority": "p1"}
    with app.serin.policy({}):
        app.apply(app.deployment("v2", change, kind="standard", annotations=said), user="alice")
        done = app.wait(change, "Progressing", within=QUICK)
    found = changes(app)[change.lower()]["spec"]
    assert {key: found[key] for key in form} == form
    assert (found["priority"], list(found["fromAnnotations"])) == ("P1", ["priority"])
    (target,) = done["targets"]
    assert {"path": "containers[shop].image", "before": "shop:v1", "after": "shop:v2"} in target["diff"]
    assert target["images"] == [{"container": "shop", "image": "shop:v2"}]
    requester = app.bed.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    assert found["requestedBy"] == requester
    assert "alice" in done["requesters"], "who applied the template asked for it, too"


def test_what_is_outside_the_scope_waits_until_it_is_asked_for_otherwise(app: Played) -> None:
    stable = app.pods()
    scope = {"images": "none", "env": ["VERSION", "LOG_LEVEL"]}
    with app.serin.policy({"scope": scope, "form": {"required": ["description", "impact.risk"]}}):
        change = app.serin.change_id()
        app.apply(app.deployment("v2", change, kind="standard"), user="alice")
        asked = app.wait(change, "Waiting", reason="FormIncomplete", within=QUICK)
        lacking = "description (annotation serin.dev/description), impact.risk (annotation serin.dev/risk)"
        assert lacking in asked["message"]
        annotate = ("annotate", "deployment/shop", "-n", app.namespace, "--overwrite")
        app.bed.kubectl(*annotate, "serin.dev/description=v2", "serin.dev/risk=Low", user="alice")
        held = app.wait(change, "Waiting", reason="NotStandard", within=QUICK)
        assert "containers[shop].image may not change (from shop:v1 to shop:v2)" in held["message"]
        app.told("ChangeRequest", "NotStandard")
        untouched(app, stable)
        app.bed.kubectl(*annotate, "serin.dev/type=normal", user="alice")
        app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)
        app.apply(app.deployment("v1", app.serin.change_id(), kind="standard"), user="alice")
        eventually(lambda: app.status(change)["phase"] == "Superseded", within=QUICK)


# --- Wrongly ---


@pytest.mark.parametrize(
    ("label", "annotations", "reason"),
    [
        ("CHG-2026-1", {}, "InvalidChangeID"),
        ("CHG-20261399-001", {}, "InvalidChangeID"),
        ("CHG-20260102-901", {"serin.dev/type": "hotfix"}, "UnknownType"),
        ("CHG-20260102-902", {"serin.dev/description": "x" * 200_000}, "InvalidAnnotation"),
        ("CHG-20260102-903", {"serin.dev/description": "a\x1b[31mb"}, "InvalidAnnotation"),
    ],
    ids=["malformed", "no date", "type", "200 kB", "control characters"],
)
def test_a_malformed_request_is_held_and_named(
    app: Played, label: str, annotations: dict[str, str], reason: str
) -> None:
    stable = app.pods()
    manifest = app.deployment("v2", label, annotations={"serin.dev/type": "standard", **annotations})
    app.bed.apply(manifest, user="alice")  # server-side: the annotation would not fit twice
    record = eventually(lambda: next(iter(changes(app).values()), {}), within=QUICK)
    name = record["metadata"]["name"]
    eventually(lambda: changes(app)[name].get("status", {}).get("reason") == reason, within=QUICK)
    untouched(app, stable)
    for kind in ("ChangeRequest", "Deployment"):
        app.told(kind, reason)
    assert any(line["reason"] == reason for line in app.serin.lines(app.namespace, "decision"))
    assert "\x1b" not in app.serin.log_of(app.namespace)
    # Mended, it runs; a record of what had no ID is gone.
    good = app.serin.change_id()
    with app.serin.policy({}):
        app.bed.apply(app.deployment("v2", good, annotations={"serin.dev/type": "standard"}), user="alice")
        app.wait(good, "Progressing", within=QUICK)
    eventually(lambda: "refused-shop" not in changes(app), within=QUICK)


def test_promql_in_an_annotation_is_text(app: Played) -> None:
    change = app.serin.change_id()
    text = 'x"} or vector(1) #{{ $labels }} \\'
    manifest = app.deployment("v2", change, kind="standard", annotations={"serin.dev/description": text})
    with app.serin.policy({}):
        app.apply(manifest, user="alice")
        app.started(change)
    assert changes(app)[change.lower()]["spec"]["description"] == text


def test_a_closed_id_never_runs_again(app: Played) -> None:
    change = app.start("v2")
    app.wait(change, "Completed", within=LONG)
    stable = app.pods()
    app.change("v3", change)
    eventually(lambda: changes(app).get("refused-shop", {}).get("status", {}).get("reason") == "ChangeClosed", QUICK)
    untouched(app, stable)
    app.change("v3", app.serin.change_id())
    eventually(lambda: "refused-shop" not in changes(app), within=QUICK)


def test_an_id_belongs_to_one_namespace(app: Played) -> None:
    other = Played(app.serin, f"{app.namespace}-2", replicas=2)
    begin(other)
    change = app.start("v2")
    other.change("v2", change)
    other.wait(change, "Waiting", reason="DuplicateChangeID", within=QUICK)
    app.wait(change, "Completed", within=LONG)


def test_a_deployment_of_another_controller_is_left_to_it(app: Played) -> None:
    owner = app.bed.get("service", "shop", "-n", app.namespace)["metadata"]
    stable = app.pods()
    change = app.serin.change_id()
    manifest = app.deployment("v2", change, kind="standard")
    reference = {"apiVersion": "v1", "kind": "Service", "name": "shop", "uid": owner["uid"], "controller": True}
    manifest["metadata"]["ownerReferences"] = [reference]
    app.apply(manifest)
    app.wait(change, "Waiting", reason="OwnedByAnotherController", within=QUICK)
    untouched(app, stable)


ARGO = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "rollouts.argoproj.io"},
    "spec": {
        "group": "argoproj.io",
        "scope": "Namespaced",
        "names": {"plural": "rollouts", "singular": "rollout", "kind": "Rollout"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


def test_a_deployment_that_argo_is_told_to_roll_out_is_left_to_it(app: Played) -> None:
    app.bed.apply(ARGO)
    app.bed.await_crds()
    time.sleep(UNSERVED_FOR.total_seconds())  # it may have been asked for just before
    workload = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}
    meta = {"name": "shop", "namespace": app.namespace}
    rollout = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": meta}
    app.bed.apply({**rollout, "spec": {"workloadRef": workload}})
    stable, change = app.pods(), app.serin.change_id()
    app.change("v2", change)
    waiting = app.wait(change, "Waiting", reason="OwnedByAnotherController", within=QUICK)
    assert "Deployment shop belongs to Rollout shop (argoproj.io)" in waiting["message"]
    untouched(app, stable)


@pytest.mark.alone
def test_a_policy_that_cannot_be_used_holds_and_one_that_goes_is_remembered(app: Played) -> None:
    running = app.start("v2", policy=SLOW)
    app.wait(running, "Progressing", reason="Baking", within=QUICK)
    app.bed.kubectl("delete", "chgp", "standard")
    try:
        app.told("ChangeRequest", "PolicyNotFound")
        assert app.status(running)["phase"] == "Progressing"
        other = Played(app.serin, f"{app.namespace}-2", replicas=2)
        begin(other)
        change = app.serin.change_id()
        other.change("v2", change)
        other.wait(change, "Waiting", reason="PolicyNotFound", within=QUICK)
        broken = stage.policy("standard", bakes=(timedelta(seconds=1),) * 3, metrics={"preset": "influx"})
        app.bed.apply(broken)
        assert "influx" in other.wait(change, "Waiting", reason="InvalidPolicy", within=QUICK)["message"]
    finally:
        app.serin.forget_policies()
    with app.serin.policy({}):
        other.wait(change, "Progressing", within=QUICK)
    assert app.wait(running, "Progressing", "Completed", within=LONG)["policy"]["steps"][0]["bake"] == "20s"


@pytest.mark.alone
def test_without_the_admission_policies_nothing_starts(app: Played) -> None:
    app.bed.kubectl("delete", "validatingadmissionpolicybinding", "serin-guard")
    try:
        time.sleep(3)
        app.serin.controller.restart()  # it looks at start, and every so often
        change = app.serin.change_id()
        app.change("v2", change)
        app.wait(change, "Waiting", reason="AdmissionMissing", within=QUICK)
    finally:
        app.bed.kubectl("apply", "--server-side", "-k", str(stage.ROOT / "policies/admission"))
    app.serin.controller.restart()
    app.wait(change, "Progressing", within=QUICK)


@pytest.mark.alone
def test_edits_while_the_guard_is_away_are_each_found(app: Played) -> None:
    app.wait(app.start("v2", policy=NOBODY), "Completed", within=LONG)
    app.bed.kubectl("delete", "validatingadmissionpolicybinding", "serin-guard")
    app.bed.kubectl("delete", "mutatingadmissionpolicybinding", "serin-hold")
    try:
        time.sleep(3)
        for version in ("v3", "v4", "v5"):
            app.bed.kubectl("set", "image", "deployment/shop", f"shop=shop:{version}", "-n", app.namespace)
            app.bed.kubectl("rollout", "status", "deployment/shop", "-n", app.namespace, "--timeout=60s")
    finally:
        app.bed.kubectl("apply", "--server-side", "-k", str(stage.ROOT / "policies/admission"))
    eventually(lambda: app.events("Deployment").count("Unmanaged") == 3, within=QUICK)
    with urllib.request.urlopen(f"http://{app.bed.host}:{stage.LISTEN_PORT}/metrics", timeout=5) as answer:
        assert (
            f'serin_unmanaged_replica_sets{{namespace="{app.namespace}",workload="shop"}} 3.0' in answer.read().decode()
        )
    time.sleep(3)  # the policies act again


# --- How it starts, and who leads ---


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    base = {k: v for k, v in os.environ.items() if not k.startswith(("SERIN_", "KUBECONFIG"))}
    command = [sys.executable, "-m", "controller", "run"]
    return subprocess.run(command, env={**base, **environment}, capture_output=True, text=True, timeout=60, check=False)


def test_what_makes_it_unable_to_work_is_said_at_start(serin: Serin, tmp_path: Path) -> None:
    bed = serin.bed
    url = {"SERIN_PROMETHEUS_URL": bed.prometheus_url}
    cluster = {"KUBECONFIG": str(bed.kubeconfig())}
    host, port = bed.host, stage.LISTEN_PORT
    for environment, says in (
        (cluster, "SERIN_PROMETHEUS_URL is not set"),
        ({**url, "KUBECONFIG": str(tmp_path / "none")}, "NoCredentials"),
        ({**url, **cluster, "SERIN_WORKERS": "many"}, "SERIN_WORKERS is 'many'"),
        ({**url, **cluster, "SERIN_LISTEN": f"{host}:{port}"}, "CannotListen"),
    ):
        done = run(environment)
        assert done.returncode != 0
        assert says in done.stderr, (says, done.stderr[-600:])


@pytest.mark.alone
def test_of_two_controllers_one_acts_and_the_other_takes_over(app: Played) -> None:
    second = stage.controller(app.bed, "serin-2", port=stage.LISTEN_PORT + 1, **LEASE)
    second.start()
    try:
        with app.users(50) as users:
            change = app.start("v2", policy={"steps": [{"weight": w, "bake": "4s"} for w in (10, 50, 100)]})
            app.wait(change, "Progressing", reason="Baking", within=QUICK)
            eventually(lambda: gauge(app.bed, 1, "serin_leader") == 0, within=QUICK)
            app.serin.controller.pause()  # as a process that hangs, not as one that dies
            paused = time.monotonic()
            eventually(lambda: gauge(app.bed, 1, "serin_leader") == 1, within=timedelta(seconds=20))
            assert time.monotonic() - paused < 20
            app.serin.controller.resume()
            done = app.wait(change, "Completed", within=LONG)
            assert users.stop().failed == 0
        records = [(r["phase"], r.get("stage"), r["step"]) for r in done["history"]]
        assert len(records) == len(set(records)) == 8, "two leaders would have left two records of a transition"
    finally:
        second.stop()
        if not app.serin.controller.alive:  # one that lost its lease ends, to be started again
            app.serin.controller.start()


def gauge(bed: Bed, replica: int, name: str) -> float:
    try:
        with urllib.request.urlopen(f"http://{bed.host}:{stage.LISTEN_PORT + replica}/metrics", timeout=2) as response:
            lines = response.read().decode().splitlines()
    except OSError:
        return -1
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), -1)


def test_an_unlabelled_deployment_is_never_touched(app: Played) -> None:
    app.bed.kubectl("set", "image", "deployment/shop", "shop=shop:v2", "-n", app.namespace, user="alice")
    app.bed.kubectl("rollout", "status", "deployment/shop", "-n", app.namespace, "--timeout=60s")
    assert app.pods().keys() == app.pods("v2").keys()
    assert changes(app) == {}
    with pytest.raises(BedError, match=r"serin\.dev/run"):
        app.bed.kubectl("label", "service/shop", "serin.dev/run=x", "-n", app.namespace, user="alice")
