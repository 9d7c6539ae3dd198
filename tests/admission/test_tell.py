"""`kubectl apply` says at once what will happen to the change."""

import json

import pytest

from testbed.bed import Bed
from tests.admission.cluster import ID, LABEL, TYPE, Object, Scene, deployment, wait_for

LOOK = f"kubectl serin status {ID} -n "
TOLD = [
    ("alice", ID, {}, f"serin: {ID} is normal: held until someone with approve on changetypes/normal approves: {LOOK}"),
    ("alice", ID, {TYPE: "standard"}, f"serin: {ID} is standard: starts in its window without an approval if its diff"),
    ("olaf", ID, {TYPE: "emergency"}, f"serin: {ID} is emergency: starts at once; approval and review follow: {LOOK}"),
    ("alice", "auto", {}, "serin: this template becomes a change of its own is normal: held until someone"),
    ("alice", "CHG-1", {}, "serin: the label serin.dev/change is 'CHG-1': write CHG-YYYYMMDD-NNN"),
    ("alice", ID, {TYPE: "urgent"}, "serin: the annotation serin.dev/type is 'urgent': write standard, normal or"),
]


def apply(scene: Scene, who: str, body: Object) -> tuple[str, str]:
    done = scene.bed.kubectl_result("apply", "-n", scene.namespace, "-f", "-", user=who, stdin=json.dumps(body))
    assert done.returncode == 0, done
    return done.stdout, done.stderr


@pytest.mark.parametrize(("who", "change", "annotations", "says"), TOLD, ids=[f"{t[1]} {t[2]}" for t in TOLD])
def test_who_applies_is_told_what_will_happen(
    cluster: Bed, who: str, change: str, annotations: dict[str, str], says: str
) -> None:
    scene = Scene(cluster)
    out, err = apply(scene, who, deployment(labels={LABEL: change}, annotations=annotations))
    assert "created" in out
    assert says in err
    assert err.count("serin: ") == 1 + (change == "CHG-1")


def test_nothing_is_told_when_the_template_stays(cluster: Bed) -> None:
    scene = Scene(cluster).running()
    assert apply(
        scene, "alice", {**deployment(labels={LABEL: ID}), **{"spec": {**deployment()["spec"], "replicas": 2}}}
    )
    _, err = apply(scene, "alice", deployment(labels={LABEL: ID}))
    assert "serin: " not in err


def test_an_unmanaged_deployment_hears_nothing(cluster: Bed) -> None:
    scene = Scene(cluster)
    _, err = apply(scene, "alice", deployment())
    assert "serin: " not in err


def test_a_number_of_approvals_is_told(cluster: Bed) -> None:
    scene = Scene(cluster).running()
    required(scene, 2)
    try:
        wait_for("the policy to be known", lambda: "held until 2 people with approve on " in of_a_new_template(scene))
    finally:
        required(scene, 1)
    wait_for("the policy to be known again", lambda: "held until someone with approve" in of_a_new_template(scene))


def required(scene: Scene, people: int) -> None:
    body = {"spec": {"approval": {"required": people}}}
    path = "apis/serin.dev/v1alpha1/changepolicies/normal"
    assert scene.admin.request("PATCH", path, body, "application/merge-patch+json").ok


def of_a_new_template(scene: Scene) -> str:
    place = ("-n", scene.namespace, "--dry-run=server")
    return scene.bed.kubectl_result("set", "image", "deployment/shop", "shop=shop:2", *place, user="alice").stderr
