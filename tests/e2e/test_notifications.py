"""People hear of what they have to do and of what becomes of a change, though a sink is out of order at first."""

from datetime import timedelta

import pytest

from testbed.waiting import eventually
from tests.e2e.conftest import Played
from tests.e2e.hooks import OUT_OF_ORDER
from tests.e2e.test_process import REVIEW, ask, does

QUICK = timedelta(seconds=30)
LONG = timedelta(seconds=120)
HEALTHY = ["change.started", "change.advanced", "change.advanced", "change.promoting", "change.completed"]


def heard(app: Played, change: str, *kinds: str) -> None:
    """Wait until the receiver of events and the chat have these, and the record has all their receipts."""
    hooks = app.serin.hooks
    eventually(lambda: hooks.kinds(change) == list(kinds), within=QUICK)
    eventually(lambda: sorted(hooks.chat(change)) == sorted(e["id"] for e in hooks.events(change)), within=QUICK)
    eventually(lambda: not any(told.get("owed") for told in app.status(change)["told"]), within=QUICK)
    told = app.status(change)["told"]
    assert [each["kind"].removeprefix("dev.serin.") for each in told] == list(kinds)
    assert all({receipt["sink"] for receipt in each["receipts"]} >= {"chat", "events"} for each in told)


def test_all_of_a_normal_change_is_heard_from_the_request_to_the_review(app: Played) -> None:
    change = ask(app, "v2", description="Checkout <!channel> v2")
    app.wait(change, "Waiting", reason="AwaitingApproval", within=QUICK)
    does(app, "bob", "approve", change, "--tests", "https://ci.example/1")
    app.wait(change, "Completed", within=LONG)
    does(app, "carol", "review", change, *REVIEW)
    eventually(lambda: app.status(change).get("closedAt"), within=QUICK)
    hooks = app.serin.hooks
    first = ["approval.requested", "decision.approve"]
    heard(app, change, *first, *HEALTHY, "review.requested", "decision.review")
    asked, *_ = hooks.events(change)
    assert (asked["source"], asked["subject"]) == ("/serin/bed", f"{app.namespace}/{change.lower()}")
    assert "alice asks for your approval by " in asked["data"]["text"]
    assert asked["data"]["command"] == f"kubectl serin approve {change} -n {app.namespace}"
    shown = next(body for to, _, body in hooks.sent if to == "chat" and change in body["text"])
    assert "Checkout &lt;!channel&gt; v2" in shown["text"]


def test_all_of_a_change_that_goes_back_is_heard(app: Played) -> None:
    change = app.start("v2", policy={"minRequests": 0}, CRASH_AFTER="1")
    app.wait(change, "RolledBack", within=LONG)
    heard(app, change, "change.started", "change.rollingback", "change.rolledback")
    assert "CrashLoop" in app.serin.hooks.events(change)[1]["data"]["text"]


def test_the_pager_of_the_cto_acknowledges_an_emergency_and_hears_of_nothing_else(app: Played) -> None:
    with app.serin.policy({"minRequests": 0}, "emergency"):
        change = ask(app, "v2", "emergency")
        app.started(change)
    notified = eventually(lambda: app.status(change).get("notifiedAt"), within=QUICK)
    declared = app.status(change)["told"][0]
    assert declared["kind"] == "dev.serin.emergency.declared"
    assert {"sink": "pager", "at": notified} in declared["receipts"]
    app.wait(change, "Completed", within=LONG)
    heard(app, change, "emergency.declared", *HEALTHY, "review.requested")
    hooks = app.serin.hooks
    assert hooks.kinds(change, "pager") == ["emergency.declared"]
    assert {status for to, status, _ in hooks.sent if to == "pager"} == {204}


@pytest.mark.alone
def test_the_controller_may_die_at_any_step_and_all_is_heard(app: Played) -> None:
    bakes = [{"weight": weight, "bake": "2s"} for weight in (10, 50, 100)]
    change = app.start("v2", policy={"steps": bakes, "minRequests": 0})
    for step in (1, 2, 3):
        eventually(lambda wanted=step: app.status(change).get("step") == wanted, within=LONG)  # type: ignore[misc]
        app.serin.controller.kill()
        app.serin.controller.start()
    app.wait(change, "Completed", within=LONG)
    heard(app, change, *HEALTHY)
    events = [body for to, _, body in app.serin.hooks.sent if to == "events" and body["data"]["changeId"] == change]
    assert all(event in app.serin.hooks.events(change) for event in events), "what came twice was the same"


@pytest.mark.alone
def test_the_chat_was_out_of_order_at_first(app: Played) -> None:
    answers = [status for to, status, _ in app.serin.hooks.sent if to == "chat"]
    assert answers[: len(OUT_OF_ORDER)] == list(OUT_OF_ORDER)
    assert set(answers[len(OUT_OF_ORDER) :]) == {204}
