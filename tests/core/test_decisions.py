"""What people decide, over the real loop in virtual time: who counts, for what, for how long, and what follows."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml

from controller.cluster.read import Key
from controller.core import decisions, gates
from controller.core.decide import RULES, worth_committing
from controller.core.model import Action, Change, Decision, Measurements, Other, Outcome, Phase, Review, Ruling, State
from controller.core.policy import Analysis, ChangeType, Policy, Statistical, parse_policy
from controller.core.recurrence import Recurrence
from controller.core.windows import Freeze, OnClose, Opening, Window
from controller.metrics.presets import PRESETS
from tests.simulation.test_world import SHIPPED
from tests.simulation.world import BEGIN, Trouble, World

MINUTE = timedelta(minutes=1)
REVIEW = Review(Outcome.SUCCESSFUL, "all met", "none")


def shipped(kind: ChangeType) -> Policy:
    spec = yaml.safe_load((SHIPPED / f"{kind}.yaml").read_text())["spec"]
    for without in ("form", "window", "scope", "after"):
        spec.pop(without, None)
    return replace(parse_policy(spec, frozenset(PRESETS)), analysis=Analysis(Statistical.OFF))


class Desk(World):
    """A change that alice asked for, and people who decide about it."""

    def __init__(self, kind: ChangeType = ChangeType.NORMAL, policy: Policy | None = None, **trouble: Any) -> None:
        super().__init__(policy or shipped(kind), Trouble(**trouble))
        self.change = replace(
            self.change, type=kind, requested_by="alice", author="ann", created_at=BEGIN - MINUTE, spec={}
        )
        self.told: list[tuple[str, str]] = []
        self.pass_by(MINUTE)

    async def event(self, subject: dict[str, Any], reason: str, message: str, *, warning: bool) -> None:
        self.told.append((reason, message))

    def pass_by(self, time: timedelta) -> State:
        return asyncio.run(self.run(self.now - BEGIN + time))

    def after_the_end(self, time: timedelta = timedelta()) -> State:
        """A look at a change that has ended, this much later."""
        self.now += time
        for _ in range(3):
            asyncio.run(self.look())
        return self.state

    async def look(self) -> None:
        await self.reconciler.reconcile(Key("ChangeRequest", "demo", self.change.name))
        await asyncio.sleep(0)

    def decide(self, action: Action, by: str = "bob", **fields: Any) -> Decision:
        made = Decision(
            uid=f"d{len(self.decisions)}",
            name="decision",
            namespace="demo",
            change_id=self.change.change_id,
            change_uid=self.change.uid,
            revision=self.state.revision,
            type=self.change.type or "",
            action=action,
            by=by,
            created_at=self.now,
            reason="because",
            authorized=True,
        )
        made = replace(made, **fields)
        self.decisions = (*self.decisions, made)
        return made

    def ruling(self) -> Ruling:
        return self.state.decisions[-1]


def approved(**options: Any) -> Desk:
    desk = Desk(**options)
    desk.decide(Action.APPROVE, tests="https://ci/1")
    desk.pass_by(MINUTE)
    assert desk.state.phase is Phase.PROGRESSING
    return desk


# --- Approval ---


def test_a_normal_change_waits_for_an_approval_however_long_and_says_whose() -> None:
    desk = Desk()
    desk.now += timedelta(days=3)
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.reason, state.approval) == (Phase.WAITING, "AwaitingApproval", "0 of 1")
    assert "may approve changetypes/normal, but not alice, ann: kubectl serin approve CHG-20261123-001" in state.message
    assert state.revision == "new"


def test_an_approval_that_states_the_tests_starts_it() -> None:
    desk = approved()
    assert desk.state.approval == "1 of 1: bob"
    assert desk.ruling().counts
    assert ("Decided", "CHG-20261123-001: Approve by bob: because") in desk.told


def test_an_approval_without_tests_is_not_enough() -> None:
    desk = Desk()
    desk.decide(Action.APPROVE)
    assert desk.pass_by(MINUTE).reason == "TestsUnverified"
    desk.decide(Action.APPROVE, tests="ran them by hand")
    assert desk.pass_by(MINUTE).phase is Phase.PROGRESSING


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"by": "alice"}, "SelfApproval"),
        ({"by": "ann"}, "SelfApproval"),
        ({"change_uid": "of another"}, "AnotherChange"),
        ({"revision": "older"}, "AnotherRevision"),
        ({"type": "standard"}, "AnotherType"),
        ({"created_at": BEGIN - 2 * MINUTE}, "DecidedBefore"),
        ({"authorized": False}, "NotAuthorized"),
        ({"expires_at": BEGIN}, "Expired"),
        ({"by": "system:serviceaccount:ci:robot"}, "ServiceAccount"),
    ],
)
def test_what_does_not_count_is_refused_once_recorded_and_told(fields: dict[str, Any], reason: str) -> None:
    desk = Desk()
    desk.decide(Action.APPROVE, **{"tests": "yes", **fields})
    state = desk.pass_by(5 * MINUTE)
    assert (state.phase, state.reason) == (Phase.WAITING, "AwaitingApproval")
    assert [r.refusal.partition(":")[0] for r in state.decisions] == [reason]
    assert [told for told, _ in desk.told].count("DecisionRefused") == 1


def test_each_of_these_would_count_but_for_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_refusals", lambda *_: iter(()))
    monkeypatch.setattr(decisions, "asked_for", lambda *_: False)
    desk = Desk()
    desk.decide(Action.APPROVE, by="alice", tests="yes")
    assert desk.pass_by(MINUTE).phase is Phase.PROGRESSING


def test_rights_that_cannot_be_asked_for_are_neither_yes_nor_no() -> None:
    desk = Desk()
    decision = desk.decide(Action.APPROVE, tests="yes", authorized=None)
    assert desk.pass_by(MINUTE).decisions == ()
    desk.decisions = (replace(decision, authorized=True),)
    assert desk.pass_by(MINUTE).phase is Phase.PROGRESSING


@pytest.mark.parametrize("how", ["revoked", "deleted", "expired"])
def test_an_approval_that_no_longer_stands_does_not_start_it(how: str) -> None:
    two = replace(shipped(ChangeType.NORMAL), approval=replace(shipped(ChangeType.NORMAL).approval, required=2))
    desk = Desk(policy=two)
    first = desk.decide(Action.APPROVE, tests="yes", expires_at=desk.now + 2 * MINUTE if how == "expired" else None)
    assert desk.pass_by(MINUTE).approval == "1 of 2: bob"
    desk.decisions = {"revoked": (replace(first, authorized=False),), "deleted": (), "expired": (first,)}[how]
    desk.pass_by(2 * MINUTE)
    desk.decide(Action.APPROVE, by="carol", uid="another")
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.approval) == (Phase.WAITING, "1 of 2: carol")


@pytest.mark.parametrize("how", ["revoked", "deleted"])
def test_what_runs_goes_on_when_its_approval_is_gone(how: str) -> None:
    """It was approved when it started, and that is in the record; whoever wants it back rolls it back."""
    desk = approved()
    (approval,) = desk.decisions
    desk.decisions = (replace(approval, authorized=False),) if how == "revoked" else ()
    state = desk.pass_by(timedelta(hours=2))
    assert (state.phase, state.approval) == (Phase.COMPLETED, "1 of 1: bob")
    assert [(r.by, r.counts) for r in state.decisions] == [("bob", True)]


def test_two_approvals_of_one_person_are_one() -> None:
    two = replace(shipped(ChangeType.NORMAL), approval=replace(shipped(ChangeType.NORMAL).approval, required=2))
    desk = Desk(policy=two)
    desk.decide(Action.APPROVE, tests="yes")
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(MINUTE).approval == "1 of 2: bob"


def test_approvals_are_for_one_revision() -> None:
    desk = Desk()
    desk.decide(Action.PAUSE, by="carol")
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(MINUTE).reason == "Paused"
    desk.revision = "amended"
    desk.decide(Action.RESUME, by="carol")
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.reason, state.revision) == (Phase.WAITING, "AwaitingApproval", "amended")


@pytest.mark.parametrize("what", ["author", "type", "strategy"])
def test_an_amendment_voids_what_was_approved(what: str) -> None:
    """bob approves and, before it starts, changes it: he is a requester then, and it is not what he approved."""
    desk = Desk()
    desk.decide(Action.PAUSE, by="carol")
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(MINUTE).approval == "1 of 1: bob"
    if what == "author":
        desk.requested_by = "bob"
    elif what == "strategy":
        desk.strategy = {"type": "Recreate"}
    else:
        desk.change = replace(desk.change, type=ChangeType.EMERGENCY)
    desk.decide(Action.RESUME, by="carol", type=desk.change.type or "")
    state = desk.pass_by(MINUTE)
    assert decisions.last(state, Action.APPROVE) is None
    if what != "type":
        assert (state.phase, state.reason) == (Phase.WAITING, "AwaitingApproval")


@pytest.mark.parametrize(
    ("requester", "decider"),
    [
        ("alice", "alice"),
        ("Alice <alice@example.com>", "alice"),
        ("Alice <alice@example.com>", "oidc:alice@example.com"),
        ("alice", "https://idp.example#alice"),
        ("ALICE@example.com", "alice@example.com"),
        ("bob, alice", "alice"),
    ],
)
def test_one_person_under_two_names(requester: str, decider: str) -> None:
    assert decisions.asked_for(State(requesters=(requester,)), decider)


@pytest.mark.parametrize(
    ("requester", "decider"), [("alice", "bob"), ("alice", "alicea"), ("", "bob"), ("malice", "alice")]
)
def test_two_people(requester: str, decider: str) -> None:
    assert not decisions.asked_for(State(requesters=(requester,)), decider)


@pytest.mark.parametrize("gate", [gates.awaiting_approval, gates.tests_unverified, gates.paused, gates.review_overdue])
def test_each_gate_holds_alone(monkeypatch: pytest.MonkeyPatch, gate: Any) -> None:
    """A control: without the gate the change starts."""

    def scene() -> State:
        normal = shipped(ChangeType.NORMAL)
        tests = replace(normal.approval, tests=gate is gates.tests_unverified)
        desk = Desk(policy=replace(normal, approval=tests, review=replace(normal.review, blocks=True)))
        if gate is not gates.awaiting_approval:
            desk.decide(Action.APPROVE, tests="" if gate is gates.tests_unverified else "yes")
        if gate is gates.paused:
            desk.decide(Action.PAUSE)
        if gate is gates.review_overdue:
            desk.others = (replace(EARLIER, review_due_at=BEGIN - MINUTE),)
        return desk.pass_by(MINUTE)

    assert scene().phase is Phase.WAITING
    rules = RULES[Phase.WAITING]
    monkeypatch.setitem(RULES, Phase.WAITING, replace(rules, hold=tuple(r for r in rules.hold if r is not gate)))
    assert scene().phase is Phase.PROGRESSING


class Ailing(Desk):
    """Before the change a twentieth of the requests fails already."""

    def measurements(self) -> Measurements:
        found = super().measurements()
        sick = {
            key: replace(arm, samples=tuple(replace(s, bad=s.total / 20) for s in arm.samples))
            for key, arm in found.arms.items()
            if key[2] == "stable"
        }
        return replace(found, arms={**found.arms, **sick})


def test_a_service_that_is_out_of_budget_is_left_alone_unless_an_approver_knows() -> None:
    desk = Ailing()
    desk.decide(Action.APPROVE, tests="yes")
    state = desk.pass_by(5 * MINUTE)
    assert (state.phase, state.reason) == (Phase.WAITING, "StableOutOfBudget")
    assert "error-rate of shop is broken before the change: 5% bad, limit 1%" in state.message
    desk.decide(Action.APPROVE, by="carol", tests="yes", over_budget=True)
    assert desk.pass_by(MINUTE).phase is Phase.PROGRESSING


def test_a_service_that_is_out_of_budget_may_get_an_emergency() -> None:
    assert Ailing(ChangeType.EMERGENCY).state.phase is Phase.PROGRESSING


def test_without_its_gate_a_change_starts_over_a_broken_service(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RULES[Phase.WAITING]
    kept = tuple(rule for rule in rules.hold if rule is not gates.stable_out_of_budget)
    monkeypatch.setitem(RULES, Phase.WAITING, replace(rules, hold=kept))
    desk = Ailing()
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(5 * MINUTE).phase is Phase.PROGRESSING


# --- No, stop, back, and on ---


def test_a_denial_ends_it_for_good() -> None:
    desk = Desk()
    desk.decide(Action.DENY, reason="not this week")
    state = desk.pass_by(5 * MINUTE)
    assert (state.phase, state.cause) == (Phase.DENIED, "Denied")
    assert "bob denied it: not this week" in state.history[-2].message
    assert (desk.held, desk.paused) == ("rejected", True)
    assert state.closed_at
    assert desk.own.keys() == {"old"}


def test_a_pause_holds_and_a_resume_goes_on() -> None:
    desk = approved()
    desk.decide(Action.PAUSE, by="alice", reason="lunch")
    state = desk.pass_by(timedelta(hours=1))
    assert (state.reason, state.step) == ("Paused", 1)
    assert "by alice since" in state.message
    desk.decide(Action.RESUME, by="alice")
    assert desk.pass_by(timedelta(hours=1)).phase is Phase.COMPLETED


def test_what_is_paused_goes_back_all_the_same() -> None:
    desk = approved(errors_from=300)
    desk.decide(Action.PAUSE)
    assert desk.pass_by(timedelta(hours=1)).cause == "ErrorRate"


@pytest.mark.parametrize("when", [2 * MINUTE, 33 * MINUTE])
def test_a_person_rolls_back_before_and_during_the_promotion(when: timedelta) -> None:
    desk = approved()
    desk.pass_by(when)
    if when > 30 * MINUTE:
        while desk.state.phase is Phase.PROGRESSING:
            desk.pass_by(timedelta(seconds=1))
        assert desk.state.phase is Phase.PROMOTING
    desk.decide(Action.ROLLBACK, by="alice", reason="users complain")
    state = desk.pass_by(10 * MINUTE)
    assert (state.phase, state.cause, state.rejected) == (Phase.ROLLED_BACK, "RollbackRequested", True)
    assert (desk.failed, desk.lost) == (0, 0)


def test_promote_skips_the_bakes_and_not_the_verdicts() -> None:
    desk = approved()
    desk.decide(Action.PROMOTE)
    state = desk.pass_by(5 * MINUTE)
    assert state.phase is Phase.COMPLETED
    assert [r.weight for r in state.history if r.phase is Phase.PROGRESSING] == [10, 50, 100]
    silent = approved(silent_from=90)
    silent.decide(Action.PROMOTE)
    assert silent.pass_by(10 * MINUTE).step == 1


def test_a_bypass_opens_the_gates_for_its_time_and_is_said() -> None:
    desk = Desk()
    desk.decide(Action.BYPASS, expires_at=desk.now + timedelta(hours=5))
    assert "BypassTooLong" in desk.pass_by(MINUTE).decisions[0].refusal
    desk.decide(Action.BYPASS, expires_at=desk.now + timedelta(hours=1))
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.approval) == (Phase.PROGRESSING, "bypassed by bob")


@pytest.mark.parametrize("action", [Action.ROLLBACK, Action.PROMOTE, Action.REVIEW])
def test_what_comes_too_early_does_not_wait_for_its_time(action: Action) -> None:
    desk = Desk()
    desk.decide(action, review=REVIEW)
    assert "Untimely" in desk.pass_by(MINUTE).decisions[0].refusal
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(20 * MINUTE).phase is Phase.PROGRESSING


# --- After the end ---

EARLIER = Other(
    "demo", "chg-20261101-001", "CHG-20261101-001", Phase.COMPLETED, {"shop": "old"}, rejected=False, ended_at=BEGIN
)


def test_a_review_by_someone_else_closes_it() -> None:
    desk = approved()
    state = desk.pass_by(timedelta(hours=1))
    assert (state.phase, state.closed_at) == (Phase.COMPLETED, None)
    assert state.review_due_at == (state.ended_at or BEGIN) + timedelta(days=7)
    desk.decide(Action.REVIEW, by="alice", review=REVIEW)
    assert "SelfApproval" in desk.after_the_end().decisions[-1].refusal
    overdue = desk.after_the_end(timedelta(days=7))
    assert "ReviewOverdue" in overdue.warnings[0]
    assert [reason for reason, _ in desk.told].count("ReviewOverdue") == 1
    desk.decide(Action.REVIEW, review=REVIEW)
    state = desk.after_the_end(MINUTE)
    assert (state.closed_at, state.warnings, state.decisions[-1].review) == (desk.now, (), REVIEW)
    assert state.phase is Phase.COMPLETED


def test_the_audit_log_is_the_review_of_a_standard_change() -> None:
    desk = Desk(ChangeType.STANDARD)
    state = desk.pass_by(timedelta(hours=1))
    assert (state.phase, state.closed_at, state.approval) == (Phase.COMPLETED, state.ended_at, "pre-approved")


def test_an_emergency_starts_at_once_and_is_approved_afterwards() -> None:
    desk = Desk(ChangeType.EMERGENCY)
    assert desk.state.phase is Phase.PROGRESSING
    assert desk.state.approval == "declared; approval follows"
    state = desk.pass_by(20 * MINUTE)
    assert (state.phase, state.closed_at) == (Phase.COMPLETED, None)
    assert state.review_due_at == (state.ended_at or BEGIN) + timedelta(hours=24)
    desk.decide(Action.REVIEW, by="carol", review=REVIEW)
    assert desk.after_the_end(MINUTE).closed_at is None, "the CTO has not approved it"
    desk.decide(Action.APPROVE, by="cto")
    assert desk.after_the_end(MINUTE).closed_at


def test_nobody_approving_an_emergency_is_seen() -> None:
    desk = Desk(ChangeType.EMERGENCY)
    desk.pass_by(20 * MINUTE)
    texts = desk.after_the_end(timedelta(days=1)).warnings
    assert [text.partition(":")[0] for text in texts] == ["ApprovalOverdue", "ReviewOverdue", "NotificationOverdue"]


def test_an_emergency_that_is_denied_stands_still_until_it_goes_back_or_is_accepted() -> None:
    desk = Desk(ChangeType.EMERGENCY)
    desk.decide(Action.DENY, by="cto", reason="too risky")
    state = desk.pass_by(timedelta(hours=1))
    assert (state.phase, state.reason) == (Phase.PROGRESSING, "ApprovalDenied")
    assert "cto denied it afterwards: too risky" in state.message
    desk.decide(Action.APPROVE, by="cto")
    assert desk.pass_by(20 * MINUTE).phase is Phase.COMPLETED


def test_an_emergency_that_is_denied_after_its_end_is_never_silent() -> None:
    desk = Desk(ChangeType.EMERGENCY)
    desk.pass_by(20 * MINUTE)
    desk.decide(Action.DENY, by="cto", reason="too risky")
    desk.decide(Action.REVIEW, by="carol", review=REVIEW)
    state = desk.after_the_end(MINUTE)
    assert state.closed_at is None
    assert "ApprovalDenied: cto denied it afterwards: too risky; revert it" in state.warnings[0]


# --- A revert ---


def test_a_revert_to_the_revision_before_asks_nobody_and_bakes_shortly() -> None:
    desk = Desk(policy=shipped(ChangeType.NORMAL))
    assert not desk.state.revert
    desk.others = (replace(EARLIER, stable_revisions={"shop": "new"}),)
    state = desk.pass_by(6 * MINUTE)
    assert (state.phase, state.revert, state.approval) == (Phase.COMPLETED, True, "pre-approved: a revert")


@pytest.mark.parametrize(
    "other",
    [
        replace(EARLIER, stable_revisions={"shop": "even older"}),
        replace(EARLIER, stable_revisions={"shop": "new"}, phase=Phase.ROLLED_BACK),
        replace(EARLIER, stable_revisions={"shop": "new"}, revisions={"shop": "not the stable one"}),
        replace(EARLIER, stable_revisions={"shop": "new"}, namespace="elsewhere"),
    ],
)
def test_anything_else_is_no_revert(other: Other) -> None:
    desk = Desk()
    desk.others = (other,)
    assert desk.pass_by(MINUTE).reason == "AwaitingApproval"


def test_needing_rights() -> None:
    desk = Desk()
    decision = desk.decide(Action.APPROVE, authorized=None)
    assert decisions.needs_rights(State(), decision)
    taken = State(decisions=(Ruling(decision.uid, Action.APPROVE, "bob", BEGIN),))
    assert decisions.needs_rights(taken, decision), "while a gate rests on it"
    assert not decisions.needs_rights(replace(taken, phase=Phase.PROGRESSING), decision)


def test_the_verbs() -> None:
    verbs = {action: action.verb for action in Action}
    assert verbs == {
        Action.APPROVE: "approve",
        Action.DENY: "approve",
        Action.ROLLBACK: "rollback",
        Action.PROMOTE: "promote",
        Action.PAUSE: "pause",
        Action.RESUME: "pause",
        Action.REVIEW: "review",
        Action.BYPASS: "bypass",
    }


def test_the_requesters_of_a_group_are_all_who_applied() -> None:
    """alice and bob each applied a Deployment of one change: neither of them approves it."""
    desk = Desk()
    desk.requested_by = "bob"
    desk.pass_by(MINUTE)
    desk.decide(Action.APPROVE, tests="yes")
    assert "SelfApproval" in desk.pass_by(MINUTE).decisions[-1].refusal
    assert isinstance(desk.change, Change)


# --- Windows ---


def windowed(on_close: OnClose = OnClose.FINISH) -> Policy:
    """From 09:00, an hour after the World begins, to 11:00, and from 12:00 to 14:00 UTC."""
    opens = (
        Recurrence("mornings", "FREQ=DAILY", "09:00", timedelta(hours=2), "UTC"),
        Recurrence("evenings", "FREQ=DAILY", "12:00", timedelta(hours=2), "UTC"),
    )
    return replace(shipped(ChangeType.NORMAL), window=Window(opens, on_close=on_close))


def test_the_opening_it_will_use_is_in_the_record_before_it_is_approved() -> None:
    desk = Desk(policy=windowed())
    assert desk.state.reason == "AwaitingApproval"
    assert desk.state.window == Opening(BEGIN + timedelta(hours=1), BEGIN + timedelta(hours=3), "mornings", "UTC")


def test_an_approved_change_starts_when_its_window_opens() -> None:
    desk = Desk(policy=windowed())
    desk.decide(Action.APPROVE, tests="yes")
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.reason) == (Phase.WAITING, "OutsideWindow")
    desk.now += 57 * MINUTE
    desk.pass_by(5 * MINUTE)
    assert BEGIN + timedelta(hours=1) <= (desk.state.started_at or BEGIN) <= BEGIN + timedelta(hours=1, minutes=1)


def test_what_cannot_finish_inside_waits_for_the_next_opening() -> None:
    desk = Desk(policy=windowed())
    desk.now += timedelta(hours=2)
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(MINUTE).reason == "OutsideWindow"
    assert "what starts now has to be done by Mon 2026-11-23 11:00 UTC; this needs 1h20m30s" in desk.state.message
    assert desk.state.window == Opening(BEGIN + timedelta(hours=4), BEGIN + timedelta(hours=6), "evenings", "UTC")


@pytest.mark.parametrize(
    "window",
    [
        windowed().window,
        Window(freezes=(Freeze("sale", "shop", BEGIN + timedelta(hours=5), BEGIN + timedelta(days=2)),)),
    ],
    ids=["an opening", "until a freeze"],
)
def test_the_record_of_its_opening_stays_as_it_is_while_it_waits_for_people(window: Window) -> None:
    """It would be a write each minute for each change that could start but for its approval."""
    desk = Desk(policy=replace(windowed(), window=window))
    desk.pass_by(timedelta(hours=1))
    before = desk.state
    assert before.window
    after = desk.pass_by(10 * MINUTE)
    assert after.reason == before.reason == "AwaitingApproval"
    assert after.window == before.window
    assert not worth_committing(before, after)


@pytest.mark.parametrize("what", ["emergency", "revert", "bypass"])
def test_no_window_and_no_freeze_binds_what_is_urgent(what: str) -> None:
    frozen = Freeze("the sale", "sre", BEGIN - timedelta(days=1), BEGIN + timedelta(days=9))
    window = replace(windowed().window, freezes=(frozen,))
    kind = ChangeType.EMERGENCY if what == "emergency" else ChangeType.NORMAL
    desk = Desk(kind, replace(shipped(kind), window=window))
    if what == "revert":
        desk.others = (replace(EARLIER, stable_revisions={"shop": "new"}),)
    if what == "bypass":
        desk.decide(Action.BYPASS, expires_at=desk.now + timedelta(hours=1))
    state = desk.pass_by(MINUTE)
    assert (state.phase, state.window) == (Phase.PROGRESSING, None)


def test_a_freeze_holds_what_is_approved_and_says_whose_it_is() -> None:
    frozen = Freeze("the sale", "sre", BEGIN - timedelta(days=1), BEGIN + timedelta(days=9))
    desk = Desk(policy=replace(shipped(ChangeType.NORMAL), window=Window(freezes=(frozen,))))
    desk.decide(Action.APPROVE, tests="yes")
    state = desk.pass_by(MINUTE)
    assert state.reason == "Frozen"
    assert "by sre: the sale" in state.message


def test_without_the_gate_it_starts_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RULES[Phase.WAITING]
    kept = tuple(rule for rule in rules.hold if rule is not gates.outside_window)
    monkeypatch.setitem(RULES, Phase.WAITING, replace(rules, hold=kept))
    desk = Desk(policy=windowed())
    desk.decide(Action.APPROVE, tests="yes")
    assert desk.pass_by(MINUTE).phase is Phase.PROGRESSING


@pytest.mark.parametrize(
    ("on_close", "end"),
    [
        (OnClose.FINISH, (Phase.COMPLETED, "Completed")),
        (OnClose.HOLD, (Phase.PROGRESSING, "WindowClosed")),
        (OnClose.ROLL_BACK, (Phase.ROLLED_BACK, "WindowClosed")),
    ],
)
def test_a_window_that_closes_over_a_running_change(on_close: OnClose, end: tuple[Phase, str]) -> None:
    desk = Desk(policy=windowed(on_close))
    desk.decide(Action.APPROVE, tests="yes")
    desk.now += 58 * MINUTE
    desk.pass_by(5 * MINUTE)
    assert desk.state.phase is Phase.PROGRESSING
    desk.decide(Action.PAUSE)
    desk.pass_by(115 * MINUTE)
    desk.decide(Action.RESUME)
    state = desk.pass_by(50 * MINUTE)
    assert (state.phase, state.reason) == end
    if on_close is OnClose.HOLD:
        assert desk.pass_by(timedelta(hours=1)).phase is Phase.COMPLETED, "in the next opening"


def test_what_is_rolled_back_needs_no_window() -> None:
    desk = Desk(policy=windowed(OnClose.HOLD), errors_from=3 * 3600 + 600)
    desk.now += 58 * MINUTE
    desk.decide(Action.APPROVE, tests="yes")
    desk.pass_by(5 * MINUTE)
    desk.decide(Action.PAUSE)
    desk.pass_by(timedelta(hours=2))
    desk.decide(Action.RESUME)
    assert desk.pass_by(30 * MINUTE).cause == "ErrorRate"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_decisions_of_one_second_the_cautious_one_counts(order: tuple[int, int]) -> None:
    """The API server's moments have whole seconds."""
    for cautious, bold, asked in (
        (Action.DENY, Action.APPROVE, decisions.objection),
        (Action.PAUSE, Action.RESUME, decisions.pause),
    ):
        made = (Ruling("d1", cautious, "ann", BEGIN), Ruling("d2", bold, "bob", BEGIN))
        state = State(decisions=tuple(made[i] for i in order))
        assert asked(state) == made[0]
        later = replace(made[1], at=BEGIN + timedelta(seconds=1))
        assert asked(State(decisions=(made[0], later))) is None
