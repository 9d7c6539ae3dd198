"""What a held Deployment asks for."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from controller.core.intake import Ask, LeaveAlone, LetGo, Record, Rehold, intake
from controller.core.model import LOCKED, Change, Deployment, Held, Other, Phase, ReplicaSet
from controller.core.policy import ChangeType

TODAY = date(2026, 11, 23)
ID = "CHG-20261123-001"


def deployment(held: str = "true", change: str = ID, revision: str = "new", **annotations: str) -> Deployment:
    named = {f"serin.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return Deployment(
        name="shop", namespace="demo", uid="u", resource_version="1", replicas=2, total=2, updated=0, ready=2,
        available=2, observed=True, paused=bool(held), held=held, change=change, revision=revision, template={},
        selector={"app": "shop"}, recreate=False, unavailable_max=0, progress_deadline_seconds=600,
        min_ready_seconds=0, annotations={"serin.dev/requested-by": "alice", **named}, labels={},
    )  # fmt: skip


def known(phase: Phase, change_id: str = ID, revision: str = "new", own: str = "") -> tuple[Change, Other]:
    change = Change("demo", change_id.lower(), change_id, ChangeType.NORMAL, revision=own, deployments=("shop",))
    return change, Other("demo", change.name, change_id, phase, {"shop": revision}, rejected=False)


def asked(d: Deployment, *changes: tuple[Change, Other], running: str = "old") -> Any:
    sets = [ReplicaSet("shop-1", "r", "1", running, 2, 2, 1)] if running else []
    return intake(Ask(d, sets, changes, [c.change_id for c, _ in changes]), TODAY)


def test_a_new_template_is_recorded_with_who_asked_and_what_they_said() -> None:
    record = asked(deployment(type="standard", description="Checkout v2", risk="Low"))
    assert record == Record(
        ID.lower(),
        {
            "changeId": ID,
            "type": "standard",
            "requestedBy": "alice",
            "deployments": ["shop"],
            "description": "Checkout v2",
            "impact": {"risk": "low"},
        },
    )


def test_a_template_that_runs_already_is_released() -> None:
    assert asked(deployment(revision="old")) == LetGo()


def test_a_template_that_ran_last_is_released_when_its_deployment_is_created_anew() -> None:
    bare = {"running": ""}
    older = known(Phase.COMPLETED, "CHG-20261120-001", "older")
    assert asked(deployment(revision="older"), older, **bare) == LetGo()
    newest = (older[0], replace(older[1], revisions={"shop": "new"}, ended_at=datetime(2026, 11, 22, tzinfo=UTC)))
    assert isinstance(asked(deployment(revision="older"), older, newest, **bare), Record), "others came after it"
    assert isinstance(asked(deployment(revision="older"), older), Record), "other pods serve"


@pytest.mark.parametrize(
    ("changes", "released"),
    [
        ({}, True),
        ({"cause": "Withdrawn"}, False),
        ({"uids": {"shop": "u"}}, False),
        ({"phase": Phase.PROGRESSING}, False),
    ],
    ids=["alone", "withdrawn", "the same", "not on its way back"],
)
def test_what_a_canary_alone_serves_is_released_when_its_deployment_is_created_anew(
    changes: dict[str, Any], released: bool
) -> None:
    change, other = known(Phase.ROLLING_BACK)
    left = replace(other, cause="DeploymentDeleted", uids={"shop": "deleted"})
    assert asked(deployment(), (change, replace(left, **changes)), running="") == (LetGo() if released else None)
    assert asked(deployment(), (change, left)) is None, "other pods serve"


@pytest.mark.parametrize("held", ["", "rejected"])
def test_what_is_not_held_asks_for_nothing(held: str) -> None:
    assert asked(deployment(held=held)) is None


@pytest.mark.parametrize("held", sorted(LOCKED))
def test_a_mark_without_a_running_change_is_held_anew(held: str) -> None:
    assert asked(deployment(held=held)) == Rehold()
    assert asked(deployment(held=held), known(Phase.PROMOTING)) is None


@pytest.mark.parametrize("held", list(Held))
def test_what_a_newer_version_wrote_is_never_guessed(held: Held) -> None:
    change, other = known(Phase.WAITING)
    unread = replace(other, revisions={}, unreadable="UnknownStatus: status.phase is 'Resting'")
    left = asked(deployment(held=held), (change, unread))
    assert isinstance(left, LeaveAlone)
    assert left.message.startswith(f"{ID}: UnknownStatus: status.phase is 'Resting'")
    assert asked(deployment(held=""), (change, unread)) is None


def test_auto_takes_the_next_number_and_keeps_it_for_that_revision() -> None:
    taken = known(Phase.COMPLETED, "CHG-20261123-007", "older")
    first = asked(deployment(change="auto"), taken)
    assert (first.name, first.spec["revision"]) == ("chg-20261123-008", "new")
    again = asked(deployment(change="auto"), taken, known(Phase.WAITING, "CHG-20261123-008", own="new"))
    assert again.name == "chg-20261123-008"


@pytest.mark.parametrize(
    ("d", "changes", "reason"),
    [
        (deployment(change="CHG-1"), [], "InvalidChangeID"),
        (deployment(), [known(Phase.COMPLETED, revision="older")], "ChangeClosed"),
        (deployment(), [known(Phase.PROGRESSING, revision="older")], "ChangeRunning"),
    ],
    ids=["malformed", "closed", "running"],
)
def test_what_cannot_run_is_recorded_as_refused(
    d: Deployment, changes: list[tuple[Change, Other]], reason: str
) -> None:
    record = asked(d, *changes)
    assert record.name == "refused-shop"
    assert record.spec["problem"].startswith(f"{reason}: ")


def test_what_was_approved_keeps_its_form() -> None:
    change, other = known(Phase.WAITING)
    amended = deployment(description="something else")
    assert asked(amended, (change, replace(other, approved=True))) is None
    assert asked(amended, (change, other)), "until then it may be amended"
    newer = deployment(revision="newer", description="something else")
    assert asked(newer, (change, replace(other, approved=True))), "approvals are for one template"
    broken = replace(change, problem="InvalidForm: mend it")
    assert asked(amended, (broken, replace(other, approved=True)))
    numbered, of = known(Phase.WAITING, own="new")
    assert asked(deployment(change="auto"), (numbered, replace(of, approved=True))) is None


def test_an_unknown_type_is_recorded_as_it_was_written() -> None:
    record = asked(deployment(type="hot\x1bfix"))
    assert record.spec["type"] == "hot\\x1bfix"
    assert record.spec["problem"].startswith("UnknownType: ")
    assert asked(deployment(type="")).spec["type"], "the kind requires one"


def test_its_own_running_change_is_left_alone() -> None:
    assert asked(deployment(), known(Phase.PROGRESSING)) is None
