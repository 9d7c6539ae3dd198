"""What stands around a Deployment: an autoscaler, network policies, disruption budgets, and names that are taken."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from typing import Any

from testbed.control_plane import Manifest
from testbed.waiting import eventually
from tests.e2e.conftest import Played

SCALERS = "apis/autoscaling/v2"


def autoscaler(app: Played, *, least: int, most: int) -> Manifest:
    """As people write it; nobody serves metrics here, so it keeps to its bounds and does no more."""
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "shop-scaler", "namespace": app.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": app.name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [metric],
        },
    }


def floor(app: Played) -> int:
    found = app.read(SCALERS, "horizontalpodautoscalers", "shop-scaler")
    assert found is not None
    return int(found["spec"]["minReplicas"])


class Watch:
    """Samples of (canary weight, ready stable pods of v1, ready pods of v2) taken as fast as the API server answers."""

    def __init__(self, app: Played) -> None:
        self.app = app
        self.samples: list[tuple[int, int, int, str]] = []
        self.trouble: Exception | None = None
        self._stop = threading.Event()

    def run(self) -> None:
        try:
            while not self._stop.is_set():
                self.samples.append(self.look())
        except Exception as error:
            self.trouble = error

    def look(self) -> tuple[int, int, int, str]:
        weight = int(self.app.weights().get("shop-canary", 0))
        ready = [pod for pod in self.app.pods().values() if is_ready(pod)]
        versions = [pod["spec"]["containers"][0]["image"].partition(":")[2] for pod in ready]
        status = (self.app.items("apis/serin.dev/v1alpha1", "changerequests") or [{}])[-1].get("status", {})
        phase = str(status.get("phase"))
        # In its last stage the floor is given back before the change has ended: the autoscaler may go below it then.
        return weight, versions.count("v1"), versions.count("v2"), "" if status.get("stage") == "Clean" else phase

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            if self.trouble:
                raise self.trouble


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def scale(app: Played, replicas: int) -> None:
    app.bed.kubectl("scale", f"deployment/{app.name}", f"--replicas={replicas}", "-n", app.namespace, user="alice")


def test_stable_keeps_its_size_while_the_canary_has_weight_though_the_load_is_gone(app: Played) -> None:
    app.apply(autoscaler(app, least=2, most=10))
    watch = Watch(app)
    with app.users(rps=20), watch.watching():
        change = app.start("v2")
        eventually(lambda: floor(app) == 4)

        def wants_fewer() -> bool:
            """What an autoscaler does that sees no load: down to its minReplicas, at every look."""
            status = app.status(change)
            if status["phase"] != "Progressing" or status.get("weight"):
                least = floor(app)
                if app.live()["spec"]["replicas"] > least:
                    scale(app, least)
            time.sleep(0.2)
            return bool(status["phase"] in ("Completed", "RolledBack"))

        eventually(wants_fewer, within=timedelta(seconds=90))
        app.wait(change, "Completed")
    assert floor(app) == 2
    before_promotion = [s for s in watch.samples if s[3] == "Progressing"]
    assert min(stable for _, stable, _, _ in before_promotion) == 4
    assert {weight for weight, *_ in before_promotion} >= {10, 50, 100}
    for weight, _, new, phase in before_promotion:
        assert new >= ceil(4 * weight / 100), (weight, new, phase)
    promoting = [s for s in watch.samples if s[3] == "Promoting"]
    assert all(stable + new >= 4 for _, stable, new, _ in promoting)
    assert all(new >= 3 for weight, _, new, _ in promoting if weight == 0)


def test_scaling_up_in_mid_run_grows_the_canary_and_the_floor(app: Played) -> None:
    app.apply(autoscaler(app, least=2, most=10))
    with app.users(rps=20):
        change = app.start("v2", policy={"steps": [{"weight": 50, "bake": "8s"}, {"weight": 100, "bake": "2s"}]})
        eventually(lambda: canary_size(app) == 2)
        scale(app, 6)
        eventually(lambda: canary_size(app) == 3)
        eventually(lambda: floor(app) == 6)
        assert app.wait(change, "Completed")["targets"][0]["replicas"] == 6
    assert floor(app) == 2
    assert app.live()["spec"]["replicas"] == 6


def canary_size(app: Played) -> int:
    found = app.read("apis/apps/v1", "deployments", "shop-canary")
    return int(found["spec"]["replicas"]) if found else 0


def test_policies_that_would_miss_the_canary_are_copied_and_go_with_it(app: Played) -> None:
    mine = {"matchLabels": {"app": "shop"}}
    allow = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "allow", "namespace": app.namespace},
        "spec": {"podSelector": mine, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": mine}]}]},
    }
    foreign = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "foreign", "namespace": app.namespace},
        "spec": {"podSelector": {"matchLabels": {"app": "other"}}, "policyTypes": ["Ingress"]},
    }
    everyone = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "everyone", "namespace": app.namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
    }
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "budget", "namespace": app.namespace},
        "spec": {"minAvailable": "50%", "selector": mine},
    }
    app.apply(allow, foreign, everyone, budget)
    with app.users(rps=20):
        change = app.start("v2")
        eventually(lambda: app.weights().get("shop-canary"))
        (canary, *_) = (p["metadata"]["labels"] for p in app.pods("v2").values())
        policies = {p["metadata"]["name"]: p["spec"] for p in app.items("apis/networking.k8s.io/v1", "networkpolicies")}
        assert set(policies) == {"allow", "foreign", "everyone", "shop-allow-canary"}
        copied = policies["shop-allow-canary"]
        assert selects(copied["podSelector"], canary)
        peers = [peer["podSelector"] for peer in copied["ingress"][0]["from"]]
        assert any(selects(peer, canary) for peer in peers)
        assert any(selects(peer, {"app": "shop"}) for peer in peers)
        budgets = {b["metadata"]["name"]: b["spec"] for b in app.items("apis/policy/v1", "poddisruptionbudgets")}
        assert set(budgets) == {"budget", "shop-budget-canary"}
        assert selects(budgets["shop-budget-canary"]["selector"], canary)
        assert budgets["shop-budget-canary"]["maxUnavailable"] == 1
        app.wait(change, "Completed")
    assert app.leftovers() == []
    assert {p["metadata"]["name"] for p in app.items("apis/networking.k8s.io/v1", "networkpolicies")} == {
        "allow",
        "foreign",
        "everyone",
    }


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def test_a_foreign_service_with_the_canarys_name_holds_the_change_until_it_is_gone(app: Played) -> None:
    taken = app.surroundings()[0]
    taken["metadata"]["name"] = "shop-canary"
    taken["spec"]["selector"] = {"app": "someone-else"}
    app.apply(taken)
    uid = (app.read("api/v1", "services", "shop-canary") or {})["metadata"]["uid"]
    change = app.serin.change_id()
    with app.serin.policy({}):
        app.change("v2", change)
        status = app.wait(change, "Waiting", reason="NameTaken")
    assert "Service shop-canary" in status["message"]
    app.told("ChangeRequest", "NameTaken")
    app.told("Deployment", "NameTaken")
    time.sleep(2)
    assert app.status(change)["reason"] == "NameTaken"  # it does not flicker
    assert app.weights() == {"shop": 1}
    assert app.pods("v2") == {}
    found = app.read("api/v1", "services", "shop-canary") or {}
    assert (found["metadata"]["uid"], found["spec"]["selector"]) == (uid, {"app": "someone-else"})
    with app.users(rps=20):
        with app.serin.policy({}):
            app.bed.kubectl("delete", "service", "shop-canary", "-n", app.namespace)
            app.started(change)
        app.wait(change, "Completed")


def test_a_foreign_network_policy_with_the_copys_name_is_left_alone(app: Played) -> None:
    """The collision shows only when the copy is made: the canary has no traffic yet, and gets none."""
    mine = {"matchLabels": {"app": "shop"}}
    for name, labels in (("allow", mine), ("shop-allow-canary", {"matchLabels": {"app": "other"}})):
        app.apply(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": app.namespace},
                "spec": {"podSelector": labels, "policyTypes": ["Ingress"], "ingress": [{}]},
            }
        )
    change = app.start("v2")
    status = app.wait(change, "Progressing", reason="NameTaken")
    assert "NetworkPolicy shop-allow-canary" in status["message"]
    seen = set()
    for _ in range(30):
        seen.add(app.status(change)["reason"])
        time.sleep(0.1)
    assert seen == {"NameTaken"}
    assert len([r for r in app.events("ChangeRequest") if r == "NameTaken"]) == 1
    assert app.weights() == {"shop": 1}
    app.bed.kubectl("delete", "networkpolicy", "shop-allow-canary", "-n", app.namespace)
    with app.users(rps=20):
        app.wait(change, "Completed")
    assert json.dumps(app.items("apis/networking.k8s.io/v1", "networkpolicies")).count("canary") == 0
