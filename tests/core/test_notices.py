"""Who is told what, when, and until it has arrived."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import codec
from controller.core.decide import enter
from controller.core.model import Action, Change, Phase, Receipt, Ruling, Stage, State, Target, Told
from controller.core.notices import KEPT, TOLD_MAX, Route, next_deadline, notice_id, overdue, tell
from controller.core.policy import Approval, ChangeType, Policy, ReviewRules, Step, When

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
STEPS = (Step(10, timedelta(minutes=5)), Step(100, timedelta(minutes=5)))
NORMAL = Policy(
    STEPS,
    approval=Approval(1, respond_within=4 * HOUR, escalate_to="engineering-managers"),
    review=ReviewRules(due_within=timedelta(days=7)),
)
EMERGENCY = Policy(
    STEPS,
    approval=Approval(1, when=When.AFTER, notify_within=HOUR),
    review=ReviewRules(due_within=timedelta(days=1)),
)
CHANGE = Change(
    "shop",
    "chg-20261123-001",
    "CHG-20261123-001",
    ChangeType.NORMAL,
    uid="4f1d",
    requested_by="alice",
    spec={"description": "Checkout v2"},
)
URGENT = replace(CHANGE, type=ChangeType.EMERGENCY)
CHAT, PAGER = Route("chat"), Route("pager", audiences=("cto",))
TARGETS = (Target("shop", "d", "abc"),)
ASKING = State(reason="AwaitingApproval", revision="abc", requesters=("alice",), targets=TARGETS)


class Story:
    """A change as it is told, one commit after the other."""

    def __init__(self, policy: Policy, change: Change = CHANGE, sinks: tuple[Route, ...] = (CHAT,)) -> None:
        self.policy, self.change, self.sinks = policy, change, sinks
        self.state = State()
        self.now = NOW

    def commit(self, after: State, later: timedelta = timedelta(), *receipts: tuple[str, Receipt]) -> list[Told]:
        """What this commit adds. The state goes through the API server, which keeps milliseconds."""
        self.now += later
        before = self.state
        told = tell(before, after, self.change, self.policy, self.now, self.sinks, receipts)
        self.state = codec.decode(State, codec.encode(told))
        known = {each.what for each in before.told}
        return [each for each in self.state.told if each.what not in known]

    def wait(self, later: timedelta) -> list[str]:
        return kinds(self.commit(self.state, later))

    def enter(self, phase: Phase, reason: str, stage: Stage | None = None, step: int = 0) -> list[Told]:
        self.now += timedelta(seconds=1)
        after = enter(self.state, phase, self.now, reason, f"because {reason}", stage=stage, step=step, weight=0)
        return self.commit(after)


def kinds(told: list[Told]) -> list[str]:
    return [each.kind.removeprefix("dev.serin.") for each in told]


def started(policy: Policy = NORMAL) -> State:
    return replace(ASKING, started_at=NOW, policy=policy)


# --- The journey ---


def test_a_journey_is_told_from_the_request_to_its_end_each_part_once() -> None:
    story = Story(NORMAL)
    heard = kinds(story.commit(ASKING))
    story.state = replace(story.state, started_at=NOW, policy=NORMAL)
    for phase, reason, stage, step in [
        (Phase.PROGRESSING, "Started", None, 1),
        (Phase.PROGRESSING, "Advanced", None, 2),
        (Phase.PROMOTING, "Promoting", Stage.ROLL, 2),
        (Phase.PROMOTING, "Returning", Stage.RETURN, 2),
        (Phase.PROMOTING, "Draining", Stage.DRAIN, 2),
        (Phase.PROMOTING, "CleaningUp", Stage.CLEAN, 2),
        (Phase.COMPLETED, "Completed", None, 2),
    ]:
        heard += kinds(story.enter(phase, reason, stage, step))
        assert story.wait(timedelta(seconds=1)) == []
    assert heard == [
        "approval.requested",
        "change.started",
        "change.advanced",
        "change.promoting",
        "change.completed",
        "review.requested",
    ]
    assert len({notice_id(CHANGE, told) for told in story.state.told}) == len(heard)


def test_a_way_back_is_told_when_it_begins_with_its_cause_and_when_it_is_done() -> None:
    story = Story(NORMAL)
    story.state = replace(started(), cause="ErrorRate", outcome=Phase.ROLLED_BACK)
    for stage in (Stage.RECOVER, Stage.RETURN, Stage.DRAIN, Stage.CLEAN):
        story.enter(Phase.ROLLING_BACK, "ErrorRate", stage)
    story.enter(Phase.ROLLED_BACK, "ErrorRate")
    assert kinds(list(story.state.told)) == ["change.rollingback", "change.rolledback", "review.requested"]
    first = story.state.told[0]
    assert first.text == "shop/CHG-20261123-001 (normal): rolling back: ErrorRate: because ErrorRate"
    assert "oncall" in first.audience
    assert first.command == "kubectl serin status CHG-20261123-001 -n shop"


def test_what_ended_before_serin_told_anything_is_not_told_now() -> None:
    old = enter(State(), Phase.SUPERSEDED, NOW, "Withdrawn", "deleted", weight=0)
    assert tell(old, old, CHANGE, NORMAL, NOW, [CHAT]).told == ()


def test_an_approval_is_asked_for_anew_when_what_it_is_about_is_amended() -> None:
    story = Story(NORMAL)
    assert kinds(story.commit(ASKING)) == ["approval.requested"]
    assert "alice asks for your approval by 2026-11-23 12:00 UTC" in story.state.told[0].text
    assert "Checkout v2" in story.state.told[0].text
    assert story.state.told[0].command == "kubectl serin approve CHG-20261123-001 -n shop"
    assert story.wait(HOUR) == []
    assert kinds(story.commit(replace(story.state, revision="def"), HOUR)) == ["approval.requested"]
    assert overdue(story.state, NORMAL, story.now + 4 * HOUR) == ("approval",)
    assert overdue(story.state, NORMAL, story.now + 4 * HOUR - timedelta(seconds=1)) == ()


# --- Decisions ---


def ruling(action: Action, refusal: str = "") -> Ruling:
    return Ruling(f"uid-{action}", action, "bob", NOW, "abc", refusal, reason="I looked")


@pytest.mark.parametrize(
    ("action", "refusal", "kind", "audience"),
    [
        (Action.APPROVE, "", "decision.approve", "requester"),
        (Action.PAUSE, "", "decision.pause", "oncall"),
        (Action.BYPASS, "", "security.bypass", "cto"),
        (Action.APPROVE, "SelfApproval: bob asked for it", "security.selfapproval", "oncall"),
        (Action.ROLLBACK, "NotAuthorized: bob may not", "security.notauthorized", "oncall"),
    ],
)
def test_a_decision_is_told_and_one_that_does_not_count_is_a_matter_of_security(
    action: Action, refusal: str, kind: str, audience: str
) -> None:
    story = Story(NORMAL)
    story.commit(ASKING)
    (told,) = story.commit(replace(story.state, decisions=(ruling(action, refusal),)))
    assert (told.kind, audience in told.audience) == (f"dev.serin.{kind}", True)
    assert "bob" in told.text
    assert story.wait(HOUR) == []


def test_a_denial_is_told_once() -> None:
    story = Story(NORMAL)
    story.commit(ASKING)
    denied = enter(story.state, Phase.DENIED, NOW, "Denied", "bob denied it", weight=0)
    assert kinds(story.commit(replace(denied, decisions=(ruling(Action.DENY),)))) == ["change.denied"]


# --- Deadlines ---


def test_an_approval_that_does_not_come_is_said_to_be_near_and_then_goes_to_those_above() -> None:
    story = Story(NORMAL)
    story.commit(ASKING)
    assert next_deadline(story.state, NORMAL, story.now) == NOW + 3 * HOUR
    assert story.wait(3 * HOUR - timedelta(seconds=1)) == []
    assert story.wait(timedelta(seconds=1)) == ["approval.near"]
    assert next_deadline(story.state, NORMAL, story.now) == NOW + 4 * HOUR
    assert story.wait(HOUR) == ["approval.overdue"]
    assert story.state.told[-1].audience == ("approver", "engineering-managers")
    assert overdue(story.state, NORMAL, story.now) == ("approval",)
    assert story.wait(100 * HOUR) == []
    assert (story.state.phase, story.state.started_at) == (Phase.WAITING, None), "time approves nothing"
    assert overdue(replace(story.state, reason="MetricsUnreachable"), NORMAL, story.now) == ()


def test_after_a_long_absence_only_what_is_still_true_is_said() -> None:
    story = Story(NORMAL)
    story.commit(ASKING)
    assert story.wait(9 * HOUR) == ["approval.overdue"]


def test_a_review_is_asked_for_near_and_overdue_until_the_change_is_closed() -> None:
    story = Story(NORMAL)
    story.state = started()
    told = story.enter(Phase.COMPLETED, "Completed")
    assert kinds(told) == ["change.completed", "review.requested"]
    ended = story.now
    assert story.wait(timedelta(days=7) * 0.75) == ["review.near"]
    closed = replace(story.state, closed_at=story.now)
    assert next_deadline(closed, NORMAL, story.now) is None
    assert story.wait(ended + timedelta(days=7) - story.now) == ["review.overdue"]


# --- The CTO hears of an emergency within an hour ---


def declared(*sinks: Route) -> Story:
    story = Story(EMERGENCY, URGENT, sinks)
    assert kinds(story.commit(replace(started(EMERGENCY), phase=Phase.PROGRESSING, reason="Started"))) == [
        "emergency.declared"
    ]
    return story


def test_the_ctos_acknowledgement_is_in_the_record() -> None:
    story = declared(CHAT, PAGER)
    (told,) = story.state.told
    assert (told.audience, told.owed) == (("cto",), ("chat", "pager"))
    at = NOW + timedelta(minutes=2)
    story.commit(story.state, timedelta(minutes=2), (told.what, Receipt("pager", at)))
    assert (story.state.notified_at, story.state.told[0].receipts) == (at, (Receipt("pager", at),))
    assert story.wait(2 * HOUR) == []
    assert story.state.warnings == ()


def test_an_acknowledgement_of_a_sink_that_is_not_the_ctos_does_not_count() -> None:
    story = declared(CHAT, PAGER)
    what = story.state.told[0].what
    story.commit(story.state, timedelta(), (what, Receipt("chat", NOW)))
    assert story.state.notified_at is None
    assert story.wait(timedelta(minutes=45)) == ["notification.near"]
    assert story.wait(timedelta(minutes=15)) == ["notification.overdue"]
    assert story.state.warnings == (
        "NotificationOverdue: the CTO was not told of this emergency change within 1h: no sink acknowledged it; "
        "call the CTO yourself",
    )
    assert overdue(story.state, EMERGENCY, story.now) == ("notification",)
    story.commit(story.state, HOUR, (what, Receipt("pager", NOW + 2 * HOUR)))
    assert story.state.notified_at == NOW + 2 * HOUR
    assert not story.state.warnings
    assert "dev.serin.notification.overdue" in [told.kind for told in story.state.told], "the record keeps it"


def test_a_cto_who_has_decided_has_heard_of_it() -> None:
    story = declared()
    story.wait(HOUR)
    story.commit(replace(story.state, decisions=(ruling(Action.APPROVE, "NotAuthorized: bob may not"),)))
    assert (story.state.notified_at, len(story.state.warnings)) == (None, 1)
    story.commit(replace(story.state, decisions=(ruling(Action.APPROVE),)))
    assert story.state.notified_at == NOW
    assert not story.state.warnings


def test_without_a_sink_for_the_cto_the_warning_says_so() -> None:
    story = declared()
    story.wait(HOUR)
    assert "no sink of SERIN_SINKS is for the audience cto" in story.state.warnings[0]


def test_the_deadline_runs_on_when_the_emergency_is_over_before() -> None:
    story = declared(PAGER)
    story.enter(Phase.COMPLETED, "Completed")
    assert overdue(story.state, EMERGENCY, NOW + HOUR) == ("notification",)
    assert "notification.overdue" in story.wait(HOUR)


def test_an_emergency_that_never_started_and_is_over_is_nobodys_deadline() -> None:
    story = Story(EMERGENCY, URGENT, (PAGER,))
    assert kinds(story.commit(replace(ASKING, reason="NoMetrics"))) == ["emergency.declared"]
    story.enter(Phase.SUPERSEDED, "Reverted")
    assert overdue(story.state, EMERGENCY, NOW + 2 * HOUR) == ()


# --- The outbox ---


def test_words_are_kept_until_every_sink_has_them_and_are_the_same_each_time() -> None:
    story = Story(NORMAL, sinks=(CHAT, Route("mail")))
    story.commit(ASKING)
    (first,) = story.state.told
    story.commit(replace(story.state, requesters=("mallory",)), HOUR, (first.what, Receipt("chat", NOW)))
    assert story.state.told == (replace(first, owed=("mail",), receipts=(Receipt("chat", NOW),)),)
    story.commit(story.state, timedelta(), (first.what, Receipt("mail", NOW)), (first.what, Receipt("mail", NOW)))
    (told,) = story.state.told
    assert (told.text, told.owed, len(told.receipts)) == ("", (), 2)


def test_what_nobody_wants_is_not_kept_in_words() -> None:
    story = Story(NORMAL, sinks=())
    story.commit(ASKING)
    assert [(told.kind, told.text, told.owed) for told in story.state.told] == [
        ("dev.serin.approval.requested", "", ())
    ]


def test_what_cannot_be_delivered_is_given_up_after_a_week() -> None:
    story = Story(NORMAL)
    story.commit(ASKING)
    story.wait(KEPT)
    assert story.state.told[0].owed == ("chat",)
    story.wait(timedelta(seconds=1))
    assert not story.state.told[0].owed
    assert not story.state.told[0].text


def test_the_outbox_has_a_bound_and_keeps_what_matters() -> None:
    story = Story(NORMAL)
    (asked,) = story.commit(ASKING)
    for number in range(2 * TOLD_MAX):
        said = replace(ruling(Action.PAUSE), uid=f"{number}")
        (told,) = story.commit(replace(story.state, decisions=(said,)))
        if number < TOLD_MAX:
            story.commit(story.state, timedelta(), (told.what, Receipt("chat", NOW)))
    assert len(story.state.told) == TOLD_MAX
    assert asked.what in {told.what for told in story.state.told}
    assert story.wait(4 * HOUR) == ["approval.overdue"], "and never says a thing twice"


@pytest.mark.parametrize(
    ("route", "wanted"),
    [
        (Route("all"), True),
        (Route("type", types=(ChangeType.EMERGENCY,)), False),
        (Route("role", audiences=("approver", "cto")), True),
        (Route("role", audiences=("requester",)), False),
        (Route("place", namespaces=("sho*",)), True),
        (Route("place", namespaces=("bank", "bank-*")), False),
        (Route("kind", kinds=("dev.serin.approval.*",)), True),
        (Route("kind", kinds=("dev.serin.security.*",)), False),
    ],
)
def test_a_sink_is_told_what_its_route_says(route: Route, wanted: bool) -> None:
    story = Story(NORMAL, sinks=(route,))
    story.commit(ASKING)
    assert bool(story.state.told[0].owed) == wanted


@given(st.text(max_size=300), st.text(max_size=80), st.text(max_size=63))
def test_text_from_people_cannot_leave_its_line_nor_enter_a_command(words: str, name: str, change_id: str) -> None:
    story = Story(NORMAL, replace(CHANGE, change_id=change_id, spec={"description": words}))
    story.commit(replace(ASKING, requesters=(name,)))
    story.state = started()
    story.enter(Phase.PROGRESSING, words, step=1)
    for told in story.state.told:
        assert all(ch.isprintable() for ch in told.text)
        assert len(told.text) <= 700
        assert set(told.command) <= set("abcdefghijklmnopqrstuvwxyzCHG-0123456789 ")


@given(
    st.lists(
        st.tuples(st.sampled_from(("chat", "pager", "gone")), st.integers(0, 6), st.booleans()),
        max_size=30,
    )
)
def test_in_any_order_of_receipts_and_losses_a_sink_is_owed_until_it_acknowledged(
    events: list[tuple[str, int, bool]],
) -> None:
    story = Story(NORMAL, sinks=(CHAT, Route("pager")))
    story.commit(ASKING)
    story.state = replace(story.state, started_at=NOW, policy=NORMAL)
    for step in range(1, 5):
        story.enter(Phase.PROGRESSING, "Advanced", step=step)
    acknowledged = set()
    for sink, number, kept in events:
        what = story.state.told[number % len(story.state.told)].what
        after = tell(story.state, story.state, CHANGE, NORMAL, NOW, story.sinks, [(what, Receipt(sink, NOW))])
        if kept:  # else the commit was lost
            story.state = after
            acknowledged.add((sink, what))
    for told in story.state.told:
        for sink in ("chat", "pager"):
            assert (sink in told.owed) == ((sink, told.what) not in acknowledged)
            assert [r.sink for r in told.receipts].count(sink) == ((sink, told.what) in acknowledged)
    assert len({told.what for told in story.state.told}) == len(story.state.told) == 5
