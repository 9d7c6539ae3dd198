"""Changes from `kubectl apply` to their end, as users and SREs see them: the good, the bad, and the way back."""

import json
import time
from datetime import timedelta
from typing import Any

import pytest

from testbed.errors import BedError
from testbed.waiting import eventually
from tests.e2e.conftest import Played

LONG = timedelta(seconds=90)
QUICK = timedelta(seconds=30)


def held(app: Played) -> str:
    return str((app.live()["metadata"].get("annotations") or {}).get("serin.dev/held", ""))


def image(app: Played) -> str:
    return str(app.live()["spec"]["template"]["spec"]["containers"][0]["image"])


def weights_of(status: dict[str, Any]) -> list[int]:
    return [record["weight"] for record in status["history"] if record["phase"] == "Progressing"]


def back_at_stable(app: Played, pods: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    """The pods are those from before, all of them; the route is the user's; nothing of ours is left."""
    assert app.pods().keys() == pods.keys()
    assert app.rules() == rules
    assert app.leftovers() == []
    live = app.live()
    assert (held(app), live["spec"]["paused"]) == ("rejected", True)
    assert live["status"]["readyReplicas"] == app.replicas


# --- The good ---


def test_a_healthy_change_completes_and_no_user_notices(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    with app.users(100) as users:
        change = app.start("v2")
        app.wait(change, "Progressing", reason="Baking", within=QUICK)
        assert stable.keys() <= app.pods().keys(), "stable pods are untouched until promotion"
        done = app.wait(change, "Completed", within=LONG)
        seen = users.stop()
    assert (seen.failed, set(seen.by_version)) == (0, {"v1", "v2"})
    assert weights_of(done) == [10, 50, 100]
    moves = [(r["phase"], r.get("stage"), r["step"]) for r in done["history"]]
    assert moves == [
        ("Progressing", None, 1),
        ("Progressing", None, 2),
        ("Progressing", None, 3),
        ("Promoting", "Roll", 3),
        ("Promoting", "Return", 3),
        ("Promoting", "Drain", 3),
        ("Promoting", "Clean", 3),
        ("Completed", None, 3),
    ]
    live = app.live()
    assert not live["spec"].get("paused")
    assert not {"serin.dev/held", "serin.dev/requested-by"} & set(live["metadata"].get("annotations") or {})
    assert live["status"]["updatedReplicas"] == live["status"]["readyReplicas"] == app.replicas
    assert app.rules() == before
    assert app.leftovers() == []
    assert app.pods().keys() == app.pods("v2").keys()
    record = app.read("apis/serin.dev/v1alpha1", "changerequests", change.lower())
    assert record is not None
    assert record["spec"]["requestedBy"] == "alice"
    for kind in ("ChangeRequest", "Deployment"):
        assert {"Started", "Advanced", "Promoting", "Completed"} <= set(app.events(kind))


def test_every_canary_pod_may_be_evicted(app: Played) -> None:
    change = app.start("v2", policy={"steps": steps(6, 6, 6)})
    evicted: set[str] = set()

    def completed() -> bool:
        status = app.status(change)
        if status.get("phase") == "Progressing" and status.get("reason") == "Baking":
            for uid, pod in app.pods("v2").items():
                if uid not in evicted and len(evicted) < 4:
                    evicted.add(uid)
                    evict(app, pod["metadata"]["name"])
        return status.get("phase") in ("Completed", "RollingBack", "RolledBack")

    eventually(completed, within=LONG)
    assert app.status(change)["phase"] == "Completed"
    assert len(evicted) >= 4


def steps(*bakes: float) -> list[dict[str, Any]]:
    return [{"weight": w, "bake": f"{b}s"} for w, b in zip((10, 50, 100), bakes, strict=True)]


def evict(app: Played, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": app.namespace}}
    path = f"/api/v1/namespaces/{app.namespace}/pods/{pod}/eviction"
    app.bed.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


@pytest.mark.parametrize("rps", [0, 0.1, 1])
def test_few_requests_are_no_reason_to_go_back(app: Played, rps: float) -> None:
    wanted = {"minRequests": 75, "steps": steps(4, 4, 4)}
    if rps:
        with app.users(rps):
            done = app.wait(app.start("v2", policy=wanted), "Completed", within=LONG)
    else:
        done = app.wait(app.start("v2", policy=wanted), "Completed", within=LONG)
    assert done["lowEvidence"] is True
    app.told("ChangeRequest", "LowTraffic")


def test_few_requests_hold_when_the_policy_says_so(app: Played) -> None:
    change = app.start("v2", policy={"minRequests": 75, "lowTraffic": "hold", "steps": steps(1, 1, 1)})
    app.wait(change, "Progressing", reason="LowTraffic", within=QUICK)
    time.sleep(6)
    status = app.status(change)
    assert (status["phase"], status["weight"], status["reason"]) == ("Progressing", 10, "LowTraffic")


# --- The bad ---


def test_a_fifth_of_the_requests_failing_is_taken_back(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    with app.users(100) as users:
        change = app.start("v2", ERROR_RATIO="0.2")
        done = app.wait(change, "RolledBack", within=LONG)
        seen = users.stop()
    back_at_stable(app, stable, before)
    assert (done["cause"], done["rejected"], weights_of(done)) == ("ErrorRate", True, [10])
    failed = next(e for e in done["evidence"] if e["verdict"] == "FAIL")
    assert (failed["rule"], failed["threshold"], failed["target"]) == ("error-rate", "1%", "shop")
    assert failed["requests"] >= 8
    assert failed["bad"] >= 1
    assert "shop fails" in failed["message"]
    assert seen.failed_by_version.keys() == {"v2"}
    assert seen.failed_by_version["v2"] == pytest.approx(seen.by_version["v2"] / 5, abs=2)
    first = next(w for w in app.serin.lines(app.namespace, "write") if "seconds_after_verdict" in w)
    assert (first["kind"], first["seconds_after_verdict"] < 1) == ("Shift", True)
    app.told("Deployment", "ErrorRate")
    # The same template again, under another ID: held. With the annotation that says so knowingly: it runs.
    again = app.serin.change_id()
    with app.serin.policy({}):
        app.change("v2", again, ERROR_RATIO="0.2")
        waiting = app.wait(again, "Waiting", reason="RejectedRevision", within=QUICK)
    assert change in waiting["message"]
    assert app.pods().keys() == stable.keys()
    app.bed.kubectl("annotate", "deployment/shop", "-n", app.namespace, f"serin.dev/retry={change}", user="alice")
    app.wait(again, "Progressing", within=QUICK)


def test_slow_answers_violate_the_slo(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    with app.users(50):
        done = app.wait(app.start("v2", LATENCY="1300ms"), "RolledBack", within=LONG)
    back_at_stable(app, stable, before)
    assert done["cause"] == "SLOBurn"
    assert "slower than 1s" in next(e for e in done["evidence"] if e["verdict"] == "FAIL")["message"]


@pytest.mark.parametrize(
    ("fault", "causes"),
    [
        ({"CRASH_AT_START": "1"}, {"CrashLoop", "Restarts"}),
        ({"image": "missing"}, {"ImagePull"}),
        ({"NEVER_READY": "1"}, {"ProgressDeadline"}),
    ],
    ids=["crashes at start", "image is missing", "never ready"],
)
def test_what_cannot_run_never_gets_traffic(app: Played, fault: dict[str, str], causes: set[str]) -> None:
    before, stable = app.rules(), app.pods()
    health = {"restartsMax": 1, "notReadyMax": "5s", "progressDeadline": "8s"}
    with app.users(50) as users:
        version = fault.pop("image", "v2")
        change = app.start(version, policy={"health": health}, **fault)
        done = app.wait(change, "RolledBack", within=LONG)
        seen = users.stop()
    back_at_stable(app, stable, before)
    assert done["cause"] in causes
    assert (seen.failed, set(seen.by_version)) == (0, {"v1"})


def test_what_gets_ready_and_crashes_again_and_again_is_taken_back(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    done = app.wait(app.start("v2", CRASH_AFTER="3s"), "RolledBack", within=LONG)
    back_at_stable(app, stable, before)
    assert done["cause"] in ("CrashLoop", "Restarts")


def test_memory_that_ran_out_is_a_failing_health_check(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    change = app.serin.change_id()
    manifest = app.deployment("v2", change, kind="standard")
    manifest["spec"]["template"]["metadata"]["annotations"] = {"testbed.serin.dev/oom-after": "2s"}
    with app.serin.policy({}):
        app.apply(manifest, user="alice")
        app.started(change)
    done = app.wait(change, "RolledBack", within=LONG)
    back_at_stable(app, stable, before)
    assert done["cause"] == "OOMKilled"


def test_a_p0_incident_of_the_namespace_takes_the_change_back(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    labels = {"severity": "P0", "namespace": app.namespace}
    other = {"severity": "P0", "namespace": "elsewhere"}
    try:
        app.bed.rules(f"{app.namespace}-before", {"alert": "OldTrouble", "expr": "vector(1)", "labels": labels})
        eventually(lambda: app.bed.query(f'ALERTS{{alertname="OldTrouble",namespace="{app.namespace}"}}'), within=QUICK)
        change = app.start("v2", policy={"steps": steps(25, 25, 25), "minRequests": 0})
        app.bed.rules(f"{app.namespace}-other", {"alert": "Elsewhere", "expr": "vector(1)", "labels": other})
        app.wait(change, "Progressing", reason="Baking", within=QUICK)
        time.sleep(6)
        assert app.status(change)["phase"] == "Progressing", "began before, or is about another namespace"
        app.bed.rules(f"{app.namespace}-now", {"alert": "CheckoutDown", "expr": "vector(1)", "labels": labels})
        done = app.wait(change, "RolledBack", within=LONG)
    finally:
        for name in ("before", "other", "now"):
            app.bed.rules(f"{app.namespace}-{name}")
    back_at_stable(app, stable, before)
    assert done["cause"] == "P0Incident"
    assert any("CheckoutDown" in record["message"] for record in done["history"])


# --- The way back in mid-promotion ---

HALF_WAY = {"minReadySeconds": 5}
ALL_AT_ONCE = {"strategy": {"rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}}}


@pytest.mark.parametrize(
    ("shape", "environment", "stage"),
    [(HALF_WAY, {}, "returning"), (ALL_AT_ONCE, {"START_DELAY": "6s"}, "restoring")],
    ids=["stable still has pods", "stable has none left"],
)
def test_a_roll_is_stopped_and_undone_without_a_failed_request(
    app: Played, shape: dict[str, Any], environment: dict[str, Any], stage: str
) -> None:
    change = app.serin.change_id()
    manifest = app.deployment("v2", change, kind="standard", **environment)
    manifest["spec"].update(shape)
    rule = f"{app.namespace}-now"
    with app.users(100) as users:
        with app.serin.policy({}):
            app.apply(manifest, user="alice")
            app.started(change)
        try:
            app.wait(change, "Promoting", within=LONG)
            labels = {"severity": "P0", "namespace": app.namespace}
            app.bed.rules(rule, {"alert": "CheckoutDown", "expr": "vector(1)", "labels": labels})
            eventually(lambda: held(app) == stage, within=QUICK)
            done = app.wait(change, "RolledBack", within=LONG)
        finally:
            app.bed.rules(rule)
        seen = users.stop()
    assert [r.get("stage") for r in done["history"] if r["phase"] == "RollingBack"] == [
        "Recover",
        "Return",
        "Drain",
        "Clean",
    ]
    assert seen.failed == 0
    assert app.pods().keys() == app.pods("v1").keys()
    assert app.live()["status"]["readyReplicas"] == app.replicas
    assert app.leftovers() == []
    assert {ref["name"] for rule in app.rules() for ref in rule["backendRefs"]} == {"shop"}
    own = [rs for rs in app.items("apis/apps/v1", "replicasets") if rs["metadata"]["name"].startswith("shop-")]
    assert sum(rs["spec"]["replicas"] for rs in own) == app.replicas


def test_restore_puts_the_stable_template_back_and_the_next_apply_is_an_ordinary_one(app: Played) -> None:
    stable = app.pods()
    manifest = app.deployment("v2", app.serin.change_id(), kind="standard", CRASH_AT_START="1")
    manifest["spec"]["template"]["spec"]["priorityClassName"] = ""
    manifest["spec"]["template"]["spec"]["hostname"] = "only-in-v2"
    change = manifest["metadata"]["labels"]["serin.dev/change"]
    with app.serin.policy({"onRollback": "restore"}):
        app.apply(manifest, user="alice")
        app.started(change)
    done = app.wait(change, "RolledBack", within=LONG)
    assert done["cause"] in ("CrashLoop", "Restarts")
    live = app.live()
    assert (image(app), held(app), bool(live["spec"].get("paused"))) == ("shop:v1", "", False)
    assert app.pods().keys() == stable.keys()
    assert "hostname" not in live["spec"]["template"]["spec"]
    owners = [
        e["manager"] for e in live["metadata"]["managedFields"] if "f:template" in e["fieldsV1"].get("f:spec", {})
    ]
    assert "serin" not in owners
    # What v2 brought and v3 does not have stays away; v3 conflicts with nobody.
    app.start("v3")
    assert image(app) == "shop:v3"
    assert "hostname" not in app.live()["spec"]["template"]["spec"]


# --- Another template, another wish ---


def test_a_new_template_is_refused_while_a_change_runs_but_for_an_emergency(app: Played) -> None:
    change = app.start("v2", policy={"steps": steps(20, 20, 20)})
    eventually(lambda: held(app) == "running", within=QUICK)
    with pytest.raises(BedError, match=rf"{change} is running on this Deployment"):
        app.change("v3", app.serin.change_id())
    assert image(app) == "shop:v2"
    emergency = app.serin.change_id()
    with app.serin.policy({"minRequests": 0}, "emergency"):
        app.change("v4", emergency, kind="emergency", user="admin")
        ended = app.wait(change, "Superseded", within=LONG)
        assert ended["cause"] == "Superseded"
        started = app.wait(emergency, "Progressing", within=QUICK)
    assert started["targets"][0]["name"] == "shop"
    app.wait(emergency, "Completed", within=LONG)
    assert app.leftovers() == []
    assert app.pods().keys() == app.pods("v4").keys()


def test_before_it_starts_a_newer_template_supersedes_and_the_old_one_releases(app: Played) -> None:
    stable = app.pods()
    first, second = app.serin.change_id(), app.serin.change_id()
    app.change("v2", first, kind="normal")
    app.wait(first, "Waiting", reason="AwaitingApproval", within=QUICK)
    app.change("v3", second, kind="normal")
    assert app.wait(first, "Superseded", within=QUICK)["cause"] == "Superseded"
    app.wait(second, "Waiting", reason="AwaitingApproval", within=QUICK)
    app.change("v1", app.serin.change_id(), kind="normal")
    assert app.wait(second, "Superseded", within=QUICK)["cause"] in ("Reverted", "Superseded")
    eventually(lambda: held(app) == "" and not app.live()["spec"].get("paused"), within=QUICK)
    assert app.pods().keys() == stable.keys()


def test_an_amendment_before_the_start_stays_the_same_change(app: Played) -> None:
    change = app.serin.change_id()
    app.change("v2", change, kind="normal")
    before = app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)
    with app.serin.policy({}):
        app.change("v3", change, kind="standard")
        started = app.wait(change, "Progressing", within=QUICK)
    assert started["targets"][0]["revision"] != before["targets"][0]["revision"]
    eventually(lambda: app.pods("v3"), within=QUICK)
    assert app.pods("v2") == {}


def test_deleting_the_request_of_a_running_change_ends_it_in_order(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    with app.users(100) as users:
        change = app.start("v2", policy={"steps": steps(20, 20, 20)})
        app.wait(change, "Progressing", reason="Baking", within=QUICK)
        app.bed.kubectl("delete", "chg", change.lower(), "-n", app.namespace, "--timeout=60s")
        seen = users.stop()
    assert seen.failed == 0
    back_at_stable(app, stable, before)
    time.sleep(2)
    assert app.status(change) == {}, "it is not recorded anew"


def test_deleting_the_deployment_of_a_running_change_leaves_nothing_of_ours(app: Played) -> None:
    before = app.rules()
    change = app.start("v2", policy={"steps": steps(20, 20, 20)})
    app.wait(change, "Progressing", reason="Baking", within=QUICK)
    app.bed.kubectl("delete", "deployment", "shop", "-n", app.namespace)
    assert app.wait(change, "Superseded", within=QUICK)["cause"] == "DeploymentDeleted"
    assert app.rules() == before
    assert app.leftovers() == []


@pytest.mark.parametrize(("environment", "good"), [({}, True), ({"CRASH_AT_START": "1"}, False)], ids=["good", "bad"])
def test_the_first_deployment_of_a_name_runs_at_once(app: Played, environment: dict[str, str], good: bool) -> None:
    app.bed.kubectl("delete", "deployment", "shop", "-n", app.namespace)
    eventually(lambda: not app.pods(), within=QUICK)
    change = app.serin.change_id()
    app.change("v1", change, kind="normal", **environment)
    if good:
        done = app.wait(change, "Completed", within=LONG)
        assert "first deployment" in done["targets"][0]["strategyReason"]
        return
    eventually(lambda: app.status(change).get("reason") in ("CrashLoop", "Restarts"), QUICK)
    failing = app.status(change)
    assert "no stable revision to go back to" in failing["message"]
    fixed = app.serin.change_id()
    app.change("v2", fixed, kind="standard")
    app.wait(change, "Superseded", within=QUICK)


# --- The controller and Prometheus away ---


@pytest.mark.alone
def test_prometheus_away_holds_a_healthy_change_and_no_more(app: Played) -> None:
    prometheus = app.bed.process("prometheus")
    with app.users(100) as users:
        change = app.start("v2", policy={"steps": steps(4, 4, 4), "metrics": {"preset": "envoy", "staleAfter": "5s"}})
        app.wait(change, "Progressing", reason="Baking", within=QUICK)
        prometheus.pause()
        try:
            holding = app.wait(change, "Progressing", reason="NoData", within=QUICK)
            time.sleep(10)
            after = app.status(change)
        finally:
            prometheus.resume()
        assert (after["phase"], after["step"], after["reason"]) == ("Progressing", holding["step"], "NoData")
        app.wait(change, "Completed", within=LONG)
        assert users.stop().failed == 0
    app.told("ChangeRequest", "NoData")


@pytest.mark.alone
def test_no_data_for_too_long_goes_back_without_a_judgement_and_health_needs_none(app: Played) -> None:
    before, stable = app.rules(), app.pods()
    prometheus = app.bed.process("prometheus")
    blind = {"metrics": {"preset": "envoy", "staleAfter": "5s"}, "noDataDeadline": "8s"}
    change = app.start("v2", policy=blind | {"steps": steps(20, 20, 20)})
    app.wait(change, "Progressing", reason="Baking", within=QUICK)
    prometheus.kill()
    try:
        done = app.wait(change, "RolledBack", within=LONG)
    finally:
        prometheus.start()
    assert (done["cause"], done["rejected"]) == ("Inconclusive", False)
    back_at_stable(app, stable, before)


@pytest.mark.alone
def test_the_controller_may_die_at_any_step(app: Played) -> None:
    with app.users(100) as users:
        change = app.start("v2", policy={"steps": steps(2, 2, 2)})
        for moment in (1, 2, 3, "Promoting"):
            eventually(lambda wanted=moment: wanted in at(app, change), within=LONG)  # type: ignore[misc]
            app.serin.controller.kill()
            app.serin.controller.start()
        done = app.wait(change, "Completed", within=LONG)
        assert users.stop().failed == 0
    records = [(r["phase"], r.get("stage"), r["step"]) for r in done["history"]]
    assert len(records) == len(set(records)) == 8


def at(app: Played, change: str) -> tuple[object, object]:
    status = app.status(change)
    return status.get("step"), status.get("phase")


@pytest.mark.alone
def test_a_breach_goes_on_over_a_restart_of_the_controller(app: Played) -> None:
    sustained = {"errorRate": {"max": "1%", "window": "10s", "sustained": "20s"}, "slos": []}
    with app.users(100):
        change = app.start("v2", policy=sustained | {"steps": steps(60, 60, 60)}, ERROR_RATIO="0.2")
        app.wait(change, "Progressing", reason="OverLimit", within=QUICK)
        time.sleep(10)
        began = time.monotonic()
        app.serin.controller.kill()
        app.serin.controller.start()
        app.wait(change, "RollingBack", "RolledBack", within=LONG)
    assert time.monotonic() - began < 18, "the clock of the data went on: half of the twenty seconds had passed"
