"""With the controller stopped, no pod of a new template ever exists, whatever is tried."""

import json
from collections.abc import Iterator

import pytest

from testbed.bed import Bed
from tests.admission.attacks import CHILDREN, GUARD, idle_replica_set_of_held_template
from tests.admission.cluster import (
    ID,
    LABEL,
    Object,
    Scene,
    User,
    annotate,
    deployment,
    image_of,
    label,
    new_image,
    wait_for,
)
from tests.admission.test_controls import NO_HOLD_NOR_GUARD, WITHOUT, control, controls

__all__ = ["controls"]
STRATEGIC = "strategic-merge-patch"


def images_that_ever_ran(scene: Scene) -> set[str]:
    """Images of every pod that the namespace has ever had, those deleted since included."""
    return {image_of(event["object"]) for event in _pod_events(scene.admin)}


def _pod_events(admin: User) -> Iterator[Object]:
    path = f"api/v1/namespaces/{admin.namespace}/pods?watch=1&timeoutSeconds=1&resourceVersion={_made_at(admin)}"
    for line in admin.lines(path):
        event: Object = json.loads(line)
        assert event["type"] != "ERROR", event
        yield event


def _made_at(admin: User) -> str:
    """A resource version older than every pod: nothing writes to a namespace between its creation and its end."""
    return str(admin.request("GET", f"api/v1/namespaces/{admin.namespace}").body["metadata"]["resourceVersion"])


def try_everything(scene: Scene) -> int:
    """Each attack, one after another on the same Deployment; the answer is how many writes were let through."""
    passed = 0
    for attack in (*GUARD, *CHILDREN):
        if attack.name != "held template started from zero" and scene.attacker_name in attack.by:
            passed += attack.act(scene).ok
    return passed


def scale_to_zero_and_up(scene: Scene) -> None:
    for replicas in (0, 2):
        assert scene.attacker.patch("deployments", "shop", {"spec": {"replicas": replicas}}, sub="scale").ok
        scene.settle()


@pytest.mark.parametrize("person", ["alice", "admin"])
def test_no_new_template_reaches_a_user(cluster: Bed, person: str) -> None:
    scene = Scene(cluster, person).running(replicas=2)
    scene.pod()
    for image in ("shop:2", "shop:3"):
        assert scene.attacker.patch("deployments", "shop", new_image(image), STRATEGIC).ok
        try_everything(scene)
        scale_to_zero_and_up(scene)
    for each in scene.admin.items("pods"):  # the pods that come instead are of the old template
        scene.attacker.delete("pods", each["metadata"]["name"])
    assert scene.attacker.delete("deployments", "shop", "Orphan").ok
    wait_for("the Deployment to go", lambda: scene.admin.get("deployments", "shop").code == 404)
    assert scene.attacker.create("deployments", deployment("shop:4", {LABEL: "auto"})).ok
    try_everything(scene)
    scale_to_zero_and_up(scene)
    scene.bed.kubectl("-n", scene.namespace, "rollout", "undo", "deployment/shop", user=person, check=False)
    scene.settle()
    assert images_that_ever_ran(scene) == {
        "shop:1",
        "mine:1",
    }  # mine:1 is a ReplicaSet of one's own, and not given away


def test_scaling_up_from_zero_does_not_start_the_held_template(cluster: Bed) -> None:
    """The ReplicaSet of the template that is asked for again is there, idle; deleting it lets the stable one come."""
    scene = idle_replica_set_of_held_template(Scene(cluster))
    before, refused_before = len(shop_1_events(scene)), refusals(scene)
    assert scene.attacker.patch("deployments", "shop", {"spec": {"replicas": 2}}, sub="scale").ok
    held = scene.replica_set("shop:1")
    wait_for("the deployment controller to be refused", lambda: refusals(scene) > refused_before)
    assert len(shop_1_events(scene)) == before
    assert scene.serin.delete("replicasets", held).ok
    find = lambda: [each for each in scene.admin.items("pods") if image_of(each) == "shop:2"]  # noqa: E731
    wait_for("pods of the stable template", find)


def test_without_the_rule_it_starts(controls: Bed) -> None:
    place = control("serin-children", ("starting ReplicaSet",))
    scene = idle_replica_set_of_held_template(Scene(controls, namespace_labels={WITHOUT: place}))
    before = len(shop_1_events(scene))
    assert scene.attacker.patch("deployments", "shop", {"spec": {"replicas": 2}}, sub="scale").ok
    wait_for("a pod of the held template", lambda: len(shop_1_events(scene)) > before)


def test_without_the_policies_the_new_template_runs(controls: Bed) -> None:
    """The control of the test above: the pods that it looks for are seen where nothing holds them back."""
    scene = Scene(controls, namespace_labels={WITHOUT: NO_HOLD_NOR_GUARD}).running()
    scene.pod()
    assert scene.attacker.patch("deployments", "shop", {**new_image(), **label(ID), **annotate(note="x")}, STRATEGIC).ok
    wait_for("a pod of the new template", lambda: images_that_ever_ran(scene) == {"shop:1", "shop:2"})


def shop_1_events(scene: Scene) -> list[Object]:
    added = [event["object"] for event in _pod_events(scene.admin) if event["type"] == "ADDED"]
    return [pod for pod in added if image_of(pod) == "shop:1"]


def refusals(scene: Scene) -> float:
    """How often serin-children has refused something, by the API server's own count."""
    name = b"apiserver_validating_admission_policy_check_total{"
    counts = [line for line in scene.admin.lines("metrics") if line.startswith(name) and b'"serin-children"' in line]
    return sum(float(line.split()[-1]) for line in counts if b'enforcement_action="deny"' in line)
