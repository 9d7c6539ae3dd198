"""What a change waits for, as its reader needs it: whose turn it is, until when, and the command that ends the wait. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from controller.core.change import CHANGE_LABEL, PREFIX, RETRY, printable
from controller.core.model import Change, Phase, Stage, State
from controller.core.policy import ChangeType, LowTraffic, Policy

SERIN, REQUESTER, SRE = "Serin's, by itself", "the requester's", "an SRE's"
APPROVERS = {ChangeType.NORMAL: "an engineering manager's", ChangeType.EMERGENCY: "the CTO's"}


@dataclass(frozen=True)
class Wait:
    """`then` is what happens at `until`; `command` is empty when nobody has to do anything."""

    what: str
    turn: str
    until: datetime | None = None
    then: str = ""
    command: str = ""


NEW_ID = f"kubectl label {{deployment}} {CHANGE_LABEL}=$(kubectl serin new-id) --overwrite"
INSTALL_POLICIES = "kubectl apply --server-side -k policies/"
INSTALL = "kubectl apply --server-side -k manifests/"

TURNS: Mapping[str, tuple[str, str]] = {
    # Before the start
    "InvalidChangeID": (REQUESTER, NEW_ID),
    "DuplicateChangeID": (REQUESTER, NEW_ID),
    "UnknownType": (REQUESTER, f"kubectl annotate {{deployment}} {PREFIX}type=normal --overwrite"),
    "InvalidAnnotation": (REQUESTER, "kubectl annotate {deployment} {annotation}='A SHORTER TEXT' --overwrite"),
    "NoDeployment": (REQUESTER, "kubectl apply -f FILE  # a new template, labelled {label}"),
    "AwaitingApproval": ("", f"kubectl annotate {{deployment}} {PREFIX}type=standard --overwrite  # if it is a standard one"),
    "AnotherChangeActive": (SERIN, "kubectl serin wait {other} -n {namespace}"),
    "RejectedRevision": (REQUESTER, f"kubectl annotate {{deployment}} {RETRY}={{other}} --overwrite  # run it knowingly"),
    "OwnedByAnotherController": (REQUESTER, f"kubectl label {{deployment}} {CHANGE_LABEL}-"),
    "NotHeld": (SRE, INSTALL_POLICIES),
    "TwoActiveReplicaSets": (REQUESTER, "kubectl apply -f FILE  # with the template of one of the two"),
    "ServiceWithoutPods": (REQUESTER, "kubectl edit service -n {namespace}"),
    "NoReferenceGrant": (REQUESTER, "kubectl apply -f FILE  # a ReferenceGrant in the Service's namespace"),
    "NoMetrics": (SERIN, ""),
    "PrometheusUnreachable": (SRE, "kubectl logs -n serin-system deployment/serin"),
    # Under way
    "RouteLost": (REQUESTER, "kubectl apply -f FILE  # the route, as it was"),
    "NoData": (SRE, "kubectl logs -n serin-system deployment/serin"),
}
"""By reason: whose turn it is and the command; a reason that is not here is Serin's own once the change has started."""


def waiting(change: Change, state: State, policy: Policy | None) -> Wait | None:
    """None when the change has ended. `policy`: the one of the change's type, for a change that has not started."""
    if state.phase.terminal:
        return None
    unknown = (REQUESTER, "kubectl describe chg {name} -n {namespace}") if state.phase is Phase.WAITING else (SERIN, "")
    turn, command = TURNS.get(state.reason, unknown)
    if state.reason.endswith(("Policy", "PolicyMissing")) or state.reason.startswith("Policy"):
        turn, command = SRE, "kubectl edit chgp {type}"
    if state.reason == "AwaitingApproval":
        turn = APPROVERS.get(change.type or ChangeType.NORMAL, SRE)
    elif not state.reason:
        turn, command = SERIN, "kubectl get pods -n serin-system  # is it running?"
    until, then = _until(state, state.policy or policy)
    return Wait(printable(state.message or "the controller to see it", 400), turn, until, then, _fill(command, change, state))


def _fill(command: str, change: Change, state: State) -> str:
    """The names that only the message knows are taken from it; it is shown beside the command."""
    names = [t.name for t in state.targets] or list(change.deployments) or ["NAME"]
    others = [i for i in re.findall(r"CHG-\d{8}-\d{3,6}", state.message) if i != change.change_id]
    annotation = re.search(rf"annotation ({re.escape(PREFIX)}[a-z-]+)", state.message)
    return command.format(
        deployment=f"deployment/{names[0]} -n {change.namespace}",
        namespace=change.namespace,
        name=change.name,
        label=f"{CHANGE_LABEL}={change.change_id}",
        type=change.type or "normal",
        other=others[0] if others else "CHG-ID",
        annotation=annotation[1] if annotation else f"{PREFIX}ANNOTATION",
    )


def _until(state: State, policy: Policy | None) -> tuple[datetime | None, str]:
    """When the wait ends by itself at the latest, and what happens then."""
    if policy is None or state.entered_at is None:
        return None, ""
    if state.reason == "NoData" and state.no_data_since:
        return state.no_data_since + policy.no_data_deadline, "back to stable, Inconclusive"
    if state.stage is Stage.DRAIN:
        return state.entered_at + policy.drain_max, "the canary is removed"
    if state.stage is Stage.RECOVER:
        return state.entered_at + policy.capacity_wait_max, "the traffic returns all the same" if not state.promoted else ""
    if state.phase is Phase.PROGRESSING and state.settled_at:
        bake = policy.steps[state.step].bake
        if state.reason == "LowTraffic":
            hold = policy.low_traffic is LowTraffic.HOLD
            return (None, "") if hold else (state.settled_at + 2 * bake, "on, marked LowEvidence")
        if state.reason == "OverLimit":
            return _breached_at(state, policy), "back to stable, if no good sample comes before"
        if state.reason in ("Baking", "Judged"):
            return state.settled_at + bake, _next(state, policy)
    if state.phase in (Phase.PROGRESSING, Phase.PROMOTING) and not state.settled_at:
        return state.entered_at + policy.health.progress_deadline, "back to stable, ProgressDeadline"
    if state.reason == "Watching" and state.settled_at:
        return state.settled_at + policy.steps[-1].bake, "completed"
    return None, ""


def _next(state: State, policy: Policy) -> str:
    following = policy.steps[state.step + 1 :]
    return f"on to {following[0].weight} %" if following else "promotion"


def _breached_at(state: State, policy: Policy) -> datetime | None:
    """When the first limit that is exceeded now will have been so for too long."""
    sustained = {"error-rate": policy.error_rate.sustained} | {slo.name: slo.sustained for slo in policy.slos}
    ends = [b.last_at + sustained[b.rule] - b.bad_for for b in state.breaches if b.last_bad and b.last_at and b.rule in sustained]
    return min(ends, default=None)
