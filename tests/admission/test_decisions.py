"""What people may decide is recorded in their own name, and goes with its change; the rest is in attacks.py."""

from datetime import timedelta
from typing import Any

import pytest

from testbed.bed import Bed
from tests.admission.cluster import CHG, ROBOT, SERIN, Object, Scene, change_request, decision, wait_for

ENDED = {"phase": "Completed", "endedAt": "2026-11-23T09:00:00Z"}
AFTERWARDS = {"policy": {"steps": [], "approval": {"required": 1, "when": "after"}}}
MAY: list[tuple[str, str, Object, Object]] = [
    ("alice", "Approve", {}, {"tests": "https://ci.example.com/1"}),
    ("alice", "Deny", {}, {}),
    ("alice", "Promote", {"phase": "Progressing"}, {}),
    ("alice", "Review", ENDED, {}),
    ("dora", "Bypass", {}, {}),
    ("dora", "Approve", {**ENDED, **AFTERWARDS}, {"type": "emergency"}),
    ("dora", "Deny", {**ENDED, **AFTERWARDS}, {"type": "emergency"}),
    ("olaf", "Rollback", {"phase": "Promoting"}, {"type": "emergency", "revision": "what-he-last-saw"}),
    # One's own change: whoever asked may stop it.
    ("bob", "Deny", {}, {}),
    ("bob", "Pause", {}, {}),
    ("bob", "Resume", {}, {}),
    ("bob", "Rollback", {"phase": "Progressing"}, {}),
]


@pytest.mark.parametrize(("who", "action", "status", "spec"), MAY, ids=[f"{a} ({w})" for w, a, _, _ in MAY])
def test_who_may_decides(cluster: Bed, who: str, action: str, status: Object, spec: dict[str, Any]) -> None:
    scene = Scene(cluster, who).asked(status=status, type=spec.get("type", "normal"))
    made = scene.attacker.create("changedecisions", scene.decision(action, **spec))
    assert made.ok, made
    assert made.body["spec"]["by"] == who
    owner = {"apiVersion": "serin.dev/v1alpha1", "kind": "ChangeRequest", "name": CHG, "uid": scene.uid()}
    assert made.body["metadata"]["ownerReferences"] == [owner]


def test_a_claimed_name_and_claimed_groups_are_overwritten(cluster: Bed) -> None:
    scene = Scene(cluster, "alice").asked()
    forged = scene.decision(by="dora", groups=["system:masters"])
    forged["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]
    made = scene.attacker.create("changedecisions", forged)
    assert made.ok, made
    assert made.body["spec"]["by"] == "alice"
    assert made.body["spec"]["groups"] == ["managers", "system:authenticated"]
    assert [owner["kind"] for owner in made.body["metadata"]["ownerReferences"]] == ["ChangeRequest"]


def test_the_spec_of_a_decision_is_not_edited_by_anyone(cluster: Bed) -> None:
    scene = Scene(cluster).asked()
    name = scene.decided("Deny")
    for person in ("alice", "bob", "admin"):
        answer = scene.user(person).patch("changedecisions", name, {"spec": {"action": "Approve"}})
        assert "a decision is not edited; make another one" in answer.message
    labelled = scene.user("alice").patch("changedecisions", name, {"metadata": {"labels": {"ticket": "17"}}})
    assert labelled.ok, labelled


AUTHORS = [
    ("alice", True),
    ("ALICE", True),
    ("alice@example.com", True),
    ("Alice Doe <alice@example.com>", True),
    ("carol, alice", True),
    ("alicent", False),
    ("carol <malice@example.com>", False),
    ("alice-bot", False),
    ("", False),
]


@pytest.mark.parametrize(("author", "same"), AUTHORS)
def test_an_author_is_known_in_whatever_way_the_name_is_written(cluster: Bed, author: str, same: bool) -> None:
    scene = Scene(cluster, "alice").asked(ROBOT, author=author)
    answer = scene.attacker.create("changedecisions", scene.decision())
    assert answer.ok is not same, answer


def test_the_controller_cannot_decide(cluster: Bed) -> None:
    """Not even when someone gives its account the right to write decisions, and impersonates it."""
    scene = Scene(cluster, SERIN).asked()
    answer = scene.attacker.create("changedecisions", scene.decision())
    assert 'cannot create resource "changedecisions"' in answer.message
    role = {"metadata": {"name": "give"}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"}}
    subject = {"apiGroup": RBAC, "kind": "User", "name": SERIN}
    path = f"apis/{RBAC}/v1/namespaces/{scene.namespace}/rolebindings"
    assert scene.admin.request("POST", path, {**role, "subjects": [subject]}).ok
    refused = lambda: "is not a person" in scene.attacker.create("changedecisions", scene.decision()).message  # noqa: E731
    wait_for("the right to be known, and the refusal", refused)


RBAC = "rbac.authorization.k8s.io"


def test_nobody_impersonates_the_controller_without_the_right(cluster: Bed) -> None:
    """Who has `edit` in a namespace of their own; with `edit` in serin-system, or everywhere, one may (docs/limits)."""
    scene = Scene(cluster).held()
    place = ("-n", scene.namespace)
    cluster.kubectl("create", "serviceaccount", "deployer", *place)
    cluster.kubectl(
        *("create", "rolebinding", "edit", *place, "--clusterrole=edit", f"--serviceaccount={scene.namespace}:deployer")
    )
    token = cluster.kubectl("create", "token", "deployer", *place).strip()
    release = ("patch", "deployment", "shop", *place, "-p", '{"spec": {"paused": false}}', f"--token={token}")
    wait_for("the right to edit", lambda: "un-pausing was refused" in cluster.kubectl_result(*release).stderr)
    done = cluster.kubectl_result(*release, f"--as={SERIN}")
    assert "cannot impersonate" in done.stderr
    assert scene.live()["spec"]["paused"] is True


def test_a_service_account_that_the_policy_names_decides(cluster: Bed) -> None:
    scene = Scene(cluster, ROBOT).asked()
    name = {"spec": {"approval": {"serviceAccounts": [ROBOT]}}}
    policies = "apis/serin.dev/v1alpha1/changepolicies/normal"
    assert scene.admin.request("PATCH", policies, name, "application/merge-patch+json").ok
    try:
        body = scene.decision()
        wait_for("the policy to be known", lambda: scene.attacker.create("changedecisions", body, "?dryRun=All").ok)
    finally:
        nobody = {"spec": {"approval": {"serviceAccounts": None}}}
        assert scene.admin.request("PATCH", policies, nobody, "application/merge-patch+json").ok
    refused = lambda: not scene.attacker.create("changedecisions", body, "?dryRun=All").ok  # noqa: E731
    wait_for("the policy to be known again", refused)


def test_decisions_go_with_their_change_and_count_for_no_other(cluster: Bed) -> None:
    scene = Scene(cluster).asked()
    first = scene.decided()
    assert scene.admin.delete("changerequests", CHG).ok
    scene.asked()
    gone = lambda: scene.admin.get("changedecisions", first).code == 404  # noqa: E731
    wait_for("the decision to be collected", gone, timedelta(seconds=60))  # a new kind is known to the collector late


def test_a_namespace_with_decisions_can_be_deleted(cluster: Bed) -> None:
    scene = Scene(cluster).asked()
    scene.decided()
    path = f"api/v1/namespaces/{scene.namespace}"
    assert scene.admin.request("DELETE", path).ok
    wait_for("the namespace to go", lambda: scene.admin.request("GET", path).code == 404)


def test_among_many_changes_the_right_one_is_asked(cluster: Bed) -> None:
    """Each ChangeRequest of the namespace is a parameter in turn: only the one that is meant has a say."""
    scene = Scene(cluster, "alice").asked()
    for number in range(2, 40):
        change = f"CHG-20261123-{number:03d}"
        body = change_request(changeId=change, type="standard", requestedBy="alice")
        body["metadata"]["name"] = change.lower()
        assert scene.serin.create("changerequests", body).ok
    assert scene.attacker.create("changedecisions", scene.decision()).ok
    wrong = scene.attacker.create("changedecisions", decision(uid=scene.uid(), change="CHG-20261123-007"))
    assert "there is no CHG-20261123-007" in wrong.message


def test_one_id_is_one_record(cluster: Bed) -> None:
    """Another record for the ID could be approved in its place."""
    scene = Scene(cluster).asked()
    second = {**change_request(), "metadata": {"name": "mine"}}
    answers = [scene.user(who).create("changerequests", second) for who in ("alice", "admin")]
    answers.append(scene.bob.patch("changerequests", CHG, {"spec": {"changeId": "CHG-20261123-002"}}))
    for answer in answers:
        assert "metadata.name must be spec.changeId in lower case" in answer.message


def test_a_request_is_amended_by_its_requester_until_it_is_approved(cluster: Bed) -> None:
    refused = {"uid": "d", "action": "Approve", "by": "x", "at": "2026-11-23T08:00:00Z", "refusal": "NotAuthorized: x"}
    scene = Scene(cluster).asked(status={"decisions": [refused]})
    for spec in ({"type": "standard"}, {"rollbackPlan": "automatic"}, {"deployments": ["shop"]}):
        answer = scene.bob.patch("changerequests", CHG, {"spec": spec})
        assert answer.ok, answer
