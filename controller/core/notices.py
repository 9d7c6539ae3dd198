"""Who is told what about a change, and until when someone has to have acted. Pure.

`tell` adds to the state, in the very commit that gives the reason, what people are to be told: the outbox is in the
status, and a crash forgets nothing. What a sink acknowledged comes back as a `Receipt`. A notice keeps its id and its
words until it is delivered, so that whoever gets it twice can see that it is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from controller.core.change import check_id, printable
from controller.core.codec import format_duration, format_moment
from controller.core.model import Action, Change, Phase, Receipt, Ruling, Stage, State, Told, Transition
from controller.core.policy import Approval, ChangeType, Policy, When

REQUESTER, APPROVER, CTO, REVIEWER, ONCALL = AUDIENCES = ("requester", "approver", "cto", "reviewer", "oncall")
"""Roles that a sink may be for; a policy's `approval.escalateTo` may name another."""
KIND = "dev.serin."
NEAR = 0.75
"""Of the time that there is: then the deadline is said to be near."""
TOLD_MAX = 128
KEPT = timedelta(days=7)
"""What could not be delivered by then is given up."""
TEXT_MAX = 700
OVERDUE = "NotificationOverdue"


@dataclass(frozen=True)
class Route:
    """What one sink is told: everything, less what these leave out. Namespaces and kinds may have `*` in them."""

    name: str
    types: tuple[ChangeType, ...] = ()
    audiences: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def wants(self, notice: "Notice", change: Change) -> bool:
        return (
            (not self.types or change.type in self.types)
            and (not self.audiences or not set(self.audiences).isdisjoint(notice.audience))
            and _any_matches(self.namespaces, change.namespace)
            and _any_matches(self.kinds, notice.kind)
        )


def _any_matches(patterns: Sequence[str], text: str) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Notice:
    """`what` is its name within the change: with the change's UID, its id."""

    what: str
    kind: str
    audience: tuple[str, ...]
    text: str
    command: str = ""


def tell(
    before: State,
    after: State,
    change: Change,
    policy: Policy,
    now: datetime,
    sinks: Sequence[Route] = (),
    receipts: Sequence[tuple[str, Receipt]] = (),
) -> State:
    """`after` with what people are to be told of it, and with what sinks have acknowledged (`what`, receipt)."""
    state = _heard(_receive(after, receipts, sinks), policy)
    state = replace(state, warnings=_warnings(state, change, policy, now))
    known = {told.what for told in state.told}
    for notice in _arising(before, state, change, policy, now):
        if notice.what not in known:
            known.add(notice.what)
            state = replace(state, told=(*state.told, _told(notice, change, now, sinks)))
    return replace(state, told=_bounded(_given_up(told, now) for told in state.told))


def notice_id(change: Change, told: Told) -> str:
    return f"{change.uid}/{told.what}"


def next_deadline(state: State, policy: Policy, now: datetime) -> datetime | None:
    """When something falls due next, if nobody acts before."""
    moments = (at for due in _deadlines(state, policy) for at in (due.near_at, due.at))
    return min((at for at in moments if at > now), default=None)


def overdue(state: State, policy: Policy, now: datetime) -> tuple[str, ...]:
    """Names of the deadlines that are missed and still open: approval, notification, review."""
    return tuple(due.name for due in _deadlines(state, policy) if now >= due.at)


# --- The outbox ---


def _told(notice: Notice, change: Change, now: datetime, sinks: Sequence[Route]) -> Told:
    owed = tuple(sink.name for sink in sinks if sink.wants(notice, change))
    if not owed:
        return Told(notice.what, notice.kind, now)
    text = printable(notice.text, TEXT_MAX)
    return Told(notice.what, notice.kind, now, notice.audience, text, notice.command, owed)


def _receive(state: State, receipts: Sequence[tuple[str, Receipt]], sinks: Sequence[Route]) -> State:
    """A receipt from a sink that is for the CTO says that the CTO was told of an emergency."""
    for_cto = {sink.name for sink in sinks if CTO in sink.audiences}
    for what, receipt in receipts:
        told = tuple(_acknowledged(each, receipt) if each.what == what else each for each in state.told)
        if what == DECLARED and receipt.sink in for_cto and state.notified_at is None and told != state.told:
            state = replace(state, notified_at=receipt.at)
        state = replace(state, told=told)
    return state


def _heard(state: State, policy: Policy) -> State:
    """Whoever decides about an emergency has heard of it, by whatever way."""
    mine = [r.at for r in state.decisions if r.counts and r.action in (Action.APPROVE, Action.DENY)]
    after = policy.approval.when is When.AFTER
    return replace(state, notified_at=min(mine)) if after and mine and state.notified_at is None else state


def _acknowledged(told: Told, receipt: Receipt) -> Told:
    if receipt.sink not in told.owed:
        return told
    owed = tuple(name for name in told.owed if name != receipt.sink)
    told = replace(told, owed=owed, receipts=(*told.receipts, receipt))
    return told if owed else _settled(told)


def _given_up(told: Told, now: datetime) -> Told:
    return _settled(told) if told.owed and now - told.at > KEPT else told


def _settled(told: Told) -> Told:
    """Nobody has to be sent it any more: what is kept is that it was said, and who acknowledged it."""
    return replace(told, audience=(), text="", command="", owed=())


def _bounded(told: Iterator[Told]) -> tuple[Told, ...]:
    """The oldest go first that nobody waits for and that no deadline is counted from."""
    kept = list(told)
    while len(kept) > TOLD_MAX:
        kept.remove(min(kept, key=lambda each: (bool(each.owed), each.what.startswith(LASTING))))
    return tuple(kept)


# --- Deadlines ---

DEADLINE, WARNING = LASTING = ("deadline/", "warning/")
"""What is said for as long as something is so, and not of one moment: its name says that it was said."""
DECLARED = f"{DEADLINE}declared"


@dataclass(frozen=True)
class _Deadline:
    """Open until someone has acted. `since` is when the time began to run."""

    name: str
    since: datetime
    at: datetime

    @property
    def near_at(self) -> datetime:
        return self.since + (self.at - self.since) * NEAR


def _asked(state: State) -> str:
    """An approval is asked for anew when what it is about is amended."""
    return f"{DEADLINE}approval-asked/{state.revision}"


def _deadlines(state: State, policy: Policy) -> Iterator[_Deadline]:
    began = {told.what: told.at for told in state.told}
    approval = policy.approval
    asked = began.get(_asked(state))
    if state.phase is Phase.WAITING and state.reason == "AwaitingApproval" and asked and approval.respond_within:
        yield _Deadline("approval", asked, asked + approval.respond_within)
    declared = began.get(DECLARED)
    concerns = state.started_at is not None or not state.phase.terminal
    if declared and concerns and state.notified_at is None and approval.notify_within:
        yield _Deadline("notification", declared, declared + approval.notify_within)
    if state.review_due_at and state.ended_at and state.closed_at is None:
        yield _Deadline("review", state.ended_at, state.review_due_at)


def _warnings(state: State, change: Change, policy: Policy, now: datetime) -> tuple[str, ...]:
    """With the CTO who was not told in time, for as long as that is so."""
    others = tuple(text for text in state.warnings if not text.startswith(f"{OVERDUE}: "))
    if "notification" not in overdue(state, policy, now):
        return others
    declared = next(told for told in state.told if told.what == DECLARED)
    why = "no sink acknowledged it" if declared.owed else "no sink of SERIN_SINKS is for the audience cto"
    within = format_duration(policy.approval.notify_within or timedelta())
    call = "call the CTO yourself"
    return (*others, f"{OVERDUE}: the CTO was not told of this {change.type} change within {within}: {why}; {call}")


# --- What there is to tell ---


def _arising(before: State, after: State, change: Change, policy: Policy, now: datetime) -> Iterator[Notice]:
    who = _Words(after, change)
    yield from _of_decisions(before, after, who)
    yield from _of_requests(after, policy, now, who)
    yield from _of_transitions(before, after, who)
    yield from _of_deadlines(after, policy, now, who)
    for warning in after.warnings:
        reason, _, text = warning.partition(": ")
        if reason in WARNED:
            kind, audience = WARNED[reason]
            yield Notice(f"{WARNING}{reason}", KIND + kind, audience, who.says(text), who.run("status"))


WARNED = {
    "AdmissionMissing": ("security.admissionmissing", (ONCALL,)),
    "ApprovalOverdue": ("approval.overdue", (APPROVER, CTO)),
    "CannotGoBack": ("change.cannotgoback", (REQUESTER, APPROVER, ONCALL)),
    OVERDUE: ("notification.overdue", (ONCALL, APPROVER)),
}
"""Warnings that people are told of; the other deadlines have words of their own."""


@dataclass(frozen=True)
class _Words:
    state: State
    change: Change

    @property
    def id(self) -> str:
        """Fit for a command that people copy: a malformed change ID could be anything."""
        return self.change.change_id if check_id(self.change.change_id) is None else self.change.name

    @property
    def people(self) -> str:
        return ", ".join(self.state.requesters) or self.change.requested_by or "someone unknown"

    def says(self, text: str) -> str:
        return f"{self.change.namespace}/{self.id} ({self.change.type}): {text}"

    def run(self, verb: str) -> str:
        return f"kubectl serin {verb} {self.id} -n {self.change.namespace}"


def _of_requests(state: State, policy: Policy, now: datetime, who: _Words) -> Iterator[Notice]:
    """An approval that is asked for; an emergency that was declared."""
    approval = policy.approval
    spec = who.change.spec or {}
    about = f": {spec['description']}" if isinstance(spec, dict) and spec.get("description") else ""
    if state.phase is Phase.WAITING and state.reason == "AwaitingApproval":
        text = f"{who.people} asks for your approval{_by(approval, now)}{about}"
        yield Notice(_asked(state), KIND + "approval.requested", (APPROVER,), who.says(text), who.run("approve"))
    concerns = state.targets and (state.started_at is not None or not state.phase.terminal)
    if approval.when is When.AFTER and approval.notify_within and concerns:
        text = (
            f"{who.people} declared an {who.change.type}, which starts without approval; approve it afterwards{about}"
        )
        yield Notice(DECLARED, KIND + "emergency.declared", (CTO,), who.says(text), who.run("approve"))


def _by(approval: Approval, now: datetime) -> str:
    if not approval.respond_within:
        return ""
    then = f", then {approval.escalate_to} is told" if approval.escalate_to else ""
    return f" by {_moment(now + approval.respond_within)}{then}"


def _of_transitions(before: State, after: State, who: _Words) -> Iterator[Notice]:
    known = set(before.history)
    previous = before.history[-1] if before.history else None
    for transition in after.history:
        if transition not in known:
            if (what := _transition(previous, transition)) is not None:
                kind, audience = what
                name = f"transition/{transition.phase}.{transition.step}/{format_moment(transition.at)}"
                text = f"{_heading(kind)}: {transition.message}"
                if transition.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
                    text = f"{_heading(kind)}: {after.cause or transition.reason}: {transition.message}"
                yield Notice(name, KIND + kind, audience, who.says(text), who.run("status"))
            previous = transition


ENDS = {
    Phase.COMPLETED: ("change.completed", (REQUESTER, APPROVER)),
    Phase.ROLLED_BACK: ("change.rolledback", (REQUESTER, APPROVER, ONCALL)),
    Phase.SUPERSEDED: ("change.superseded", (REQUESTER,)),
    Phase.DENIED: ("change.denied", (REQUESTER,)),
}


def _transition(previous: Transition | None, now: Transition) -> tuple[str, tuple[str, ...]] | None:
    """Kind and audience; None for the parts of an end that nobody has to hear of one by one."""
    if now.phase in ENDS:
        return ENDS[now.phase]
    if now.phase is Phase.ROLLING_BACK:
        begins = now.stage is not Stage.CLEAN and (previous is None or previous.phase is not now.phase)
        return ("change.rollingback", (REQUESTER, ONCALL)) if begins else None
    if now.reason == "Started":
        return "change.started", (REQUESTER, APPROVER, ONCALL)
    if now.phase is Phase.PROMOTING and now.stage is not Stage.ROLL:
        return None
    return f"change.{now.reason.lower()}", (REQUESTER,)


HEADINGS = {"rollingback": "rolling back", "rolledback": "rolled back", "advanced": "next step"}


def _heading(kind: str) -> str:
    word = kind.rpartition(".")[2]
    return HEADINGS.get(word, word)


def _of_decisions(before: State, after: State, who: _Words) -> Iterator[Notice]:
    known = {ruling.uid for ruling in before.decisions}
    moved = before.phase is not after.phase
    for ruling in after.decisions:
        # A denial or rollback that moved the change is told by what it led to.
        told_otherwise = ruling.counts and moved and ruling.action in (Action.DENY, Action.ROLLBACK)
        if ruling.uid not in known and not told_otherwise:
            yield _decision(ruling, who)


PARTIES = {
    Action.BYPASS: (REQUESTER, APPROVER, CTO, ONCALL),
    Action.PROMOTE: (REQUESTER, APPROVER, ONCALL),
    Action.PAUSE: (REQUESTER, ONCALL),
    Action.RESUME: (REQUESTER, ONCALL),
    Action.DENY: (REQUESTER, ONCALL),
}


def _decision(ruling: Ruling, who: _Words) -> Notice:
    name, verb = f"decision/{ruling.uid}", ruling.action.lower()
    if not ruling.counts:
        reason, _, text = ruling.refusal.partition(": ")
        said = who.says(f"{ruling.action} by {ruling.by} does not count: {reason}: {text}")
        return Notice(name, f"{KIND}security.{reason.lower()}", (ONCALL, APPROVER), said, who.run("status"))
    reason = f": {ruling.reason}" if ruling.reason else ""
    kind = f"{KIND}security.bypass" if ruling.action is Action.BYPASS else f"{KIND}decision.{verb}"
    audience = PARTIES.get(ruling.action, (REQUESTER,))
    return Notice(name, kind, audience, who.says(f"{ruling.action} by {ruling.by}{reason}"), who.run("status"))


def _of_deadlines(state: State, policy: Policy, now: datetime, who: _Words) -> Iterator[Notice]:
    escalate = policy.approval.escalate_to or APPROVER
    said = {
        "approval": ("approval", "approve", (APPROVER,), (APPROVER, escalate), "the approval that was asked for"),
        "notification": ("notification", "status", (ONCALL, APPROVER), (), "the CTO's acknowledgement; call the CTO"),
        "review": ("review", "review", (REVIEWER,), (REVIEWER, APPROVER), "the post-implementation review"),
    }
    for due in _deadlines(state, policy):
        kind, verb, near, missed, text = said[due.name]
        name = f"{DEADLINE}{kind}/{format_moment(due.at)}"
        if due.name == "review":
            asks = f"to be reviewed by {_moment(due.at)}, by someone who did not ask for it"
            yield Notice(f"{name}/opened", f"{KIND}review.requested", (REVIEWER,), who.says(asks), who.run(verb))
        if due.near_at <= now < due.at:
            soon = who.says(f"due by {_moment(due.at)}, and not there yet: {text}")
            yield Notice(f"{name}/near", f"{KIND}{kind}.near", near, soon, who.run(verb))
        if now >= due.at and missed:
            late = who.says(f"overdue since {_moment(due.at)}: {text}")
            yield Notice(f"{name}/overdue", f"{KIND}{kind}.overdue", tuple(dict.fromkeys(missed)), late, who.run(verb))


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
