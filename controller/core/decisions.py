"""What people decided: each ChangeDecision is taken in once, counted or refused for a reason, and kept. Pure.

Admission has checked most of this already. It is asked again here, for admission may have been away, and because what
admission let through may be void by now: the revision has moved on, a role was revoked.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from controller.core.change import printable
from controller.core.model import Action, Change, Decision, Observation, Phase, Ruling, State
from controller.core.policy import Policy, When

RULINGS_MAX = 64
"""Beyond these only what counts is taken in: nobody fills the record with what is refused."""
TEXT_MAX = 1000
BYPASS_MAX = timedelta(hours=4)
SKEW = timedelta(seconds=5)
"""Moments of the API server and ours may differ by that much."""
OF_OTHERS = (Action.APPROVE, Action.PROMOTE, Action.BYPASS, Action.REVIEW)
"""What nobody decides about a change of his own."""
BOUND = (Action.APPROVE, Action.DENY, Action.PROMOTE, Action.BYPASS)
"""What is about one revision. Going back and standing still are safe, and a review is about what was."""
CAUTIOUS = (Action.DENY, Action.PAUSE)
"""What wins over its opposite of the same second: the API server's moments are no finer."""
UNDER_WAY = (Phase.PROGRESSING, Phase.PROMOTING)


def take_in(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    """With every decision that is new; those whose author's rights are not known yet wait for the next look."""
    known = {ruling.uid for ruling in state.decisions}
    new = sorted(
        (d for d in observation.decisions if d.uid not in known and d.authorized is not None),
        key=lambda d: (d.created_at or now, d.uid),
    )
    for decision in new:
        refusal = next(_refusals(decision, state, observation.change, policy, now), "")
        if not refusal or len(state.decisions) < RULINGS_MAX:
            state = replace(state, decisions=(*state.decisions, _ruling(decision, state, refusal, now)))
    return state


def _ruling(decision: Decision, state: State, refusal: str, now: datetime) -> Ruling:
    return Ruling(
        uid=decision.uid,
        action=decision.action,
        by=printable(decision.by, 256),
        at=decision.created_at or now,
        revision=decision.revision,
        terms=state.terms,
        refusal=refusal,
        reason=printable(decision.reason, TEXT_MAX),
        tests=printable(decision.tests, TEXT_MAX),
        over_budget=decision.over_budget,
        forward_only=decision.forward_only,
        expires_at=decision.expires_at,
        review=decision.review,
    )


def _refusals(decision: Decision, state: State, change: Change, policy: Policy, now: datetime) -> Iterator[str]:
    """Why it does not count, each as `Reason: text`."""
    who, action = printable(decision.by, 200), decision.action
    if decision.change_uid != change.uid:
        yield f"AnotherChange: it names the uid {printable(decision.change_uid, 40)}, not the one of {change.change_id}"
    if decision.created_at and change.created_at and decision.created_at < change.created_at:
        yield "DecidedBefore: it is older than the change"
    if decision.type != change.type:
        yield f"AnotherType: it is for a {printable(decision.type, 40)} change, and this one is {change.type}"
    if action in BOUND and decision.revision != state.revision:
        yield (
            f"AnotherRevision: it is about revision {printable(decision.revision, 40)}, and the change is about "
            f"{state.revision} now"
        )
    if action in OF_OTHERS and asked_for(state, decision.by):
        yield f"SelfApproval: {who} asked for {change.change_id}; someone else has to {action.lower()} it"
    robot = decision.by.startswith("system:serviceaccount:")
    if robot and decision.by not in policy.approval.service_accounts:
        yield f"ServiceAccount: {who} is not a person; ChangePolicy spec.approval.serviceAccounts does not name it"
    if decision.expires_at and decision.expires_at <= now:
        yield f"Expired: it was good until {decision.expires_at:%Y-%m-%d %H:%M} UTC"
    if action is Action.BYPASS and not _short(decision, now):
        yield "BypassTooLong: it has to end by spec.expiresAt within 4 h"
    if not decision.authorized:
        yield f"NotAuthorized: {who} may not {action.verb} changetypes/{change.type} in {change.namespace}"
    if late := _untimely(decision, state, policy):
        yield f"Untimely: {late}"


def _short(decision: Decision, now: datetime) -> bool:
    made = decision.created_at or now
    return decision.expires_at is not None and decision.expires_at <= made + BYPASS_MAX + SKEW


def _untimely(decision: Decision, state: State, policy: Policy) -> str:
    """Why it comes too early or too late, if it does."""
    afterwards = policy.approval.when is When.AFTER
    match decision.action:
        case Action.APPROVE | Action.DENY if state.phase is not Phase.WAITING and not afterwards:
            return f"the change is {state.phase}; to go back: Rollback"
        case Action.BYPASS if state.phase is not Phase.WAITING:
            return f"the change is {state.phase} already"
        case Action.ROLLBACK if state.phase not in UNDER_WAY:
            return f"the change is {state.phase}: there is nothing under way to roll back"
        case Action.PROMOTE if state.phase is not Phase.PROGRESSING:
            return f"the change is {state.phase}: there are no bakes to skip"
        case Action.PAUSE | Action.RESUME if state.phase not in (Phase.WAITING, Phase.PROGRESSING):
            return f"the change is {state.phase}: it cannot be paused there"
        case Action.REVIEW if not state.phase.terminal:
            return f"the change is {state.phase}: it is reviewed when it has ended"
        case Action.REVIEW if state.closed_at:
            return "the change is closed"
    return ""


# --- What they come to ---


def last(state: State, *actions: Action) -> Ruling | None:
    """The newest decision of these that counts, and is about the change as it is now."""
    found = [ruling for ruling in state.decisions if ruling.action in actions and _holds(ruling, state)]
    return max(found, key=lambda ruling: (ruling.at, ruling.action in CAUTIOUS), default=None)


def approvals(state: State, observation: Observation, now: datetime) -> tuple[Ruling, ...]:
    """Those of different people, for this revision, that stand: there, not expired, their authors still allowed."""
    return tuple({r.by: r for r in _standing(state, observation, Action.APPROVE, now)}.values())


def bypass(state: State, observation: Observation, now: datetime) -> Ruling | None:
    return next(_standing(state, observation, Action.BYPASS, now), None)


def _standing(state: State, observation: Observation, action: Action, now: datetime) -> Iterator[Ruling]:
    allowed = {d.uid for d in observation.decisions if d.authorized}
    for ruling in state.decisions:
        good = ruling.action is action and ruling.uid in allowed and _holds(ruling, state)
        if good and (ruling.expires_at is None or ruling.expires_at > now):
            yield ruling


def _holds(ruling: Ruling, state: State) -> bool:
    """Whether it counts for the change as it is: an amendment voids decisions, and makes its author a requester."""
    void = ruling.action in BOUND and (ruling.revision, ruling.terms) != (state.revision, state.terms)
    own = ruling.action in OF_OTHERS and asked_for(state, ruling.by)
    return ruling.counts and not void and not own


_PUNCTUATION = str.maketrans("<>(),;", "      ")


def asked_for(state: State, name: str) -> bool:
    """Whether `name` is one of the requesters.

    Names are claims, too: `Alice <alice@example.com>` is alice, alice@example.com and oidc:alice@example.com.
    """
    return any(_same(requester.lower(), name.lower()) for requester in state.requesters)


def _same(requester: str, me: str) -> bool:
    bare = me.replace("#", ":").rpartition(":")[2]
    words = requester.translate(_PUNCTUATION).split()
    return requester == me or any(bare in (w, w.partition("@")[0]) or w == bare.partition("@")[0] for w in words)


def pause(state: State) -> Ruling | None:
    """The pause that holds it, if one does."""
    ruling = last(state, Action.PAUSE, Action.RESUME)
    return ruling if ruling and ruling.action is Action.PAUSE else None


def hurried(state: State) -> bool:
    """Someone had the remaining bakes skipped."""
    return last(state, Action.PROMOTE) is not None


def objection(state: State) -> Ruling | None:
    """The denial of what runs or ran already, as long as nobody has approved it since."""
    ruling = last(state, Action.APPROVE, Action.DENY)
    return ruling if ruling and ruling.action is Action.DENY else None


def needs_rights(state: State, decision: Decision) -> bool:
    """Whether the rights of its author have to be asked for: it is new, or a gate rests on it at every look."""
    known = {ruling.uid for ruling in state.decisions}
    gate = state.phase is Phase.WAITING and decision.action in (Action.APPROVE, Action.BYPASS)
    return gate or decision.uid not in known
