"""What a person decides about a change: the ChangeDecision, and what there is to see before it is made. Pure."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controller.cli.waits import named
from controller.core.change import check_id
from controller.core.codec import camel, format_duration, format_moment
from controller.core.model import Change, Phase, State
from controller.core.policy import Policy
from controller.errors import PermanentError

Json = Any


@dataclass(frozen=True)
class Act:
    """One of the things that can be decided. `asking`: the question; `after`: what comes of it."""

    action: str
    verb: str
    asking: str
    after: str


APPROVE = Act("Approve", "approve", "Approve", "it starts when all its gates are open")
DENY = Act("Deny", "approve", "Deny", "it never runs; the Deployment keeps its stable pods")
PROMOTE = Act("Promote", "promote", "Skip the bakes that are left of", "the bakes that are left are skipped")
PAUSE = Act("Pause", "pause", "Pause", "it stays at the weight that it has; a breach still rolls it back")
RESUME = Act("Resume", "pause", "Resume", "it goes on from where it is")
ROLLBACK = Act("Rollback", "rollback", "Roll back", "the traffic goes back to stable at once")
BYPASS = Act("Bypass", "bypass", "Open every gate before the start of", "it starts without approval, tests and window")
REVIEW = Act("Review", "review", "Close", "the record is closed")


def about(state: State) -> str:
    """The revision that a decision has to name: of the one Deployment, or a hash over those of several."""
    revisions = {target.name: target.revision for target in state.targets}
    if len(revisions) <= 1:
        return next(iter(revisions.values()), "")
    text = ",".join(f"{name}={revision}" for name, revision in sorted(revisions.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def decision(
    change: Change,
    state: State,
    act: Act,
    *,
    reason: str = "",
    tests: str = "",
    over_budget: bool = False,
    expires_at: datetime | None = None,
    review: Json = None,
) -> Json:
    """The ChangeDecision; who makes it is stamped by admission.

    PermanentError when there is nothing that could be decided about.
    """
    problem = check_id(change.change_id)
    if problem or change.type is None:
        raise PermanentError("NothingToDecide", f"{change.name} is no usable request: {problem or change.problem}")
    if not (revision := about(state)):
        raise PermanentError(
            "NothingToDecide",
            f"{change.change_id} is about no pod template yet: apply a Deployment that is labelled with it first",
        )
    spec = {
        "change": change.change_id,
        "changeUid": change.uid,
        "revision": revision,
        "type": str(change.type),
        "action": act.action,
        "reason": reason,
        "tests": tests,
        "overBudget": over_budget,
        "expiresAt": format_moment(expires_at) if expires_at else "",
        "review": review,
    }
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeDecision",
        "metadata": {"generateName": f"{change.name}-{act.action.lower()}-", "namespace": change.namespace},
        "spec": {key: value for key, value in spec.items() if value},
    }


def pointless(state: State, act: Act) -> str:
    """Why nothing would come of it; empty when something may."""
    if act is REVIEW:
        return "" if state.phase.terminal else f"it is {state.phase}: a change is reviewed when it has ended"
    if state.phase.terminal:
        return f"it has ended as {state.phase}"
    if act in (PROMOTE, ROLLBACK) and state.phase is Phase.WAITING:
        return "it has not started" + ("; to give it up: kubectl serin deny" if act is ROLLBACK else "")
    return ""


def form_of(change: Change, state: State, policy: Policy | None) -> Iterator[tuple[str, str]]:
    """What somebody who decides has to see of a change, as labels and texts."""
    form: Mapping[str, Any] = change.spec or {}
    if description := form.get("description"):
        yield "what", description
    yield "requested by", change.requested_by or "unknown"
    if author := form.get("author"):
        yield "author", f"{author} (claimed, not verified)"
    for target in state.targets:
        before = target.stable_revision or "nothing, it is the first"
        yield "deployment", f"{target.name}, {target.replicas} replicas: revision {before} → {target.revision}"
    for label, key in (("risk", "risk"), ("downtime", "downtime"), ("users", "usersAffected")):
        if text := (form.get("impact") or {}).get(key):
            yield label, text
    for name in ("rollback-plan", "testing-plan", "success-criteria"):
        if text := form.get(camel(name.replace("-", "_"))):
            yield name.replace("-", " "), text
    if policy := state.policy or policy:
        yield "steps", ", ".join(f"{step.weight} % for {format_duration(step.bake)}" for step in policy.steps)
    yield "is at", f"{state.phase}: {state.reason or 'not seen yet'}{f', {state.message}' if state.message else ''}"


def images(before: Json, after: Json) -> Iterator[tuple[str, str]]:
    """Container to image, stable → new, of two pod templates; the first may be None."""
    old, new = _images(before), _images(after)
    for container in sorted(old.keys() | new.keys()):
        was, is_now = old.get(container, "–"), new.get(container, "–")
        yield container, is_now if was == is_now else f"{was} → {is_now}"


def _images(template: Json) -> dict[str, str]:
    spec = (template or {}).get("spec") or {}
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    return {container["name"]: str(container.get("image", "")) for container in containers}


def right(change: Change, act: Act) -> str:
    """The command that says whether one may."""
    return f"kubectl auth can-i {act.verb} changetypes.serin.dev/{change.type} -n {change.namespace}"


def follow(change: Change) -> str:
    return f"kubectl serin status -w {named(change)}"
