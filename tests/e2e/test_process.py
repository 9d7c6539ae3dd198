"""The change-management process, carried out by different users on a real cluster: from apply to closed.

alice asks for changes and may declare emergencies, bob is the engineering manager, carol reviews, the cto approves
emergencies, mallory may edit workloads and nothing else. They use the plugin, as people do.
"""

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from testbed.errors import BedError
from testbed.waiting import eventually
from tests.e2e.conftest import Played

QUICK = timedelta(seconds=30)
LONG = timedelta(seconds=120)


def serin(app: Played, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`kubectl serin`, as this user."""
    return subprocess.run(
        [sys.executable, "-m", "controller.cli", *arguments, "-n", app.namespace],
        env={**os.environ, "KUBECONFIG": str(app.bed.kubeconfig(user)), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def does(app: Played, user: str, *arguments: str) -> str:
    done = serin(app, user, *arguments)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def refused(app: Played, user: str, *arguments: str) -> str:
    done = serin(app, user, *arguments)
    assert done.returncode == 1, (done.stdout, done.stderr)
    return done.stderr


def ask(app: Played, version: str, kind: str = "normal", user: str = "alice", **notes: str) -> str:
    """Apply a version as a change of this type; its ID, once it is recorded."""
    change = app.serin.change_id()
    annotations = {f"serin.dev/{name.replace('_', '-')}": text for name, text in {**FORM, **notes}.items()}
    app.apply(app.deployment(version, change, kind=kind, annotations=annotations), user=user)
    eventually(lambda: app.status(change), within=QUICK)
    return change


FORM = {
    "priority": "P2",
    "description": "Checkout v2",
    "systems_affected": "shop",
    "users_affected": "all",
    "downtime": "no",
    "risk": "medium",
    "implementation_plan": "canary",
    "rollback_plan": "automatic",
    "testing_plan": "unit, integration, BDD, manual",
    "success_criteria": "SLOs kept",
}
HOURS = [{"weight": weight, "bake": "1h"} for weight in (10, 50, 100)]
REVIEW = ("--outcome", "Successful", "--criteria", "SLOs kept", "--lessons", "none")


def decisions(status: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(action, by, reason of its refusal) of what was decided."""
    found = status.get("decisions", [])
    return [(r["action"], r["by"], r.get("refusal", "").partition(":")[0]) for r in found]


def test_a_standard_change_is_approved_by_its_policy_and_closed_by_its_end(app: Played) -> None:
    change = app.start("v2", policy={"minRequests": 0})
    done = app.wait(change, "Completed", within=LONG)
    assert done["approval"] == "pre-approved"
    assert done["closedAt"] == done["endedAt"], "the audit log is the review"
    assert done.get("decisions", []) == []


def test_a_normal_change_is_approved_by_the_manager_and_closed_by_a_review(app: Played) -> None:
    change = ask(app, "v2")
    waiting = app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)
    assert waiting["requesters"] == ["alice"]
    assert "but not alice" in waiting["message"]
    assert serin(app, "alice", "status", change).returncode == 5
    refused(app, "alice", "approve", change, "--tests", "I ran them")
    refused(app, "mallory", "approve", change, "--tests", "I ran them")
    refused(app, "carol", "approve", change, "--tests", "a reviewer is no approver")
    does(app, "bob", "approve", change)
    app.wait(change, "Waiting", reason="TestsUnverified", within=QUICK)
    does(app, "bob", "approve", change, "--tests", "https://ci.example/1")
    done = app.wait(change, "Completed", within=LONG)
    assert done["approval"] == "1 of 1: bob"
    assert "closedAt" not in done
    assert done["reviewDueAt"] > done["endedAt"]
    refused(app, "bob", "review", change, *REVIEW)
    does(app, "carol", "review", change, *REVIEW)
    closed = eventually(lambda: app.status(change).get("closedAt"), within=QUICK)
    assert closed
    assert [d for d in decisions(app.status(change)) if not d[2]] == [
        ("Approve", "bob", ""),
        ("Approve", "bob", ""),
        ("Review", "carol", ""),
    ]
    app.told("ChangeRequest", "Decided")


def test_a_denied_change_never_reaches_a_user(app: Played) -> None:
    before = app.pods()
    change = ask(app, "v2")
    app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)
    does(app, "bob", "deny", change, "--reason", "not before the sale")
    denied = app.wait(change, "Denied", within=QUICK)
    assert "not before the sale" in denied["history"][0]["message"]
    assert app.pods().keys() == before.keys()
    assert serin(app, "alice", "wait", change).returncode == 4
    assert app.live()["metadata"]["annotations"]["serin.dev/held"] == "rejected"
    app.change("v1", app.serin.change_id(), kind="normal")
    eventually(lambda: not app.live()["spec"].get("paused"), within=QUICK)
    assert app.pods().keys() == before.keys(), "the old manifest is released at once"


def test_an_emergency_starts_on_a_declaration_and_is_approved_afterwards(app: Played) -> None:
    with pytest.raises(BedError, match="declare"):
        ask(app, "v2", "emergency", user="mallory")
    with app.serin.policy({"minRequests": 0}, "emergency"):
        change = ask(app, "v2", "emergency")
        app.started(change)
    done = app.wait(change, "Completed", within=LONG)
    assert done["approval"] == "declared; approval follows"
    refused(app, "bob", "approve", change)
    does(app, "carol", "review", change, *REVIEW)
    assert "closedAt" not in app.status(change)
    does(app, "cto", "approve", change)
    eventually(lambda: app.status(change).get("closedAt"), within=QUICK)


def test_an_emergency_that_is_denied_afterwards_stands_until_it_is_taken_back(app: Played) -> None:
    with app.serin.policy({"minRequests": 0, "steps": HOURS}, "emergency"):
        change = ask(app, "v2", "emergency")
        app.started(change)
    does(app, "cto", "deny", change, "--reason", "the fix is worse")
    app.wait(change, "Progressing", reason="ApprovalDenied", within=QUICK)
    does(app, "alice", "rollback", change, "--reason", "as the cto says")
    back = app.wait(change, "RolledBack", within=LONG)
    assert back["cause"] == "RollbackRequested"
    assert app.weights() == {"shop": 1}


def test_a_person_pauses_promotes_and_rolls_back(app: Played) -> None:
    change = app.start("v2", policy={"minRequests": 0, "steps": HOURS})
    does(app, "alice", "pause", change, "--reason", "lunch")
    app.wait(change, "Progressing", reason="Paused", within=QUICK)
    refused(app, "alice", "promote", change)
    does(app, "alice", "resume", change)
    does(app, "bob", "promote", change)
    eventually(lambda: app.status(change)["weight"] == 100, within=QUICK)
    app.wait(change, "Completed", within=LONG)


def test_a_role_that_is_revoked_un_approves_what_waits(app: Played) -> None:
    change = ask(app, "v2")
    app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)
    bind = ("rolebinding", "erin-approves", "-n", app.namespace)
    app.bed.kubectl("create", *bind, "--clusterrole=serin-approver-normal", "--user=mallory")
    does(app, "mallory", "approve", change)
    app.wait(change, "Waiting", reason="TestsUnverified", within=QUICK)
    app.bed.kubectl("delete", *bind)
    app.bed.kubectl("annotate", "chg", change.lower(), "-n", app.namespace, "look=again")
    app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)


def test_an_approval_is_for_one_template(app: Played) -> None:
    change = ask(app, "v2")
    app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)
    does(app, "bob", "approve", change)
    app.wait(change, "Waiting", reason="TestsUnverified", within=QUICK)
    app.change("v3", change, kind="normal")
    eventually(lambda: app.status(change)["reason"] == "AwaitingApproval", within=QUICK)
    stale = json.loads(app.bed.kubectl("get", "chgd", "-n", app.namespace, "-o", "json"))["items"][0]
    again = {**stale, "metadata": {"name": "copied", "namespace": app.namespace}}
    with pytest.raises(BedError, match="revision"):
        app.bed.kubectl("create", "-f", "-", stdin=json.dumps(again), user="bob")


def test_a_revert_needs_nobody(app: Played) -> None:
    first = app.start("v2", policy={"minRequests": 0})
    app.wait(first, "Completed", within=LONG)
    change = app.serin.change_id()
    app.change("v1", change, kind="normal")
    done = app.wait(change, "Completed", within=LONG)
    assert (done["revert"], done["approval"]) == (True, "pre-approved: a revert")
