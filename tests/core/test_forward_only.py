"""Changes that cannot go back: evidence holds them, and only a person, or the end of their object, takes them back."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.core import gates
from controller.core.decide import RULES
from controller.core.form import forward_only
from controller.core.model import Action, Change, Measurements, Observation, Phase, State
from controller.core.policy import ChangeType
from controller.telemetry import Telemetry
from tests.core.test_decisions import MINUTE, Desk
from tests.simulation.world import BEGIN

HOUR = timedelta(hours=1)


class Migration(Desk):
    def __init__(self, kind: ChangeType = ChangeType.NORMAL, rollback: str = "forwardOnly", **trouble: Any) -> None:
        self.rollback = rollback
        super().__init__(kind, **trouble)

    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation:
        spec = {**(change.spec or {}), "rollback": self.rollback}
        return await super().observe(replace(change, spec=spec), state, measurements)


def started(rollback: str = "forwardOnly", **trouble: Any) -> Migration:
    desk = Migration(rollback=rollback, **trouble)
    desk.decide(Action.APPROVE, tests="yes", forward_only=True)
    assert desk.pass_by(MINUTE).phase is Phase.PROGRESSING
    return desk


EVIDENCE: dict[str, dict[str, Any]] = {
    "ErrorRate": {"errors_from": 300, "error_ratio": 0.2},
    "CrashLoop": {"crash_at": 300},
    "Inconclusive": {"silent_from": 300},
    "ProgressDeadline": {"never_ready": True},
}


@pytest.mark.parametrize("reason", EVIDENCE)
def test_evidence_holds_it_where_it_is_and_says_who_takes_it_back(reason: str) -> None:
    desk = started(**EVIDENCE[reason])
    (before,) = desk.ways.values()
    weight = before.weight
    state = desk.pass_by(2 * HOUR)
    assert (state.phase, state.step, state.weight, state.reason) == (Phase.PROGRESSING, 1, 10, reason)
    (after,) = desk.ways.values()
    assert (after.weight, state.cause, state.rejected) == (weight, "", False)
    assert "it cannot go back by itself (forwardOnly) and stays at 10 %" in state.message
    assert "rollback changetypes/normal takes it back: kubectl serin rollback CHG-20261123-001 -n demo" in state.message
    assert state.warnings[-1].startswith(f"CannotGoBack: {reason}, and it cannot go back by itself")
    told = [text for why, text in desk.told if why == "CannotGoBack"]
    assert [text.split(",")[0] for text in told].count(reason) == 1
    assert not any("goes on with" in text for text in told)


@pytest.mark.parametrize("reason", EVIDENCE)
def test_the_same_evidence_rolls_any_other_change_back(reason: str) -> None:
    """A control."""
    state = started(rollback="", **EVIDENCE[reason]).pass_by(2 * HOUR)
    assert (state.phase, state.cause) == (Phase.ROLLED_BACK, reason)


def test_a_person_takes_it_back_all_the_same() -> None:
    desk = started(**EVIDENCE["ErrorRate"])
    assert desk.pass_by(HOUR).reason == "ErrorRate"
    desk.decide(Action.ROLLBACK, reason="users complain more than the data would")
    state = desk.pass_by(10 * MINUTE)
    assert (state.phase, state.cause, state.rejected) == (Phase.ROLLED_BACK, "RollbackRequested", True)


@pytest.mark.parametrize("how", [{"new_template_at": 900}, {"deleted_at": 900}])
def test_it_ends_when_it_is_no_longer_wanted(how: dict[str, Any]) -> None:
    assert started(**EVIDENCE["ErrorRate"], **how).pass_by(2 * HOUR).phase is Phase.SUPERSEDED


def test_it_goes_on_when_the_evidence_is_over() -> None:
    desk = started(errors_from=300, errors_until=1200)
    assert desk.pass_by(10 * MINUTE).reason == "ErrorRate"
    state = desk.pass_by(2 * HOUR)
    assert (state.phase, state.warnings) == (Phase.COMPLETED, ())


def test_errors_in_its_promotion_do_not_undo_it() -> None:
    desk = started(errors_from=36 * 60)
    state = desk.pass_by(2 * HOUR)
    assert (state.phase, state.reason, desk.revision) == (Phase.PROMOTING, "ErrorRate", "new")


# --- Its approval ---


def test_an_approval_has_to_say_that_it_knows() -> None:
    desk = Migration()
    assert desk.state.forward_only
    desk.decide(Action.APPROVE, tests="yes")
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.reason) == (Phase.WAITING, "ForwardOnlyUnsaid")
    assert "kubectl serin approve CHG-20261123-001 -n demo --forward-only" in state.message
    desk.decide(Action.APPROVE, by="carol", forward_only=True)
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.decisions[-1].forward_only) == (Phase.PROGRESSING, True)


def test_an_approval_given_before_it_was_said_is_not_enough() -> None:
    desk = Migration(rollback="")
    desk.decide(Action.PAUSE)
    desk.decide(Action.APPROVE, tests="yes")
    desk.pass_by(MINUTE)
    desk.rollback = "forwardOnly"
    desk.decide(Action.RESUME)
    assert desk.pass_by(MINUTE).reason == "ForwardOnlyUnsaid"


def test_nobody_makes_it_so_under_way() -> None:
    desk = started(rollback="", **EVIDENCE["ErrorRate"])
    desk.rollback = "forwardOnly"
    assert desk.pass_by(HOUR).phase is Phase.ROLLED_BACK
    desk = started(**EVIDENCE["ErrorRate"])
    desk.rollback = ""
    assert desk.pass_by(HOUR).phase is Phase.PROGRESSING


def test_an_emergency_is_approved_afterwards() -> None:
    desk = Migration(ChangeType.EMERGENCY)
    assert (desk.state.phase, desk.state.forward_only) == (Phase.PROGRESSING, True)


def test_what_is_pre_approved_can_go_back() -> None:
    desk = Migration(ChangeType.STANDARD)
    assert (desk.state.phase, desk.state.reason) == (Phase.WAITING, "NotStandard")
    assert "ask for a normal one with the annotation serin.dev/type=normal" in desk.state.message
    desk.rollback = "automatic"
    assert desk.pass_by(2 * MINUTE).phase is Phase.PROGRESSING


@pytest.mark.parametrize(
    ("gate", "kind"),
    [(gates.forward_only_unsaid, ChangeType.NORMAL), (gates.standard_cannot_go_back, ChangeType.STANDARD)],
)
def test_each_gate_holds_alone(monkeypatch: pytest.MonkeyPatch, gate: Any, kind: ChangeType) -> None:
    """A control: without the gate the change starts."""
    rules = RULES[Phase.WAITING]
    monkeypatch.setitem(RULES, Phase.WAITING, replace(rules, hold=tuple(r for r in rules.hold if r is not gate)))
    desk = Migration(kind)
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(MINUTE).phase is Phase.PROGRESSING


@pytest.mark.parametrize(
    ("spec", "says"),
    [({"rollback": "forwardOnly"}, True), ({"rollback": "automatic"}, False), ({}, False), (None, False)],
)
def test_the_form_says_it(spec: Any, says: bool) -> None:
    assert forward_only(spec) is says


def test_it_is_seen_in_metrics() -> None:
    def series(*warnings: str) -> Iterator[str]:
        telemetry = Telemetry(lambda: BEGIN)
        state = State(phase=Phase.PROGRESSING, warnings=warnings)
        change = Desk().change
        telemetry.decision(change, state, state, Observation(change, {}, None))
        body = telemetry.exposition()[0].decode()
        return (line for line in body.splitlines() if line.startswith("serin_change_cannot_go_back{"))

    assert list(series("CannotGoBack: ErrorRate, and it stays")) == [
        'serin_change_cannot_go_back{change="CHG-20261123-001",namespace="demo"} 1.0'
    ]
    assert list(series()) == []
