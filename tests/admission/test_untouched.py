"""A Deployment without the label is nobody's business: nothing is refused or changed, also beside a managed one."""

import pytest

from testbed.bed import Bed
from tests.admission.cluster import (
    BY,
    HELD,
    LABEL,
    ROLLBACK_TO,
    Object,
    Scene,
    annotate,
    deployment,
    image_of,
    new_image,
    template,
    wait_for,
)


def beside_a_managed_one(cluster: Bed) -> Scene:
    """`shop-x` has no label; `shop`, whose name begins like its own, is held."""
    scene = Scene(cluster).held()
    other = deployment("x:1")
    other["metadata"]["name"] = "shop-x"
    other["spec"] |= {"selector": {"matchLabels": {"app": "x"}}, "template": template("x:1", {"app": "x"})}
    made = scene.attacker.create("deployments", other)
    assert made.ok, made
    assert made.body["metadata"].get("annotations", {}) == {}
    assert "paused" not in made.body["spec"]
    return scene


EDITS: dict[str, Object] = {
    "template": new_image("x:2"),
    "pause": {"spec": {"paused": True}},
    "marks": {"metadata": {"annotations": {HELD: "true", BY: "bob"}}},
    "type": annotate(type="emergency"),
    "rollback": {"metadata": {"annotations": {ROLLBACK_TO: "1"}}},
    "scale": {"spec": {"replicas": 4}},
}


@pytest.mark.parametrize("edit", EDITS)
def test_any_write_passes_as_it_is(cluster: Bed, edit: str) -> None:
    scene = beside_a_managed_one(cluster)
    body = EDITS[edit]
    if "template" in body.get("spec", {}):
        body = {"spec": {"template": {"spec": {"containers": [{"name": "shop", "image": "x:2"}]}}}}
    answer = scene.attacker.patch("deployments", "shop-x", body, "strategic-merge-patch")
    assert answer.ok, answer
    assert answer.body["spec"].get("paused") == body.get("spec", {}).get("paused")
    asked = body.get("metadata", {}).get("annotations", {})
    assert answer.body["metadata"].get("annotations", {}).items() >= asked.items()
    assert asked or HELD not in answer.body["metadata"].get("annotations", {})


def test_its_replica_sets_and_pods_are_edited_in_place(cluster: Bed) -> None:
    scene = beside_a_managed_one(cluster)
    replica_set = scene.replica_set("x:1")
    find = lambda: [p for p in scene.admin.items("pods") if image_of(p) == "x:1"]  # noqa: E731
    pod = wait_for("a pod of shop-x", find)[0]["metadata"]["name"]
    edits = [
        scene.attacker.patch("pods", pod, new_image("x:2")["spec"]["template"], "strategic-merge-patch"),
        scene.attacker.patch("replicasets", replica_set, {"spec": {"replicas": 2}}, sub="scale"),
        scene.attacker.patch("replicasets", replica_set, {"spec": {"replicas": 0}}),
        scene.attacker.patch("replicasets", replica_set, new_image("x:2"), "strategic-merge-patch"),
        scene.attacker.delete("replicasets", replica_set),
        scene.attacker.delete("deployments", "shop-x"),
    ]
    assert all(answer.ok for answer in edits), edits


def test_a_replica_set_of_ones_own_is_free(cluster: Bed) -> None:
    scene = Scene(cluster).held()
    labels = {"app": "mine"}
    mine = {
        "metadata": {"generateName": "mine-", "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template("mine:1", labels)},
    }
    made = scene.attacker.create("replicasets", mine)
    assert made.ok, made
    assert scene.attacker.patch(
        "replicasets", made.body["metadata"]["name"], new_image("mine:2"), "strategic-merge-patch"
    ).ok


def test_in_a_namespace_without_any_managed_one_all_is_free(cluster: Bed) -> None:
    scene = Scene(cluster).unlabelled()
    replica_set = scene.replica_set()
    assert scene.attacker.patch("replicasets", replica_set, new_image(), "strategic-merge-patch").ok
    assert scene.attacker.patch("deployments", "shop", {"spec": {"replicas": 2}}, sub="scale").ok
    assert scene.attacker.delete("deployments", "shop").ok


@pytest.mark.parametrize("namespace", ["kube-system", "serin-system"])
def test_the_namespaces_of_the_cluster_and_of_serin_are_left_alone(cluster: Bed, namespace: str) -> None:
    scene = Scene(cluster)
    scene.attacker.namespace = namespace
    made = scene.attacker.create("deployments", deployment(labels={LABEL: "auto"}), "?dryRun=All")
    assert made.ok, made
    assert "paused" not in made.body["spec"]


def test_a_labelled_deployment_in_an_enforced_namespace_is_free_to_go_between_changes(cluster: Bed) -> None:
    scene = Scene(cluster).running().enforce()
    assert scene.attacker.delete("deployments", "shop").ok
