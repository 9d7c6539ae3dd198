"""The controller, with the rights that ship and no others, does its part; and Kubernetes' own controllers do theirs."""

import pytest

from testbed.bed import Bed
from tests.admission.cluster import (
    BY,
    HELD,
    ID,
    RUN,
    SERIN,
    Scene,
    change_request,
    image_of,
    new_image,
    template,
    wait_for,
)

RELEASE = {"metadata": {"annotations": {HELD: "promoting"}}, "spec": {"paused": False}}
FINISH = {"metadata": {"annotations": {HELD: None, BY: None}}}
CANARY_OBJECTS = ("deployments", "services", "networkpolicies", "poddisruptionbudgets")


def test_it_promotes_and_finishes(cluster: Bed) -> None:
    scene = Scene(cluster).held()
    assert scene.serin.patch("deployments", "shop", RELEASE).ok
    assert scene.replica_set("shop:2")
    assert scene.serin.patch("deployments", "shop", FINISH).ok
    assert not {HELD, BY} & scene.annotations().keys()
    assert scene.attacker.patch("deployments", "shop", new_image("shop:3"), "strategic-merge-patch").ok
    assert scene.annotations()[BY] == "alice"


def test_it_stops_a_promotion_and_deletes_the_rejected_replica_set(cluster: Bed) -> None:
    scene = Scene(cluster).locked()
    rejected = scene.replica_set("shop:2")
    hold = {"metadata": {"annotations": {HELD: "true"}}, "spec": {"paused": True}}
    assert scene.serin.patch("deployments", "shop", hold).ok
    scene.settle()
    assert scene.serin.delete("replicasets", rejected).ok
    wait_for("the rejected ReplicaSet to go", lambda: rejected not in _names(scene, "replicasets"))
    assert scene.annotations()[BY] == "bob"


def test_it_restores_the_stable_template(cluster: Bed) -> None:
    scene = Scene(cluster).locked()
    scene.replica_set("shop:2")
    restore = {"metadata": {"annotations": {HELD: "restoring"}}, **new_image("shop:1")}
    assert scene.serin.patch("deployments", "shop", restore, "strategic-merge-patch").ok
    assert scene.annotations()[HELD] == "restoring"


def test_a_canary_gets_its_pods_and_goes_with_its_owner(cluster: Bed) -> None:
    scene = Scene(cluster).held()
    owners = f"api/v1/namespaces/{scene.namespace}/configmaps"  # a ChangeRequest is known to the collector after 30 s
    owner = scene.admin.request("POST", owners, {"metadata": {"name": "owner"}}).body["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"], "controller": True}
    scene.canary(reference)
    pod = wait_for("the canary's pod", lambda: [p for p in scene.admin.items("pods") if image_of(p) == "shop:2"])[0]
    assert pod["metadata"]["labels"][RUN] == ID
    evict = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
    path = f"api/v1/namespaces/{scene.namespace}/pods/{pod['metadata']['name']}/eviction"
    assert scene.admin.request("POST", path, evict).ok
    assert scene.admin.request("DELETE", f"{owners}/owner").ok
    gone = lambda: not any("shop-canary" in _names(scene, each) for each in CANARY_OBJECTS)  # noqa: E731
    wait_for("the canary to be collected", gone)


def test_an_enforced_namespace_with_a_held_deployment_and_a_canary_can_be_deleted(cluster: Bed) -> None:
    scene = Scene(cluster).held(replicas=0).canary().enforce()
    assert scene.serin.patch("deployments", "shop-canary", {"spec": {"replicas": 0}}).ok
    path = f"api/v1/namespaces/{scene.namespace}"
    pods = lambda: all("deletionTimestamp" in p["metadata"] for p in scene.admin.items("pods"))  # noqa: E731
    wait_for("the canary's pods to be ending", pods)
    for each in scene.admin.items("pods"):  # there is no kubelet to end them
        scene.admin.request("DELETE", f"{path}/pods/{each['metadata']['name']}", {"gracePeriodSeconds": 0})
    assert scene.admin.request("DELETE", path).ok
    wait_for("the namespace to go", lambda: scene.admin.request("GET", path).code == 404)


def test_the_requester_is_stamped(cluster: Bed) -> None:
    scene = Scene(cluster)
    made = scene.attacker.create("changerequests", change_request(requestedBy="bob"))
    assert made.body["spec"]["requestedBy"] == "alice"
    amended = scene.attacker.patch("changerequests", "chg-20261123-001", {"spec": {"type": "standard"}})
    assert amended.ok, amended


def test_the_controller_names_the_requester_and_writes_the_status(cluster: Bed) -> None:
    scene = Scene(cluster)
    made = scene.serin.create("changerequests", change_request(requestedBy="bob"))
    assert made.body["spec"]["requestedBy"] == "bob"
    status = {"status": {"phase": "Waiting", "reason": "AwaitingApproval"}}
    assert scene.serin.patch("changerequests", "chg-20261123-001", status, sub="status").ok


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("create", "changedecisions.serin.dev"),
        ("update", "deployments.apps/status"),
        ("patch", "replicasets.apps"),
        ("create", "pods"),
        ("patch", "validatingadmissionpolicies.admissionregistration.k8s.io"),
        ("unmanage", "changetypes.serin.dev"),
        ("impersonate", "users"),
    ],
)
def test_the_controller_may_not(cluster: Bed, verb: str, resource: str) -> None:
    answer = cluster.kubectl_result("auth", "can-i", verb, resource, "-A", f"--as={SERIN}")
    assert answer.stdout.strip() == "no", answer


def _names(scene: Scene, resource: str) -> list[str]:
    return [each["metadata"]["name"] for each in scene.admin.items(resource)]


def test_a_template_of_a_pod_with_the_label_of_the_canary_is_not_the_canary(cluster: Bed) -> None:
    """docs/limits: pods get the label by way of a template; the controller knows its canary by owner, not by label."""
    scene = Scene(cluster)
    labels = {"app": "mine", RUN: ID}
    body = {
        "metadata": {"name": "mine"},
        "spec": {"selector": {"matchLabels": labels}, "template": template("mine:1", labels)},
    }
    assert scene.attacker.create("deployments", body).ok
