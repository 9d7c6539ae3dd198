"""The API server's own audit log says who decided what, what was refused, and where each change's chain stands."""

import json
from collections.abc import Iterator

from controller.core import proof
from testbed.bed import Bed
from tests.admission.cluster import CHG, ID, REVISION, SERIN, Object, Scene, wait_for

REFUSED = "validation.policy.admission.k8s.io/validation_failure"


def events(scene: Scene, annotation: str) -> Iterator[tuple[Object, str]]:
    """Events of the scene's namespace that carry the annotation, and its value."""
    for line in (scene.bed.directory / "audit.log").read_text().splitlines():
        event: Object = json.loads(line)
        if event["objectRef"].get("namespace") == scene.namespace and annotation in event.get("annotations", {}):
            yield event, event["annotations"][annotation]


def the_one(scene: Scene, annotation: str) -> tuple[Object, str]:
    found: list[tuple[Object, str]] = wait_for("the audit event", lambda: list(events(scene, annotation)))
    (event,) = found
    return event


def test_a_decision_is_in_the_audit_log(cluster: Bed) -> None:
    scene = Scene(cluster).asked()
    admins = len(list(events(scene, "serin-audit-decisions/decision")))  # dry runs of the scene
    scene.decided()
    *_, (event, text) = wait_for(
        "the audit event", lambda: list(events(scene, "serin-audit-decisions/decision"))[admins:]
    )
    uid = scene.uid()
    assert text == f"Approve of {ID} (normal, uid {uid}, revision {REVISION}) in {scene.namespace} by alice"
    assert event["user"]["username"] == "alice"


def test_a_refusal_is_in_the_audit_log_with_its_reason(cluster: Bed) -> None:
    """What is tried and refused is a security event, with who tried it and from where."""
    scene = Scene(cluster, "carol").held()
    assert not scene.attacker.patch("deployments", "shop", {"spec": {"paused": False}}).ok
    event, text = the_one(scene, REFUSED)
    assert event["user"]["username"] == "carol"
    assert event["sourceIPs"]
    assert "serin: un-pausing was refused: CHG-20261123-001" in json.loads(text)[0]["message"]


def test_the_head_of_a_chain_is_in_the_audit_log_as_an_anchor(cluster: Bed) -> None:
    scene = Scene(cluster).asked()
    assert not list(events(scene, proof.ANNOTATION))
    patch = {"status": {"audit": {"seq": 7, "hash": "c0ffee"}}}
    assert scene.serin.patch("changerequests", CHG, patch, sub="status").ok
    event, _ = the_one(scene, proof.ANNOTATION)
    assert proof.anchors_of([json.dumps(event)]) == [proof.Anchor(ID, scene.namespace, scene.uid(), 7, "c0ffee")]
    assert event["impersonatedUser"]["username"] == SERIN
    assert scene.serin.patch("changerequests", CHG, {"status": {"weight": 10}}, sub="status").ok
    assert len(list(events(scene, proof.ANNOTATION))) == 1, "the chain has not moved on"
