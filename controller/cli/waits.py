"""What a change waits for: whose turn it is, until when, and the command that ends the wait. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from controller.core.change import CHANGE_LABEL, PREFIX, RETRY
from controller.core.model import Change, Phase, Stage, State
from controller.core.policy import ChangeType, LowTraffic, Policy

SERIN, REQUESTER, SRE = "Serin's, by itself", "the requester's", "an SRE's"
APPROVERS = {ChangeType.NORMAL: "an engineering manager's", ChangeType.EMERGENCY: "the CTO's"}


@dataclass(frozen=True)
class Wait:
    """`then` is what happens at `until`. `command` ends the wait, and is empty when nobody has to do anything;
    `way_back` gives the change up."""

    what: str
    turn: str
    until: datetime | None = None
    then: str = ""
    command: str = ""
    way_back: str = ""


NEW_ID = f"kubectl label {{deployment}} {CHANGE_LABEL}=$(kubectl serin new-id) --overwrite"
ANNOTATE = "kubectl annotate {deployment} --overwrite"
INSTALL = "kubectl apply --server-side -k manifests/"
INSTALL_POLICIES = "kubectl apply --server-side -k policies/"
EDIT_POLICY = "kubectl edit chgp {type}"
CONTROLLER_LOG = "kubectl logs -n serin-system deployment/serin"

TURNS: Mapping[str, tuple[str, str]] = {
    # What was asked for
    "InvalidChangeID": (REQUESTER, NEW_ID),
    "DuplicateChangeID": (REQUESTER, NEW_ID),
    "UnknownType": (REQUESTER, f"{ANNOTATE} {PREFIX}type=normal"),
    "InvalidAnnotation": (REQUESTER, f"{ANNOTATE} {{annotation}}=TEXT"),
    "NoDeployment": (REQUESTER, "kubectl apply -f FILE  # a new template, labelled {label}"),
    "AwaitingApproval": (REQUESTER, f"{ANNOTATE} {PREFIX}type=standard  # if it is a standard change"),
    "AnotherChangeActive": (SERIN, "kubectl serin wait {other} -n {namespace}"),
    "RejectedRevision": (REQUESTER, f"{ANNOTATE} {RETRY}={{other}}  # to run it knowingly"),
    # What it was asked about
    "OwnedByAnotherController": (
        REQUESTER,
        f"kubectl label {{deployment}} {CHANGE_LABEL}-  # or remove the other controller",
    ),
    "TwoActiveReplicaSets": (REQUESTER, "kubectl apply -f FILE  # with the template of one of the two"),
    "ServiceWithoutPods": (REQUESTER, "kubectl edit services -n {namespace}"),
    "NoReferenceGrant": (REQUESTER, "kubectl apply -f FILE  # a ReferenceGrant in the Service's namespace"),
    "RouteLost": (REQUESTER, "kubectl apply -f FILE  # the route, as it was"),
    # What Serin stands on
    "AdmissionMissing": (SRE, INSTALL_POLICIES),
    "NotHeld": (SRE, INSTALL_POLICIES),
    "PolicyNotFound": (SRE, INSTALL_POLICIES),
    "PermissionDenied": (SRE, INSTALL),
    "InvalidPolicy": (SRE, EDIT_POLICY),
    "InvalidQuery": (SRE, EDIT_POLICY),
    "NoData": (SRE, CONTROLLER_LOG),
    "PartialData": (SRE, CONTROLLER_LOG),
    "PrometheusError": (SRE, CONTROLLER_LOG),
    "PrometheusUnreachable": (SRE, CONTROLLER_LOG),
}
"""By reason: whose turn it is, and the command. What is not here is Serin's own, and needs none."""


def waiting(change: Change, state: State, policy: Policy | None) -> Wait | None:
    """None when the change has ended. `policy`: its own, or that of its type while it has not started."""
    if state.phase.terminal:
        return None
    if not state.reason:
        return Wait("the controller to see it", SRE, command="kubectl get pods -n serin-system  # is it running?")
    turn, command = TURNS.get(state.reason, (SERIN, ""))
    if state.phase is Phase.ROLLING_BACK:
        turn, command = SERIN, ""
    elif state.reason == "AwaitingApproval" and change.type in APPROVERS:
        turn = APPROVERS[change.type]
    until, then = _until(state, policy) if policy else (None, "")
    revocable = state.phase in (Phase.WAITING, Phase.PROGRESSING) and any(t.stable_revision for t in state.targets)
    return Wait(
        f"{state.reason}: {state.message}",
        turn,
        until,
        then,
        _fill(command, change, state),
        "kubectl apply -f FILE  # with the manifest that ran before" if revocable else "",
    )


def _fill(command: str, change: Change, state: State) -> str:
    """Names that only the message knows are taken from it: for people to read, nothing is decided on them."""
    names = [t.name for t in state.targets] or list(change.deployments) or ["NAME"]
    others = [i for i in re.findall(r"CHG-\d{8}-\d{3,6}", state.message) if i != change.change_id]
    annotation = re.search(rf"annotation ({re.escape(PREFIX)}[a-z-]+)", state.message)
    return command.format(
        deployment=f"deployment/{names[0]} -n {change.namespace}",
        namespace=change.namespace,
        label=f"{CHANGE_LABEL}={change.change_id}",
        type=change.type or ChangeType.NORMAL,
        other=others[0] if others else "CHG-ID",
        annotation=annotation[1] if annotation else f"{PREFIX}NAME",
    )


def _until(state: State, policy: Policy) -> tuple[datetime | None, str]:
    """When the wait ends by itself at the latest, and what happens then."""
    if state.entered_at is None:
        return None, ""
    if state.stage is Stage.DRAIN:
        return state.entered_at + policy.drain_max, "the canary is removed"
    if state.stage is Stage.RECOVER and not state.promoted:
        return state.entered_at + policy.capacity_wait_max, "the traffic returns all the same"
    if state.phase is Phase.PROGRESSING:
        return _until_the_next_step(state, policy, state.entered_at)
    if state.phase is Phase.PROMOTING and state.stage is Stage.ROLL:
        if state.settled_at:
            return state.settled_at + policy.steps[-1].bake, "completed"
        return state.entered_at + policy.health.progress_deadline, "given up, ProgressDeadline"
    return None, ""


def _until_the_next_step(state: State, policy: Policy, entered_at: datetime) -> tuple[datetime | None, str]:
    if state.no_data_since:
        return state.no_data_since + policy.no_data_deadline, "back to stable, Inconclusive"
    if state.settled_at is None:
        return entered_at + policy.health.progress_deadline, "given up, ProgressDeadline"
    bake = policy.step(state.step).bake
    if state.reason == "OverLimit":
        return _breached_at(state, policy), "back to stable, if no good sample comes before"
    if state.reason == "LowTraffic":
        holds = policy.low_traffic is LowTraffic.HOLD
        return (None, "") if holds else (state.settled_at + 2 * bake, f"{_next(state, policy)}, marked LowEvidence")
    return (state.settled_at + bake, _next(state, policy)) if state.reason == "Baking" else (None, "")


def _next(state: State, policy: Policy) -> str:
    following = policy.steps[state.step :]
    return f"on to {following[0].weight} %" if following else "promotion"


def _breached_at(state: State, policy: Policy) -> datetime | None:
    """When the first of the limits that are exceeded now will have been so for too long."""
    sustained = {"error-rate": policy.error_rate.sustained} | {slo.name: slo.sustained for slo in policy.slos}
    ends = [b.last_at + sustained[b.rule] - b.bad_for for b in state.breaches if b.last_bad and b.last_at]
    return min(ends, default=None)
