"""The gates before the start: who has to agree, what has to be true. They block forward moves alone.

Checks like those of `checks`; what is pre-approved (a revert) or bypassed does not meet them.
"""

from datetime import datetime

from controller.core import checks, jobs, slo
from controller.core.change import PREFIX, TYPE, printable
from controller.core.checks import Finding, targets
from controller.core.codec import format_ratio
from controller.core.decisions import approvals, bypass, last, objection, pause
from controller.core.diff import differences
from controller.core.form import NAMES, missing
from controller.core.model import Action, JobOutcome, Observation, Phase, Revert, State, Strategy
from controller.core.policy import ChangeType, FirstDeployment, LogErrors, Policy, When
from controller.core.samples import Arm
from controller.core.scope import refusal
from controller.core.windows import OnClose, Timing, moment_text, opening_at, timing


def free(state: State, observation: Observation, policy: Policy, now: datetime) -> bool:
    """Whether it starts without asking anyone."""
    return state.revert or bypass(state, observation, now) is not None


def denied(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Someone who might have approved it said no: it is over. It may be asked for anew, under another ID."""
    ruling = last(state, Action.DENY)
    if ruling is None or policy.approval.when is When.AFTER:
        return None
    return Finding("Denied", f"{ruling.by} denied it: {ruling.reason}", Phase.DENIED)


def paused(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    ruling = pause(state)
    if ruling is None:
        return None
    return Finding(
        "Paused", f"by {ruling.by} since {ruling.at:%H:%M} UTC: {ruling.reason}; {_run('resume', observation)}"
    )


def form_incomplete(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The type asks for fields of the change-request form that are not filled."""
    change = observation.change
    names = missing(change, policy)
    if not names or first_and_free(state, observation, policy) or free(state, observation, policy, now):
        return None
    each = ", ".join(f"{name} (annotation {PREFIX}{NAMES[name].annotation})" for name in names)
    where = f"deployment/{state.targets[0].name} -n {change.namespace}"
    texts = " ".join(f"{PREFIX}{NAMES[name].annotation}='TEXT'" for name in names)
    return Finding(
        "FormIncomplete",
        f"{change.type} changes have to say {each}: kubectl annotate {where} {texts}",
    )


def not_standard(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The template differs from stable in what the policy's scope does not allow.

    A first deployment has no stable template, and so no difference that could be outside; one that is created anew
    under a name that had changes before could be anything.
    """
    scope, change = policy.scope, observation.change
    if scope is None or free(state, observation, policy, now):
        return None
    for target, seen in targets(state, observation):
        if seen.deployment is None:
            continue
        if target.stable_revision:
            found = differences(target.stable_template, seen.deployment.template)
            wrong = [f"{printable(d.path)} {why}" for d in found if (why := refusal(d, scope))]
        else:
            anew = target.name in started_before(observation)
            wrong = ["it was created anew, and there is no stable template to compare it with"] if anew else []
        if wrong:
            more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            annotate = f"kubectl annotate deployment/{target.name} -n {change.namespace} --overwrite {TYPE}=normal"
            return Finding(
                "NotStandard",
                f"{target.name} is outside the scope of {change.type} changes: {'; '.join(wrong[:5])}{more}. "
                f"Ask for approval: {annotate}",
            )
    return None


def awaiting_approval(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """People who may approve have not, or no longer may, or did so for another revision."""
    if not asks_first(state, observation, policy) or free(state, observation, policy, now):
        return None
    missing = policy.approval.required - len(approvals(state, observation, now))
    if missing <= 0:
        return None
    kind = observation.change.type
    count = "an approval" if missing == 1 else f"{missing} approvals of different people"
    people = ", ".join(state.requesters)
    return Finding(
        "AwaitingApproval",
        f"needs {count} by who may approve changetypes/{kind}, but not {people}: {_run('approve', observation)}",
    )


def tests_unverified(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Approved, but nobody said how the tests were verified."""
    if not policy.approval.tests or not asks_first(state, observation, policy) or free(state, observation, policy, now):
        return None
    if any(ruling.tests for ruling in approvals(state, observation, now)):
        return None
    return Finding(
        "TestsUnverified",
        f"no approval says how the tests were verified: {_run('approve', observation)} --tests 'link or text'",
    )


def review_overdue(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """An earlier change of the workload was not reviewed in time."""
    if observation.change.type is ChangeType.EMERGENCY or free(state, observation, policy, now):
        return None
    if not policy.review.blocks:
        return None
    mine = {t.name for t in state.targets}
    for other in observation.others:
        same = other.namespace == observation.change.namespace and mine & set(other.revisions)
        if same and other.review_due_at and other.review_due_at <= now:
            return Finding(
                "ReviewOverdue",
                f"the review of {other.change_id} was due {other.review_due_at:%Y-%m-%d %H:%M} UTC: "
                f"kubectl serin review {other.change_id} -n {other.namespace}",
            )
    return None


def gitops_will_revert(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """GitOps would put back what the change is to write: a fight, which it would lose after three rounds."""
    if observation.change.type is ChangeType.EMERGENCY or free(state, observation, policy, now):
        return None
    revert = next((r for target in state.targets for r in target.reverts if r.known), None)
    if revert is None:
        return None
    return Finding("GitOpsWillRevert", f"{_puts_back(revert)}; the YAML to add there: {_run('status', observation)}")


def gitops_warnings(state: State) -> tuple[str, ...]:
    """Of what starts all the same, and of what is not known."""
    found = [revert for target in state.targets for revert in target.reverts]
    ask = "which this change has to write, and cannot be read here: it has to leave that alone"
    unknown = (f"GitOpsUnknown: {r.by} manages {r.what}, {ask}" for r in found if not r.known)
    return (*(f"GitOpsWillRevert: {_puts_back(r)}" for r in found if r.known), *unknown)


def _puts_back(revert: Revert) -> str:
    return f"{revert.by} puts back {revert.what}, which this change has to write"


def schedule(state: State, observation: Observation, policy: Policy, now: datetime) -> Timing | None:
    """When it may start; None: at any time, for no window and no freeze binds it."""
    if observation.change.type is ChangeType.EMERGENCY or free(state, observation, policy, now):
        return None
    canary = any(t.strategy is Strategy.CANARY for t in state.targets)
    needs = policy.needs(canary=canary) + jobs.to_come(state)
    return timing(policy.window, now, needs, observation.change.not_before)


def outside_window(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """No window is open in which it could finish, changes are frozen, or it was not to start before a later moment."""
    found = schedule(state, observation, policy, now)
    return Finding(found.reason, found.message) if found and not found.may_start else None


def standard_cannot_go_back(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """What is pre-approved has a way back."""
    if not state.forward_only or observation.change.type is not ChangeType.STANDARD:
        return None
    return Finding(
        "NotStandard",
        "spec.rollback is forwardOnly, and a standard change can go back: ask for a normal one with the annotation "
        f"{PREFIX}type=normal, or take the annotation {PREFIX}rollback away",
    )


def forward_only_unsaid(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Approved, but nobody who approved it said that he knows that it cannot go back."""
    if not state.forward_only or not asks_first(state, observation, policy) or free(state, observation, policy, now):
        return None
    if any(ruling.forward_only for ruling in approvals(state, observation, now)):
        return None
    return Finding(
        "ForwardOnlyUnsaid",
        f"it cannot go back (spec.rollback: forwardOnly), and no approval says that it knows: "
        f"{_run('approve', observation)} --forward-only",
    )


ABOUT_STABLE = ("CheckingStable", "NoMetrics", "StableOutOfBudget", "NoSuchJob", "JobFailed", "AwaitingJobs")
"""While a change waits for one of these, stable is measured."""


def stable_out_of_budget(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The service breaks a limit already: a change would make it worse, and could not be told from it.

    An approver may say that it starts all the same; an Emergency does, it may be the cure.
    """
    if observation.change.type is ChangeType.EMERGENCY or free(state, observation, policy, now):
        return None
    if any(ruling.over_budget for ruling in approvals(state, observation, now)):
        return None
    arms = observation.arms
    for target in state.targets:
        for rule in policy.rules if target.stable_revision else ():
            arm = arms.get((target.name, rule.name, "stable"))
            if arm is None:
                if target.strategy is Strategy.CANARY:
                    return Finding("CheckingStable", f"asking how {target.name} does before anything is changed")
                continue
            bad, total = slo.window(arm.samples, max((s.at for s in arm.samples), default=now), rule.window)
            if total >= policy.min_requests and slo.exceeds(bad, total, rule.bad_ratio_max):
                share = f"{format_ratio(round(bad / total, 4))} bad, limit {format_ratio(rule.bad_ratio_max)}"
                way_on = f"mend that, or approve it knowing that: {_run('approve', observation)} --over-budget"
                message = f"{rule.name} of {target.name} is broken before the change: {share}; {way_on}"
                return Finding("StableOutOfBudget", message)
    return None


def unseen(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The source finds nothing of stable, so it would find nothing of its canary either."""
    if observation.change.type is ChangeType.EMERGENCY or free(state, observation, policy, now):
        return None
    arms = observation.arms
    for target in state.targets:
        for rule in policy.rules if target.strategy is Strategy.CANARY else ():
            if arms.get((target.name, rule.name, "stable"), Arm()).fresh_at is None:
                source = rule.counter if isinstance(rule, LogErrors) else f"the preset {policy.metrics.preset}"
                what = f"{source} finds nothing of {target.name} in Prometheus, so {rule.name} cannot be judged"
                return Finding("NoMetrics", f"{what}: mend its scrape, or name another source in the ChangePolicy")
    return None


def jobs_pending(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """What is to be run right before the start, when all else lets it start: backups, tests."""
    if free(state, observation, policy, now):
        return None
    change = observation.change
    required = [run for run in state.jobs if run.required]
    if run := next((run for run in required if run.outcome in jobs.UNFIT), None):
        return Finding("NoSuchJob", jobs.unfit(run, change))
    if run := next((run for run in required if run.outcome is JobOutcome.FAILED), None):
        way_on = f"mend it and have it run again: {jobs.again(run, change)}"
        return Finding("JobFailed", f"{jobs.failed(run, change)}; {way_on}; or {_run('bypass', observation)}")
    if under_way := [run for run in state.jobs if run.outcome in jobs.UNDER_WAY]:
        names = ", ".join(run.job for run in under_way)
        trouble = f"; {observation.refusal}" if observation.refusal else ""
        return Finding(
            "AwaitingJobs", f"running before the start: {names} (kubectl get job -n {change.namespace}){trouble}"
        )
    return None


def asks_first(state: State, observation: Observation, policy: Policy) -> bool:
    """Whether approvals come before the start."""
    before = policy.approval.required > 0 and policy.approval.when is When.BEFORE
    return before and not first_and_free(state, observation, policy)


def first_and_free(state: State, observation: Observation, policy: Policy) -> bool:
    """The first deployment of all that the change is about, which the policy lets run unasked."""
    known = started_before(observation)
    first = all(not t.stable_revision and t.name not in known for t in state.targets)
    return first and policy.first_deployment is FirstDeployment.RUN


def started_before(observation: Observation) -> set[str]:
    """Deployments that had a change before: one that is created anew is no first one of its name."""
    here = [other for other in observation.others if other.namespace == observation.change.namespace]
    return {name for other in here if other.started for name in other.revisions}


def approval(state: State, observation: Observation, policy: Policy, now: datetime) -> str:
    """Who lets it start, in a few words."""
    if state.revert:
        return "pre-approved: a revert"
    if ruling := bypass(state, observation, now):
        return f"bypassed by {ruling.by}"
    given = approvals(state, observation, now)
    names = ", ".join(ruling.by for ruling in given)
    if policy.approval.required == 0:
        return "pre-approved"
    if not asks_first(state, observation, policy):
        after = policy.approval.when is When.AFTER
        return (names or "declared; approval follows") if after else "pre-approved: a first deployment"
    return f"{len(given)} of {policy.approval.required}{': ' + names if names else ''}"


# --- Under way ---


def rollback_requested(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """A person wants it back: for behaviour, performance or complaints that no metric shows."""
    ruling = last(state, Action.ROLLBACK)
    return Finding("RollbackRequested", f"by {ruling.by}: {ruling.reason}", rejected=True) if ruling else None


BY_WILL = (
    checks.withdrawn,
    checks.deployment_deleted,
    checks.superseded,
    rollback_requested,
)
"""What sends a change back that cannot go back by itself: people, and the end of what it is about."""


def way_back(observation: Observation) -> str:
    """Who takes back what evidence alone does not, and how."""
    kind = observation.change.type
    return f"who may rollback changetypes/{kind} takes it back: {_run('rollback', observation)} --reason TEXT"


def approval_denied(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """What started on a declaration was not approved afterwards: someone has to take it back, or accept it."""
    ruling = objection(state)
    if ruling is None:
        return None
    ways = f"{_run('rollback', observation)}, or accept it: {_run('approve', observation)}"
    return Finding("ApprovalDenied", f"{ruling.by} denied it afterwards: {ruling.reason}; take it back: {ways}")


def window_closed(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The opening in which it was started is over, and none is open: what that means is the policy's word."""
    if state.window is None or now < state.window.end or opening_at(policy.window, now):
        return None
    return Finding("WindowClosed", f"the window {state.window.name} ended at {moment_text(state.window.end, 'UTC')}")


def closed_on(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """A window that closes takes the change back."""
    return window_closed(state, observation, policy, now) if policy.window.on_close is OnClose.ROLL_BACK else None


def waits_for_window(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """A window that closes lets the change stand still until the next one opens."""
    return window_closed(state, observation, policy, now) if policy.window.on_close is OnClose.HOLD else None


def _run(verb: str, observation: Observation) -> str:
    change = observation.change
    return f"kubectl serin {verb} {change.change_id} -n {change.namespace}"
