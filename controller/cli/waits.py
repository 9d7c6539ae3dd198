"""What a change waits for: whose turn it is, until when, and the command that ends the wait. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from controller.core.change import CHANGE_LABEL, JOB_LABEL, PREFIX, check_id, printable
from controller.core.model import Change, JobOutcome, Phase, Stage, State
from controller.core.policy import ChangeType, LowTraffic, Policy

SERIN, REQUESTER, SRE = "Serin's, by itself", "the requester's", "an SRE's"
APPROVER, REVIEWER = "an approver's", "a reviewer's"
APPROVERS = {ChangeType.NORMAL: "an engineering manager's", ChangeType.EMERGENCY: "the CTO's"}


@dataclass(frozen=True)
class Wait:
    """`then` is what happens at `until`. `command` ends the wait, and is empty when nobody has to do anything;
    `way_back` gives the change up. `verb`: what the right to end it is called on changetypes.serin.dev."""

    what: str
    turn: str
    until: datetime | None = None
    then: str = ""
    command: str = ""
    way_back: str = ""
    verb: str = ""


@dataclass(frozen=True)
class Turn:
    """Whose turn it is when a change shows a reason, and the command that ends it, empty when nobody has to do a thing.

    `verb`: the right on changetypes.serin.dev that the command takes. `held`: nothing goes on until it is done.
    """

    whose: str = SERIN
    command: str = ""
    verb: str = ""
    held: bool = False


def by_serin() -> Turn:
    return Turn()


def by_requester(command: str) -> Turn:
    return Turn(REQUESTER, command, held=True)


def by_sre(command: str) -> Turn:
    return Turn(SRE, command, held=True)


def gate(command: str, verb: str, *, held: bool = False) -> Turn:
    whose = APPROVER if verb == "approve" else f"theirs who may {verb} it"
    return Turn(whose, f"kubectl serin {command} {{change}}", verb, held)


_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
NEW_ID = f"kubectl label {{deployment}} {CHANGE_LABEL}=$(kubectl serin new-id) --overwrite"
ANNOTATE = "kubectl annotate {deployment} --overwrite"
INSTALL = "kubectl apply --server-side -k manifests/"
INSTALL_POLICIES = "kubectl apply --server-side -k policies/"
EDIT_POLICY = "kubectl edit chgp {type}"
WINDOWS = "kubectl serin windows --for {change}"
CONTROLLER_LOG = "kubectl logs -n serin-system deployment/serin"

TURNS: Mapping[str, Turn] = {
    # Gates: people decide
    "AwaitingApproval": gate("approve", "approve"),
    "TestsUnverified": gate("approve --tests 'TEXT OR LINK'", "approve"),
    "ApprovalDenied": gate("rollback --reason 'denied afterwards'", "rollback", held=True),
    "Paused": gate("resume", "pause", held=True),
    "ForwardOnlyUnsaid": gate("approve --forward-only", "approve"),
    "CannotGoBack": gate("rollback --reason 'TEXT'", "rollback", held=True),
    "StableOutOfBudget": gate("approve --over-budget", "approve"),
    "ApprovalOverdue": gate("approve", "approve"),
    "ReviewOverdue": Turn(REVIEWER, "kubectl serin review {other} -n {namespace}", "review", held=True),
    "JobFailed": by_requester("kubectl delete job/{job} -n {namespace}  # when it is mended: it runs again"),
    "NoSuchJob": by_requester(
        f"kubectl label cronjob/{{cron_job}} -n {{namespace}} {JOB_LABEL}=true  # or create it so"
    ),
    "FormIncomplete": by_requester(f"{ANNOTATE} {{annotation}}=TEXT  # and each other field that is named"),
    "NotStandard": by_requester(f"{ANNOTATE} {PREFIX}type=normal  # then it asks for approval"),
    # Gates: time, unless people with the right to do so go past them
    "CheckingStable": by_serin(),
    "AwaitingJobs": by_serin(),
    "OutsideWindow": Turn(SERIN, WINDOWS),
    "NotBefore": Turn(SERIN, WINDOWS),
    "Frozen": Turn("the freeze's owner's, or time's", WINDOWS),
    "NoOpening": by_sre(EDIT_POLICY),
    # What was asked for
    "InvalidChangeID": by_requester(NEW_ID),
    "DuplicateChangeID": by_requester(NEW_ID),
    "ChangeClosed": by_requester(NEW_ID),
    "ChangeRunning": by_requester(NEW_ID),
    "UnknownType": by_requester(f"{ANNOTATE} {PREFIX}type=normal"),
    "TypeDiffers": by_requester(f"{ANNOTATE} {PREFIX}type={{type}}"),
    "InvalidForm": by_requester("kubectl edit changerequest/{record} -n {namespace}"),
    "InvalidAnnotation": by_requester(f"{ANNOTATE} {{annotation}}=TEXT"),
    "NoDeployment": by_requester("kubectl apply -f FILE  # a new template, labelled {label}"),
    "AnotherChangeActive": Turn(SERIN, "kubectl serin wait {other} -n {namespace}"),
    "RejectedRevision": by_requester("kubectl serin retry {other} -n {namespace}  # to run it knowingly"),
    # What it was asked about
    "OwnedByAnotherController": by_requester(
        f"kubectl label {{deployment}} {CHANGE_LABEL}-  # or remove the other controller"
    ),
    "GitOpsWillRevert": by_requester("kubectl serin status {change} -n {namespace}  # shows the YAML to add"),
    "GitOpsUnknown": Turn(REQUESTER, "kubectl get httproutes,hpa -n {namespace} -o yaml  # where they come from"),
    "NameTaken": by_requester("kubectl get services,deployments -n {namespace}  # rename the one that is in the way"),
    "TwoActiveReplicaSets": by_requester("kubectl apply -f FILE  # with the template of one of the two"),
    "ServiceWithoutPods": by_requester("kubectl edit services -n {namespace}"),
    "NoReferenceGrant": by_requester("kubectl apply -f FILE  # a ReferenceGrant in the Service's namespace"),
    "RouteNotAccepted": by_requester("kubectl get httproutes,grpcroutes -n {namespace} -o yaml  # see status.parents"),
    "Contested": Turn(SERIN, "kubectl get httproutes,hpa -n {namespace} -o yaml --show-managed-fields  # who wrote it"),
    "LabelRemoved": by_requester("kubectl label {deployment} {label}"),
    "ServiceChanged": by_requester("kubectl edit services -n {namespace}  # its selector, as it was"),
    "RouteLost": by_requester("kubectl apply -f FILE  # the route, as it was"),
    "RouteStuck": by_sre("kubectl get httproutes,grpcroutes -n {namespace} -o yaml  # see status.parents"),
    "ScaledToZero": by_requester("kubectl scale {deployment} --replicas=NUMBER"),
    "StableNotReady": by_requester("kubectl describe {deployment}"),
    # What Serin stands on
    "AdmissionMissing": by_sre(INSTALL_POLICIES),
    "NotHeld": by_sre(INSTALL_POLICIES),
    "PolicyNotFound": by_sre(INSTALL_POLICIES),
    "PermissionDenied": by_sre(INSTALL),
    "MissingCRDs": by_sre(INSTALL),
    "InvalidPolicy": by_sre(EDIT_POLICY),
    "InvalidQuery": by_sre(EDIT_POLICY),
    "NoSuchBucket": by_sre(EDIT_POLICY),
    "NoHistogram": by_sre(EDIT_POLICY),
    "UnknownStatus": by_sre(INSTALL),
    "NoData": by_sre(CONTROLLER_LOG),
    "NoMetrics": by_sre(CONTROLLER_LOG),
    "PartialData": by_sre(CONTROLLER_LOG),
    "PrometheusError": by_sre(CONTROLLER_LOG),
    "PrometheusUnreachable": by_sre(CONTROLLER_LOG),
    "UnexpectedSeries": by_sre(CONTROLLER_LOG),
    "IncidentWithoutStart": by_sre(CONTROLLER_LOG),
    "IndistinguishablePods": by_requester("kubectl apply -f FILE  # the Deployment under a shorter name"),
    # Under way: time, and nobody
    "Started": by_serin(),
    "Advanced": by_serin(),
    "Judged": by_serin(),
    "CapacityPending": by_serin(),
    "RoutePending": by_serin(),
    "Settling": by_serin(),
    "Baking": by_serin(),
    "NoVerdict": by_serin(),
    "OverLimit": by_serin(),
    "Suspicious": by_serin(),
    "NoTraffic": by_serin(),
    "LowTraffic": by_serin(),
    "Promoting": by_serin(),
    "Rolling": by_serin(),
    "Watching": by_serin(),
    "Returning": by_serin(),
    "Draining": by_serin(),
    "CleaningUp": by_serin(),
}
"""By reason. In a rollback it is Serin's turn whatever the cause was, but for what hinders the rollback itself."""
HINDERING = ("PermissionDenied", "RouteStuck", "StableNotReady")


def turn_of(state: State) -> Turn:
    """Of a reason that is not in the table, Serin's own: the message says what it is."""
    if state.phase is Phase.ROLLING_BACK and state.reason not in HINDERING:
        return by_serin()
    stays = any(warning.startswith("CannotGoBack: ") for warning in state.warnings)
    return TURNS.get("CannotGoBack" if stays else state.reason, by_serin())


def held(state: State) -> bool:
    """Somebody has to mend, or resume, something: time alone does not end it."""
    return turn_of(state).held


def waiting(change: Change, state: State, policy: Policy | None) -> Wait | None:
    """None when the change is closed. `policy`: its own, or that of its type while it has not started."""
    if state.phase.terminal:
        return _after_the_end(change, state)
    if not state.reason:
        return Wait("the controller to see it", SRE, command="kubectl get pods -n serin-system  # is it running?")
    turn = turn_of(state)
    until, then = _until(change, state, policy) if policy else (None, "")
    return Wait(
        what=f"{state.reason}: {state.message}",
        turn=APPROVERS.get(change.type, turn.whose) if change.type and turn.whose is APPROVER else turn.whose,
        until=until,
        then=then,
        command=_fill(turn.command, change, state),
        way_back=_fill(_way_back(state), change, state),
        verb=turn.verb,
    )


def _after_the_end(change: Change, state: State) -> Wait | None:
    """The review that closes the record, and the approval of what started on a declaration."""
    if state.closed_at or not state.review_due_at:
        return None
    warning = next((w for w in state.warnings if w.startswith("Approval")), "")
    if not warning:
        command = f"kubectl serin review {named(change)}"
        what = "its post-implementation review, by someone who did not ask for it"
        return Wait(what, REVIEWER, state.review_due_at, "ReviewOverdue", command, verb="review")
    turn = APPROVERS.get(change.type, APPROVER) if change.type else APPROVER
    command, back = f"kubectl serin approve {named(change)}", ""
    if state.phase is Phase.COMPLETED and state.targets:
        back = f"kubectl serin revert {state.targets[0].name} -n {change.namespace}"
    return Wait(warning, turn, state.review_due_at, "", command, back, verb="approve")


def _way_back(state: State) -> str:
    """Of a first deployment there is none."""
    if not any(t.stable_revision for t in state.targets):
        return ""
    if state.phase is Phase.WAITING and len(state.targets) == 1:
        return "kubectl serin revert {name} -n {namespace}"
    if state.phase is Phase.WAITING:
        return "kubectl apply -f FILE  # with the manifests that ran before"
    going = state.phase in (Phase.PROGRESSING, Phase.PROMOTING) and state.stage in (None, Stage.ROLL, Stage.WATCH)
    return "kubectl serin rollback {change} --reason 'TEXT'" if going else ""


def named(change: Change) -> str:
    """A change as the commands take it; what is no ID may be anything, and this is pasted into shells."""
    return f"{_id(change)} -n {change.namespace}"


def _id(change: Change) -> str:
    return change.name if check_id(change.change_id) else change.change_id


def _fill(command: str, change: Change, state: State) -> str:
    """Names that only the message knows are taken from it: for people to read, nothing is decided on them."""
    names = [t.name for t in state.targets] or [n for n in change.deployments if _NAME.fullmatch(n)] or ["NAME"]
    others = [i for i in re.findall(r"CHG-\d{8}-\d{3,6}", state.message) if i != change.change_id]
    annotation = re.search(rf"annotation ({re.escape(PREFIX)}[a-z-]+)", state.message)
    stopped = (JobOutcome.FAILED, JobOutcome.MISSING, JobOutcome.NOT_OFFERED)
    run = next((run for run in state.jobs if run.required and run.outcome in stopped), None)
    return command.format(
        job=run.job if run else "NAME",
        cron_job=printable(run.cron_job, 60) if run else "NAME",
        change=named(change),
        record=change.name,
        name=names[0],
        deployment=f"deployment/{names[0]} -n {change.namespace}",
        namespace=change.namespace,
        label=f"{CHANGE_LABEL}={_id(change)}",
        type=change.type or ChangeType.NORMAL,
        other=others[0] if others else "CHG-ID",
        annotation=annotation[1] if annotation else f"{PREFIX}NAME",
    )


def _until(change: Change, state: State, policy: Policy) -> tuple[datetime | None, str]:
    """When the wait ends by itself at the latest, and what happens then."""
    if state.reason in ("AwaitingApproval", "TestsUnverified") and change.created_at and policy.approval.respond_within:
        escalated = f"{policy.approval.escalate_to or 'nobody else'} is told; time never approves"
        return change.created_at + policy.approval.respond_within, escalated
    if state.reason in ("OutsideWindow", "Frozen", "NotBefore") and state.window:
        return state.window.start, "it starts, when its other gates are open"
    if state.entered_at is None:
        return None, ""
    if state.stage is Stage.DRAIN:
        return state.entered_at + policy.drain_max, "the canary is removed"
    if state.stage is Stage.RECOVER and not state.promoted:
        return state.entered_at + policy.capacity_wait_max, "the traffic returns all the same"
    if state.phase is Phase.PROGRESSING:
        return _until_the_next_step(state, policy, state.entered_at)
    if state.stage is Stage.WATCH:
        return state.entered_at + policy.after.watch, "completed"
    if state.phase is Phase.PROMOTING and state.stage is Stage.ROLL:
        if state.settled_at:
            return state.settled_at + policy.steps[-1].bake, "completed"
        return (state.progressed_at or state.entered_at) + policy.health.progress_deadline, "given up, ProgressDeadline"
    return None, ""


def _until_the_next_step(state: State, policy: Policy, entered_at: datetime) -> tuple[datetime | None, str]:
    if state.no_data_since:
        return state.no_data_since + policy.no_data_deadline, "back to stable, Inconclusive"
    if state.settled_at is None:
        return (state.progressed_at or entered_at) + policy.health.progress_deadline, "given up, ProgressDeadline"
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
    sustained = {rule.name: rule.sustained for rule in policy.rules}
    ends = [b.last_at + sustained[b.rule] - b.bad_for for b in state.breaches if b.last_bad and b.last_at]
    return min(ends, default=None)
