"""A new template is paused in the write that brings it, whoever makes it and however; nothing else is."""

import json
from collections.abc import Callable

import pytest

from testbed.bed import Bed
from tests.admission.cluster import (
    BY,
    HELD,
    ID,
    LABEL,
    RECREATE,
    TYPE,
    Object,
    Scene,
    annotate,
    deployment,
    image_of,
    label,
    new_image,
)

STRATEGIC = "strategic-merge-patch"


def kubectl(*arguments: str) -> Callable[[Scene, str], None]:
    return lambda scene, user: _kubectl(scene, user, *arguments)


def _kubectl(scene: Scene, user: str, *arguments: str, stdin: str | None = None) -> None:
    scene.bed.kubectl("-n", scene.namespace, *arguments, user=user, stdin=stdin)


def _manifest(image: str) -> str:
    return json.dumps({**deployment(image), "metadata": {"name": "shop", "labels": {LABEL: ID}}})


def client_side_apply(scene: Scene, user: str) -> None:
    _kubectl(scene, user, "apply", "--server-side=false", "-f", "-", stdin=_manifest("shop:2"))


def server_side_apply(scene: Scene, user: str) -> None:
    _kubectl(scene, user, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=_manifest("shop:2"))


def replace(scene: Scene, user: str) -> None:
    _kubectl(scene, user, "replace", "-f", "-", stdin=_manifest("shop:2"))


def delete_and_create(scene: Scene, user: str) -> None:
    _kubectl(scene, user, "delete", "deployment", "shop")
    _kubectl(scene, user, "create", "-f", "-", stdin=_manifest("shop:2"))


def orphan_and_apply(scene: Scene, user: str) -> None:
    _kubectl(scene, user, "delete", "deployment", "shop", "--cascade=orphan")
    server_side_apply(scene, user)


def patch(how: str, body: object) -> Callable[[Scene, str], None]:
    def act(scene: Scene, user: str) -> None:
        assert scene.user(user).patch("deployments", "shop", body, how).ok

    return act


IMAGE = "/spec/template/spec/containers/0/image"
CONTAINERS = [{"name": "shop", "image": "shop:2"}]
FORGED = {**new_image(), "metadata": {"annotations": {HELD: "promoting", BY: "bob"}}}
WAYS_IN: dict[str, Callable[[Scene, str], None]] = {
    "client-side apply": client_side_apply,
    "server-side apply": server_side_apply,
    "replace": replace,
    "set image": kubectl("set", "image", "deployment/shop", "shop=shop:2"),
    "set env": kubectl("set", "env", "deployment/shop", "LEVEL=debug"),
    "rollout restart": kubectl("rollout", "restart", "deployment/shop"),
    "edit": kubectl("edit", "deployment", "shop"),
    "delete and create": delete_and_create,
    "orphan and apply": orphan_and_apply,
    "strategic merge patch": patch(STRATEGIC, new_image()),
    "merge patch": patch("merge-patch", {"spec": {"template": {"spec": {"containers": CONTAINERS}}}}),
    "JSON patch": patch("json-patch", [{"op": "replace", "path": IMAGE, "value": "shop:2"}]),
    "with forged marks": patch(STRATEGIC, FORGED),
    "with the type": patch(STRATEGIC, {**new_image(), **annotate(type="standard")}),
    "with replicas": patch(STRATEGIC, {"spec": {**new_image()["spec"], "replicas": 0}}),
    "with un-pause": patch(STRATEGIC, {"spec": {**new_image()["spec"], "paused": False}}),
    "with an odd ID": patch(STRATEGIC, {**new_image(), **label("not-a-change-ID")}),
    "with garbage": patch(STRATEGIC, {**new_image(), **annotate(type="a\n\u202e\u0007{{.}}" + 150_000 * "x")}),
}


def assert_held(scene: Scene, user: str) -> None:
    live = scene.live()
    assert live["spec"]["paused"] is True
    assert live["metadata"]["annotations"][HELD] == "true"
    assert live["metadata"]["annotations"][BY] == user
    scene.settle()
    for each in (*scene.admin.items("replicasets"), *scene.admin.items("pods")):
        pod_template = each["spec"].get("template", each)
        assert image_of(pod_template) == "shop:1"
        assert "env" not in pod_template["spec"]["containers"][0]
        assert "annotations" not in pod_template["metadata"]


BY_ADMIN = ("server-side apply", "strategic merge patch", "with forged marks", "with un-pause")


@pytest.mark.parametrize(("way", "user"), [*((way, "alice") for way in WAYS_IN), *((way, "admin") for way in BY_ADMIN)])
def test_a_new_template_is_held(cluster: Bed, way: str, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBE_EDITOR", "sed -i s/shop:1/shop:2/")
    scene = Scene(cluster).running()
    before = scene.live()["spec"]["template"]
    scene.replica_set()
    WAYS_IN[way](scene, user)
    assert scene.live()["spec"]["template"] != before
    assert_held(scene, user)


def test_a_creation_is_held(cluster: Bed) -> None:
    scene = Scene(cluster)
    forged = {HELD: "promoting", BY: "bob"}
    made = scene.attacker.create("deployments", deployment(labels={LABEL: "auto"}, annotations=forged))
    assert made.ok, made
    assert_held(scene, "alice")
    assert not scene.admin.items("replicasets")


def test_a_deployment_that_gains_the_label_with_its_template_is_held(cluster: Bed) -> None:
    scene = Scene(cluster).unlabelled(annotations={HELD: "promoting"})
    scene.replica_set()
    patch(STRATEGIC, {**new_image(), **label(ID)})(scene, "alice")
    assert_held(scene, "alice")


def test_adoption_holds_nothing_and_restarts_nothing(cluster: Bed) -> None:
    scene = Scene(cluster).unlabelled()
    replica_set, before = scene.replica_set(), scene.live()
    patch("merge-patch", label(ID))(scene, "alice")
    after = scene.live()
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert not {HELD, BY} & scene.annotations().keys()
    assert [each["metadata"]["name"] for each in scene.admin.items("replicasets")] == [replica_set]


def test_a_newer_template_makes_its_author_the_requester(cluster: Bed) -> None:
    scene = Scene(cluster).held()
    assert scene.annotations()[BY] == "bob"
    patch(STRATEGIC, new_image("shop:3"))(scene, "alice")
    assert_held(scene, "alice")


AMENDMENTS: dict[str, Object] = {
    "change ID": label("CHG-20261123-002"),
    "type": annotate(type="standard"),
    "strategy": RECREATE,
    "author": annotate(author="carol"),
}


@pytest.mark.parametrize("amendment", AMENDMENTS)
def test_an_amendment_makes_its_author_the_requester(cluster: Bed, amendment: str) -> None:
    scene = Scene(cluster).held()
    patch("merge-patch", AMENDMENTS[amendment])(scene, "alice")
    assert_held(scene, "alice")


def scale_by_subresource(scene: Scene) -> None:
    assert scene.attacker.patch("deployments", "shop", {"spec": {"replicas": 3}}, sub="scale").ok


def write_status(scene: Scene) -> None:
    live = scene.live()
    live["status"]["observedGeneration"] = live["metadata"]["generation"]
    assert scene.attacker.put("deployments", "shop", live, sub="status").ok


FREE: dict[str, Callable[[Scene], None]] = {
    "scale": lambda s: patch("merge-patch", {"spec": {"replicas": 3}})(s, "alice"),
    "scale to zero": lambda s: patch("merge-patch", {"spec": {"replicas": 0}})(s, "alice"),
    "scale by its subresource": scale_by_subresource,
    "annotation": lambda s: patch("merge-patch", annotate(note="x"))(s, "alice"),
    "label": lambda s: patch("merge-patch", {"metadata": {"labels": {"team": "shop"}}})(s, "alice"),
    "deadline": lambda s: patch("merge-patch", {"spec": {"progressDeadlineSeconds": 60}})(s, "alice"),
    "status": write_status,
}


FREE_CASES = [(edit, "held") for edit in FREE] + [("scale", "running"), ("annotation", "running"), ("scale", "locked")]


@pytest.mark.parametrize(("edit", "start"), FREE_CASES)
def test_what_brings_no_new_template_is_free(cluster: Bed, edit: str, start: str) -> None:
    scene: Scene = getattr(Scene(cluster), start)()
    scene.settle()
    before, marks_before = scene.live(), scene.annotations()
    FREE[edit](scene)
    after, marks_after = scene.live(), scene.annotations()
    for mark in (HELD, BY, TYPE):
        assert marks_after.get(mark) == marks_before.get(mark)
    assert after["spec"].get("paused") == before["spec"].get("paused")


def test_between_changes_the_users_own_pause_is_free(cluster: Bed) -> None:
    scene = Scene(cluster).running()
    for paused in (True, False):
        patch("merge-patch", {"spec": {"paused": paused}})(scene, "alice")


def test_between_changes_the_verb_unmanage_removes_the_label(cluster: Bed) -> None:
    scene = Scene(cluster).running()
    patch("merge-patch", label(None))(scene, "admin")
    patch(STRATEGIC, new_image())(scene, "alice")
    assert scene.replica_set("shop:2")


def test_who_may_declare_an_emergency_declares_it(cluster: Bed) -> None:
    scene = Scene(cluster).running()
    patch(STRATEGIC, {**new_image(), **annotate(type="emergency")})(scene, "admin")
    assert_held(scene, "admin")


def test_an_emergency_supersedes_a_running_change_and_waits_itself(cluster: Bed) -> None:
    scene = Scene(cluster).marked("running")
    emergency = {
        **new_image("shop:3"),
        "metadata": {"labels": {LABEL: "CHG-20261123-009"}, "annotations": {TYPE: "emergency"}},
    }
    assert scene.admin.patch("deployments", "shop", emergency, "strategic-merge-patch").ok
    assert scene.annotations()[HELD] == "true"


def test_a_second_emergency_does_not_supersede_the_first(cluster: Bed) -> None:
    scene = Scene(cluster).held()
    first = {**new_image("shop:8"), **annotate(type="emergency")}
    assert scene.admin.patch("deployments", "shop", first, "strategic-merge-patch").ok
    assert scene.serin.patch("deployments", "shop", {"metadata": {"annotations": {HELD: "running"}}}).ok
    answer = scene.admin.patch("deployments", "shop", new_image("shop:3"), "strategic-merge-patch")
    assert not answer.ok
    assert "is running on this Deployment" in answer.message


@pytest.mark.parametrize(
    "edit", [{"labels": {LABEL: "CHG-20261123-009"}}, {"annotations": {"serin.dev/retry": "CHG-20261123-001"}}]
)
def test_a_rejected_template_is_asked_for_again_in_the_name_of_who_asks(cluster: Bed, edit: Object) -> None:
    scene = Scene(cluster).marked("rejected")
    assert scene.user("alice").patch("deployments", "shop", {"metadata": edit}).ok
    assert scene.annotations()[HELD] == "true"
    assert scene.annotations()[BY] == "alice"
    assert scene.live()["spec"]["paused"] is True


def test_scaling_a_running_and_a_rejected_one_is_free(cluster: Bed) -> None:
    for held in ("running", "rejected"):
        scene = Scene(cluster).marked(held)
        assert scene.bob.patch("deployments", "shop", {"spec": {"replicas": 5}}).ok
        assert scene.annotations()[HELD] == held
