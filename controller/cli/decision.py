"""What a person decides about a change: the ChangeDecision, and what there is to see before it is made. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controller.core.change import check_id
from controller.core.codec import format_duration, format_moment
from controller.core.diff import DIFFERENCES_MAX, Difference
from controller.core.form import FIELDS, text_of
from controller.core.model import Action, Change, Phase, State
from controller.core.policy import Policy, When
from controller.core.windows import moment_text
from controller.errors import PermanentError

Json = Any


@dataclass(frozen=True)
class Ask:
    """How an action is asked for, and what comes of it."""

    question: str
    after: str


CANNOT_GO_BACK = "spec.rollback is forwardOnly: what is measured holds it, and only a person takes it back"

ASKS: Mapping[Action, Ask] = {
    Action.APPROVE: Ask("Approve", "it starts when all its gates are open"),
    Action.DENY: Ask("Deny", "before its start that is the end of it; afterwards somebody takes it back or accepts it"),
    Action.PROMOTE: Ask("Skip the bakes that are left of", "it goes on as soon as each step is settled"),
    Action.PAUSE: Ask("Pause", "it stays where it is; a breach still rolls it back"),
    Action.RESUME: Ask("Resume", "it goes on from where it is"),
    Action.ROLLBACK: Ask("Roll back", "the traffic goes back to stable at once"),
    Action.BYPASS: Ask("Open every gate before the start of", "it starts without approval, tests and window"),
    Action.REVIEW: Ask("Review and close", "the record is closed"),
}


def decision(
    change: Change,
    state: State,
    action: Action,
    *,
    reason: str = "",
    tests: str = "",
    over_budget: bool = False,
    forward_only: bool = False,
    expires_at: datetime | None = None,
    review: Json = None,
) -> Json:
    """The ChangeDecision; who makes it is stamped by admission.

    PermanentError when there is nothing that could be decided about.
    """
    problem = check_id(change.change_id)
    if problem or change.type is None:
        raise PermanentError("NothingToDecide", f"{change.name} is no usable request: {problem or change.problem}")
    if not state.revision:
        raise PermanentError(
            "NothingToDecide",
            f"{change.change_id} is about no pod template yet: apply a Deployment that is labelled with it first",
        )
    spec = {
        "change": change.change_id,
        "changeUid": change.uid,
        "revision": state.revision,
        "type": str(change.type),
        "action": str(action),
        "reason": reason,
        "tests": tests,
        "overBudget": over_budget,
        "forwardOnly": forward_only,
        "expiresAt": format_moment(expires_at) if expires_at else "",
        "review": review,
    }
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeDecision",
        "metadata": {"generateName": f"{change.name}-{action.lower()}-", "namespace": change.namespace},
        "spec": {key: value for key, value in spec.items() if value},
    }


def pointless(state: State, action: Action, policy: Policy | None) -> str:
    """Why the controller would not count it, as it would say; empty when it may."""
    policy = state.policy or policy
    afterwards = policy is not None and policy.approval.when is When.AFTER
    match action:
        case Action.REVIEW if not state.phase.terminal:
            return f"it is {state.phase}: a change is reviewed when it has ended"
        case _ if state.closed_at:
            return f"it has ended as {state.phase}, and is closed"
        case Action.APPROVE | Action.DENY if state.phase is not Phase.WAITING and not afterwards:
            return f"it is {state.phase}; what is under way is taken back with: kubectl serin rollback"
        case Action.ROLLBACK if state.phase is Phase.WAITING:
            return "it has not started; to stop it: kubectl serin deny"
        case Action.ROLLBACK if state.phase not in (Phase.PROGRESSING, Phase.PROMOTING):
            return f"it is {state.phase}; to go back to the revision before: kubectl serin revert"
        case Action.PROMOTE if state.phase is not Phase.PROGRESSING:
            return f"it is {state.phase}: there are no bakes to skip"
        case Action.BYPASS if state.phase is not Phase.WAITING:
            return f"it is {state.phase}: its gates are behind it"
        case Action.PAUSE | Action.RESUME if state.phase not in (Phase.WAITING, Phase.PROGRESSING):
            return f"it is {state.phase}: it cannot be paused there"
    return ""


def form_of(change: Change, state: State, policy: Policy | None) -> Iterator[tuple[str, str]]:
    """What somebody who decides has to see of a change, as labels and texts."""
    form: Mapping[str, Any] = change.spec or {}
    if description := form.get("description"):
        yield "what", description
    yield "requested by", change.requested_by or "unknown"
    if change.author:
        yield "author", f"{change.author} (claimed, not verified)"
    for target in state.targets:
        before = target.stable_revision or "nothing, it is the first"
        yield "deployment", f"{target.name}, {target.replicas} replicas: revision {before} → {target.revision}"
        yield from differing(target.diff)
    for field in FIELDS:
        if field.name not in ("description", "author") and (text := text_of(form, field.name)):
            yield field.annotation.replace("-", " "), text
    if state.forward_only:
        yield "cannot go back", CANNOT_GO_BACK
    if state.window:
        yield "window", moment_text(state.window.start, state.window.zone)
    if policy := state.policy or policy:
        yield "steps", ", ".join(f"{step.weight} % for {format_duration(step.bake)}" for step in policy.steps)
    if state.approval:
        yield "approval", state.approval
    yield "is at", f"{state.phase}: {state.reason or 'not seen yet'}{f', {state.message}' if state.message else ''}"


def differing(found: Sequence[Difference], most: int = DIFFERENCES_MAX) -> Iterator[tuple[str, str]]:
    """A row for each field, stable → new."""
    for one in found[:most]:
        yield "differs", f"{one.path}: {one.before or '–'} → {one.after or '–'}"
    if len(found) > most:
        yield "", f"and {len(found) - most} more fields"


def right(change: Change, action: Action) -> str:
    """The command that says whether one may."""
    return f"kubectl auth can-i {action.verb} changetypes.serin.dev/{change.type} -n {change.namespace}"
