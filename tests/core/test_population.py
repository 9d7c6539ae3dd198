"""What auditors sample and ask, of a simulated log and of the status alone."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.core.audit import Head, Kind, Record, chain
from controller.core.model import Action
from controller.core.policy import ChangeType
from controller.core.population import Row, answers, records_of, rows
from tests.core.test_decisions import REVIEW, Desk, approved

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOURS = timedelta(hours=3)


def of_log(desk: Desk) -> Row:
    (row,) = rows(json.loads(line) for line in desk.trail.lines)
    return row


def of_status(desk: Desk) -> Row:
    (row,) = rows(records_of(desk.change, desk.state, desk.now))
    return row


def found(desk: Desk) -> dict[str, tuple[str, ...]]:
    by_question = {a.question.split(",")[0]: a.found for a in answers([of_log(desk)], desk.now)}
    assert by_question == {a.question.split(",")[0]: a.found for a in answers([of_status(desk)], desk.now)}
    return by_question


def test_a_change_that_was_approved_run_and_reviewed_is_one_row_from_the_log_and_from_the_status() -> None:
    desk = approved()
    desk.pass_by(HOURS)
    desk.decide(Action.REVIEW, by="carol", review=REVIEW)
    desk.after_the_end()
    for row in (of_log(desk), of_status(desk)):
        assert (row.change, row.namespace, row.type) == ("CHG-20261123-001", "demo", "normal")
        assert (row.requested_by, row.author, row.approved_by) == ("alice", "ann", ("bob",))
        assert (row.outcome, row.cause, row.review, row.reviewed_by) == ("Completed", "", "Successful", "carol")
        assert row.recorded_at < row.started_at < row.ended_at < row.closed_at or row.ended_at == row.closed_at
        assert row.approved_at <= row.started_at
        assert row.approval == "1 of 1: bob"
    assert not any(lines for question, lines in found(desk).items())


def test_a_rollback_has_its_cause_and_a_refused_decision_its_reason() -> None:
    desk = approved(errors_from=90, error_ratio=1.0)
    desk.decide(Action.PROMOTE, by="alice")
    desk.pass_by(HOURS)
    told = found(desk)
    assert told["Rolled back"][0].startswith("demo/CHG-20261123-001 (normal, asked by alice): ErrorRate at 2026")
    assert "Promote by alice" in told["Decisions that were refused"][0]
    assert "SelfApproval" in told["Decisions that were refused"][0]


def test_an_emergency_that_nobody_approved_is_named_until_somebody_did() -> None:
    desk = Desk(ChangeType.EMERGENCY)
    desk.pass_by(HOURS)
    told = found(desk)
    (line,) = told["Started without an approval that their policy asks for"]
    assert "nobody has approved it afterwards; 0 of 1" in line
    assert "NOT approved; NOT reviewed" in told["Emergencies"][0]
    desk.decide(Action.APPROVE, by="cto")
    desk.after_the_end()
    told = found(desk)
    assert told["Started without an approval that their policy asks for"] == ()
    assert "approved by cto" in told["Emergencies"][0]


def test_a_bypass_is_named_with_its_reason() -> None:
    desk = Desk()
    desk.decide(Action.BYPASS, expires_at=desk.now + timedelta(hours=1), reason="the house burns")
    desk.pass_by(timedelta(minutes=1))
    told = found(desk)
    assert "by bob at" in told["Started by a bypass"][0]
    assert told["Started by a bypass"][0].endswith("the house burns")
    assert told["Started without an approval that their policy asks for"] == ()


def made(**what: Any) -> Row:
    about = {
        "at": "2026-11-23T08:00:00.000Z",
        "change": "C",
        "uid": "u",
        "namespace": "n",
        "policy": "",
        "revision": "",
    }
    start = {"phase": "Progressing", "reason": "Started", "at": "2026-11-23T09:00:00.000Z", **what}
    records = [
        Record(Kind.RECORDED, {"type": "normal", "requestedBy": "eve", "requesters": ["eve"]}),
        Record(Kind.POLICY, {"spec": {"approval": {"required": 1}}}),
        Record(Kind.TRANSITION, start),
        Record(Kind.TRANSITION, {"phase": "Completed", "reason": "Completed", "at": "2026-11-23T10:00:00.000Z"}),
    ]
    (row,) = rows(json.loads(line) for line in chain(Head(), about, records)[1])
    return row


def test_what_a_controller_must_never_do_would_be_named() -> None:
    """The log of one that does not ask: the report does not rely on its good will."""
    own = made(approval="1 of 1: eve", approvers=[{"by": "eve", "at": "2026-11-23T08:30:00.000Z", "uid": "d"}])
    bare = made(approval="0 of 1")
    told = {a.question: a.found for a in answers([own, bare], NOW)}
    assert told["Approved by who asked for them"] == ("n/C (normal, asked by eve): eve",)
    assert told["Started without an approval that their policy asks for"] == (
        "n/C (normal, asked by eve): not approved; 0 of 1",
    )


def test_a_change_belongs_to_the_periods_in_which_it_was_under_way() -> None:
    row = made()
    eight, nine, ten = (datetime(2026, 11, 23, hour, tzinfo=UTC) for hour in (8, 9, 10))
    assert row.within(None, None)
    assert row.within(nine, nine + timedelta(seconds=1))
    assert not row.within(ten + timedelta(seconds=1), None)
    assert not row.within(None, eight)
    assert replace(row, ended_at="").within(ten + timedelta(days=9), None), "it has not ended"
