"""The state machine: a table of rules by phase, and what the first rule that speaks leads to. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from controller.core import checks, compare, gates
from controller.core.checks import (
    DATA_PLANE_LAG,
    Check,
    Finding,
    not_paused,
    recovered,
    stable_alone,
    stable_covers,
    targets,
)
from controller.core.codec import format_duration
from controller.core.decisions import last, objection, take_in
from controller.core.model import (
    LOCKED,
    Action,
    Audit,
    Comparison,
    Measurements,
    Observation,
    Phase,
    Seen,
    Stage,
    State,
    Strategy,
    Target,
    Transition,
)
from controller.core.plan import clean_up
from controller.core.policy import ErrorRate, Policy, When
from controller.core.samples import Arm
from controller.core.slo import Breach
from controller.core.track import track

HISTORY_MAX = 64
LET_END = timedelta(seconds=2)
STILL_FOR = timedelta(seconds=5)
CREATED_ANEW_WITHIN = timedelta(seconds=10)
"""So long may a Deployment be gone (`kubectl replace --force`) before its change ends for want of it."""
Advance = Callable[[State, Observation, Policy, datetime], State]


@dataclass(frozen=True)
class Rules:
    """What is asked in a phase, in this order: roll back beats hold beats advance."""

    roll_back: tuple[Check, ...]
    hold: tuple[Check, ...]
    advance: Advance


def decide(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    """The state to commit next. `policy` is the one in force; the change's own copy once it has started."""
    if state.phase.terminal:
        return state if state.closed_at else conclude(state, observation, policy, now)
    before, state = state, track(state, observation, policy, now)
    rules = RULES[state.phase]
    for check in rules.roll_back:
        if finding := check(state, observation, policy, now):
            if finding.rejected and not any(t.stable_revision for t in state.targets):
                return replace(
                    state,
                    reason=finding.reason,
                    message=f"{finding.message}; there is no stable revision to go back to: apply another template",
                )
            if state.forward_only and check not in gates.BY_WILL:
                return _stay(state, observation, finding)
            return roll_back(state, observation, finding, now)
    for check in rules.hold:
        if finding := check(state, observation, policy, now):
            return replace(state, reason=finding.reason, message=finding.message)
    if _verdicts(before) != _verdicts(state):
        # A step up follows a verdict that is already in status: this decision commits it, the next one advances.
        return replace(state, reason="Judged", message="the newest verdicts are in status")
    return rules.advance(state, observation, policy, now)


def _verdicts(state: State) -> tuple[tuple[str, str, str], ...]:
    return tuple((e.rule, e.target, e.verdict) for e in state.evidence)


# --- Moves ---


def enter(
    state: State,
    phase: Phase,
    now: datetime,
    reason: str,
    message: str,
    *,
    stage: Stage | None = None,
    step: int | None = None,
    weight: int,
) -> State:
    """The one way into another phase, stage or step: resets what belongs to the old one, writes the audit record."""
    step = state.step if step is None else step
    # What was carried out is reviewed; without that the change is closed with its end.
    review = state.policy.review.due_within if state.policy and phase.terminal and state.started_at else None
    record = Transition(now, phase, step, weight, reason, message, stage)
    return replace(
        state,
        phase=phase,
        stage=stage,
        step=step,
        weight=weight,
        reason=reason,
        message=message,
        entered_at=now,
        settled_at=None,
        progress=0,
        progressed_at=None,
        no_data_since=None,
        weighted_at=state.weighted_at or (now if stage is Stage.ROLL else None),
        ended_at=now if phase.terminal else None,
        review_due_at=now + review if review else None,
        closed_at=now if phase.terminal and not review else None,
        targets=tuple(replace(t, not_ready_since=None, drifts=0, drift=None, gives_way=False) for t in state.targets),
        history=(*state.history, record)[-HISTORY_MAX:],
    )


def conclude(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    """After the end: the review closes the change. What was never approved has to be accepted, or to have gone back."""
    state = take_in(state, observation, policy, now)
    reviewed = last(state, Action.REVIEW)
    denied = objection(state) if state.phase is Phase.COMPLETED else None
    approved = policy.approval.when is When.BEFORE or last(state, Action.APPROVE) or state.phase is not Phase.COMPLETED
    if reviewed and approved and not denied:
        return replace(state, closed_at=now, warnings=())
    run, change = "kubectl serin", observation.change
    where = f"{change.change_id} -n {change.namespace}"
    warnings = []
    if denied:
        ways = f"revert it ({run} revert) or accept it: {run} approve {where}"
        warnings.append(f"ApprovalDenied: {denied.by} denied it afterwards: {denied.reason}; {ways}")
    overdue = state.review_due_at is not None and now >= state.review_due_at
    if overdue and not approved:
        warnings.append(f"ApprovalOverdue: nobody has approved it afterwards: {run} approve {where}")
    if overdue and not reviewed:
        warnings.append(f"ReviewOverdue: due {state.review_due_at:%Y-%m-%d %H:%M} UTC: {run} review {where}")
    return replace(state, warnings=tuple(warnings))


def _stay(state: State, observation: Observation, finding: Finding) -> State:
    """Evidence against what cannot go back: its weight stays, and a person decides."""
    why, way_back = "it cannot go back by itself (forwardOnly)", gates.way_back(observation)
    where = "as it is" if state.promoted else f"at {state.weight} %"
    warning = f"CannotGoBack: {finding.reason}, and {why}: it stays {where}; {way_back}"
    message = f"{finding.message}; {why} and stays {where}; {way_back}"
    return replace(state, reason=finding.reason, message=message, warnings=(*state.warnings, warning))


def roll_back(state: State, observation: Observation, finding: Finding, now: datetime) -> State:
    state = replace(
        state,
        cause=finding.reason,
        outcome=finding.outcome,
        rejected=finding.rejected and any(t.stable_revision for t in state.targets),
    )
    said_no = finding.reason in ("Withdrawn", "Denied")
    if state.phase is Phase.WAITING and said_no and _asked_for(state, observation):
        # Its template is marked as rejected: a request that was withdrawn or denied is not recorded anew.
        return enter(state, Phase.ROLLING_BACK, now, finding.reason, finding.message, stage=Stage.CLEAN, weight=0)
    if state.phase is Phase.WAITING:
        return enter(state, finding.outcome, now, finding.reason, finding.message, weight=0)
    # Whoever un-paused it has begun what only a promotion may: it is stopped and undone as that is.
    loose = any(not_paused(target, seen) for target, seen in targets(state, observation))
    if loose and not state.promoted:  # the canary keeps what it carries, and is given no more
        carried = (checks.carried(state, seen) for _, seen in targets(state, observation, Strategy.CANARY))
        state = replace(state, promoted=True, weight=min([state.weight, *carried]))
    # Behind a Deployment that is gone, pods may still be ready that the garbage collector is about to delete.
    covered = all(
        seen.deployment and stable_covers(target, seen) for target, seen in targets(state, observation, Strategy.CANARY)
    )
    if state.promoted or not covered:
        return enter(
            state, Phase.ROLLING_BACK, now, finding.reason, finding.message, stage=Stage.RECOVER, weight=state.weight
        )
    return enter(state, Phase.ROLLING_BACK, now, finding.reason, finding.message, stage=Stage.RETURN, weight=0)


def _asked_for(state: State, observation: Observation) -> bool:
    """Whether the Deployments still ask for this change, and not for another one with the same template."""
    found = [seen.deployment for _, seen in targets(state, observation)]
    return bool(found) and all(d is not None and checks.ours(observation.change, d) for d in found)


def start(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    if state.revert:
        quick = tuple(replace(step, bake=min(step.bake, policy.revert_bake)) for step in policy.steps)
        policy = replace(
            policy, steps=quick, after=replace(policy.after, watch=min(policy.after.watch, policy.revert_bake))
        )
    approval = gates.approval(state, observation, policy, now)
    compared = compare.begin(state, observation, policy, now)
    state = replace(state, started_at=now, policy=policy, approval=approval, comparisons=compared)
    if any(t.strategy is Strategy.CANARY for t in state.targets):
        weight = policy.steps[0].weight
        return enter(
            state,
            Phase.PROGRESSING,
            now,
            "Started",
            f"step 1 of {len(policy.steps)}: {weight} %",
            step=1,
            weight=weight,
        )
    return _promote(state, now, "Started", "by its own rolling update, under watch", weight=0)


def next_step(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    low = any(e.requests < policy.min_requests for e in state.evidence if e.rule in checks.counted(policy))
    state = replace(state, low_evidence=state.low_evidence or low)
    step = state.step + 1
    if step > len(policy.steps):
        return _promote(
            state, now, "Promoting", "the canary passed every step; the Deployment replaces its pods", weight=100
        )
    weight = policy.step(step).weight
    return enter(
        state,
        Phase.PROGRESSING,
        now,
        "Advanced",
        f"step {step} of {len(policy.steps)}: {weight} %",
        step=step,
        weight=weight,
    )


def _promote(state: State, now: datetime, reason: str, message: str, *, weight: int) -> State:
    return enter(replace(state, promoted=True), Phase.PROMOTING, now, reason, message, stage=Stage.ROLL, weight=weight)


def promotion(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    if state.stage is Stage.ROLL:
        return enter(
            state,
            Phase.PROMOTING,
            now,
            "Returning",
            "all pods are replaced; the traffic returns to the Deployment",
            stage=Stage.RETURN,
            weight=0,
        )
    return _wind_up(state, observation, policy, now, "the new revision is the stable one")


def rolling_back(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    after = _towards_stable(state, observation, policy, now)
    # A refused write never keeps the rest from going back; what it holds up says so.
    refused = checks.write_refused(state, observation, policy, now) if after.stage is state.stage else None
    return replace(after, reason=refused.reason, message=refused.message) if refused else after


def _towards_stable(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    if state.stage is Stage.RECOVER:
        if pending := _still_away(state, observation, policy, now):
            message = f"waiting for ready pods of {pending} behind its Service; the canary carries its share until then"
            finding = checks.stable_not_ready(state, observation, policy, now) or Finding(state.cause, message)
            return replace(state, reason=finding.reason, message=finding.message)
        message = "the traffic returns to stable"
        return enter(state, Phase.ROLLING_BACK, now, state.cause, message, stage=Stage.RETURN, weight=0)
    return _wind_up(state, observation, policy, now, f"back at stable: {state.cause}")


def _still_away(state: State, observation: Observation, policy: Policy, now: datetime) -> str:
    """The Deployment whose stable pods the traffic has to wait for."""
    found = targets(state, observation)
    deleting = observation.change.deleting
    return next((t.name for t, seen in found if _awaited(state, t, seen, policy, now, deleting=deleting)), "")


def _awaited(state: State, target: Target, seen: Seen, policy: Policy, now: datetime, *, deleting: bool) -> bool:
    """Bounded, but for stable without any ready pod: then the canary is the only version that serves.

    A Deployment that its owner deleted is not waited for, but for a moment in which it may be created anew; its
    successor is waited for as any new pods are.
    """
    assert state.entered_at is not None
    waited = now - state.entered_at
    taken_in = state.settled_at is not None and now - state.settled_at >= DATA_PLANE_LAG
    if seen.deployment is None:
        bound = policy.health.progress_deadline if seen.successor else CREATED_ANEW_WITHIN
        return bool(seen.canary.ready) and not taken_in and waited < bound
    if seen.deployment.revision not in (target.revision, target.stable_revision) and seen.canary.deployment is None:
        return False  # another change's template, after the canary: nothing that is ours would bring stable back
    if recovered(state, target, seen):
        return state.promoted and not taken_in and waited < policy.capacity_wait_max
    if deleting and waited >= policy.health.progress_deadline:
        return False  # whoever deletes the ChangeRequest now wants it to end without stable pods
    some = any(rs.ready for rs in seen.replica_sets if rs.revision == target.stable_revision)
    enough = some and (not state.promoted or stable_alone(target, seen))
    return waited < policy.capacity_wait_max or not enough


def _wind_up(state: State, observation: Observation, policy: Policy, now: datetime, message: str) -> State:
    """The common end: route back, drain, remove what is ours."""
    assert state.entered_at is not None
    seen_all = [seen for _, seen in targets(state, observation)]
    if state.stage is Stage.RETURN:
        routes = [route for seen in seen_all for route in seen.routes]
        # Whoever deletes the ChangeRequest of a gateway that will not answer wants it to end without.
        unheard = observation.change.deleting and now - state.entered_at >= policy.health.progress_deadline
        if all(route.weight == 0 and (route.accepted or unheard) for route in routes):
            return enter(
                state, state.phase, now, "Draining", "the canary's last requests end", stage=Stage.DRAIN, weight=0
            )
        message = "waiting for the routes to be accepted without weight for the canary"
        finding = checks.route_stuck(state, observation, policy, now) or Finding(state.reason, message)
        return replace(state, reason=finding.reason, message=finding.message)
    if state.stage is Stage.DRAIN:
        gone = any(seen.deployment is None for seen in seen_all)
        longest = min(policy.drain_max, CREATED_ANEW_WITHIN) if gone else policy.drain_max
        if _drained(state, observation) or now - state.entered_at >= longest:
            return _after_drain(state, policy, now)
        return state
    if state.stage is Stage.WATCH:
        state = replace(state, low_evidence=state.low_evidence or state.no_data_since is not None)
        return enter(state, state.phase, now, "CleaningUp", "the watch is over", stage=Stage.CLEAN, weight=0)
    if any(_leftovers(state, t, seen) for t, seen in targets(state, observation)):
        return state
    outcome = Phase.COMPLETED if state.phase is Phase.PROMOTING else (state.outcome or Phase.ROLLED_BACK)
    return enter(state, outcome, now, state.cause or "Completed", message, weight=0)


def _after_drain(state: State, policy: Policy, now: datetime) -> State:
    """What has nothing to go back to is not watched."""
    watch = policy.after.watch
    if state.phase is Phase.PROMOTING and watch and any(t.stable_revision for t in state.targets):
        message = f"the Deployment has all the traffic and is watched for {format_duration(watch)}"
        # What it answers itself is judged from here on.
        return enter(replace(state, breaches=()), state.phase, now, "Watching", message, stage=Stage.WATCH, weight=0)
    return enter(state, state.phase, now, "CleaningUp", "removing the canary", stage=Stage.CLEAN, weight=0)


def _drained(state: State, observation: Observation) -> bool:
    """The canary's request counter stands still in data that is newer than the route."""
    measured, since = observation.measurements, state.entered_at
    canaries = [t for t in state.targets if t.strategy is Strategy.CANARY]
    if not canaries or state.weighted_at is None:
        return True
    if measured is None or measured.problem or since is None:
        return False
    return all(_still(measured, target.name, since) for target in canaries)


def _still(measured: Measurements, target: str, since: datetime) -> bool:
    """A proxy forgets a canary that no route names: then stable's newer data says that the metrics path works."""
    canary, stable = (measured.arms.get((target, ErrorRate.name, side), Arm()) for side in ("canary", "stable"))
    seen = [at for at in (canary.fresh_at, stable.fresh_at) if at]
    later = any(sample.total for sample in canary.samples if sample.at > since + LET_END)
    return bool(seen) and max(seen) >= since + STILL_FOR and not later


def _leftovers(state: State, target: Target, seen: Seen) -> bool:
    locked = seen.deployment is not None and seen.deployment.held in LOCKED
    parts = seen.canary.deployment or seen.canary.services or seen.canary.companions
    return any(clean_up(state, target, seen)) or locked or bool(parts)


RULES = {
    Phase.WAITING: Rules(
        roll_back=(checks.withdrawn, checks.deployment_deleted, checks.superseded, gates.denied),
        hold=(
            checks.unusable,
            checks.environment_lacking,
            checks.policy_unusable,
            checks.duplicate_id,
            checks.no_deployment,
            checks.another_active,
            checks.rejected_revision,
            checks.workload_unfit,
            gates.gitops_will_revert,
            checks.type_differs,
            gates.paused,
            gates.form_incomplete,
            gates.not_standard,
            gates.awaiting_approval,
            gates.tests_unverified,
            gates.standard_cannot_go_back,
            gates.forward_only_unsaid,
            gates.review_overdue,
            gates.outside_window,
            checks.metrics_unreachable,
            gates.stable_out_of_budget,
            gates.unseen,
            gates.jobs_pending,
        ),
        advance=start,
    ),
    Phase.PROGRESSING: Rules(
        roll_back=(
            checks.withdrawn,
            checks.deployment_deleted,
            checks.superseded,
            gates.rollback_requested,
            checks.unpaused,
            checks.pods_failing,
            checks.canary_lost,
            checks.pods_not_ready,
            checks.p0_incident,
            checks.error_rate,
            checks.slo_burn,
            checks.log_errors,
            checks.worse_than_stable,
            checks.no_traffic,
            checks.progress_deadline,
            checks.route_deadline,
            checks.conflict,
            checks.inconclusive,
            gates.closed_on,
        ),
        hold=(
            checks.write_refused,
            gates.paused,
            gates.approval_denied,
            gates.waits_for_window,
            checks.contested,
            checks.label_removed,
            checks.service_strays,
            checks.capacity_pending,
            checks.route_pending,
            checks.no_data,
            checks.over_limit,
            checks.suspicious,
            checks.no_traffic_yet,
            checks.baking,
            checks.low_traffic,
            checks.no_pass,
        ),
        advance=next_step,
    ),
    Phase.PROMOTING: Rules(
        roll_back=(
            checks.withdrawn,
            checks.deployment_deleted,
            checks.superseded,
            gates.rollback_requested,
            checks.pods_failing,
            checks.canary_lost,
            checks.pods_not_ready,
            checks.p0_incident,
            checks.error_rate,
            checks.slo_burn,
            checks.log_errors,
            checks.worse_than_stable,
            checks.conflict,
            checks.progress_deadline,
            checks.inconclusive,
        ),
        hold=(
            checks.write_refused,
            checks.contested,
            checks.rolling,
            checks.over_limit,
            checks.watching,
            checks.watched,
        ),
        advance=promotion,
    ),
    Phase.ROLLING_BACK: Rules(roll_back=(), hold=(), advance=rolling_back),
}


# --- What is worth a write, and when to look again ---

MEASURED_EVERY = timedelta(seconds=15)
CHATTY = ("OverLimit", "LowTraffic", "NoVerdict", "RoutePending")
"""Reasons whose message moves with every measurement, or from route to route."""


def worth_committing(before: State, after: State) -> bool:
    """Whether something has changed but the running counts, or those are old enough to be kept anew.

    Counts that are not committed are counted again from the data, whose timestamps they rest on.
    """
    if _gist(before) != _gist(after):
        return True
    if after.measured_at is None:
        return False
    return before.measured_at is None or after.measured_at - before.measured_at >= MEASURED_EVERY


def _gist(state: State) -> tuple[object, ...]:
    return (
        _STATE(state),
        _AUDIT(state.audit),
        "" if state.reason in CHATTY else state.message,
        [(e.rule, e.target, e.verdict, e.threshold) for e in state.evidence],
        [_COMPARISON(c) for c in state.comparisons],
        [_BREACH(b) for b in state.breaches],
    )


def _all_but(kind: type[Any], *names: str) -> Callable[[Any], object]:
    """The other fields of a dataclass, to be compared."""
    return attrgetter(*(field.name for field in fields(kind) if field.name not in names))


_STATE = _all_but(State, "measured_at", "audit", "message", "evidence", "comparisons", "breaches")
_AUDIT = _all_but(Audit, "last", "intent")
_COMPARISON = _all_but(Comparison, "monitors")
_BREACH = _all_but(Breach, "bad_for", "last_at")


def recheck_after(state: State, policy: Policy, now: datetime) -> timedelta | None:
    """When nothing happens meanwhile; None: never."""
    if state.phase.terminal:
        return None if state.closed_at else _until_overdue(state, now)
    if state.phase is Phase.WAITING:
        return _until_start(state, now)
    soon = timedelta(seconds=1)
    if state.phase is Phase.PROGRESSING and state.settled_at:
        left = state.settled_at + checks.bake(state, policy) - now
        return max(min(left, timedelta(seconds=5)), soon)
    if state.stage is Stage.WATCH and state.settled_at:
        return max(min(state.settled_at + policy.after.watch - now, timedelta(seconds=5)), soon)
    return soon


def _until_start(state: State, now: datetime) -> timedelta:
    """Until the moment at which its window lets it start; else now and then; soon, while its Jobs run."""
    if state.reason == "AwaitingJobs":
        return timedelta(seconds=2)
    left = state.window.start - now if state.window else timedelta()
    return min(left, timedelta(minutes=1)) if left > timedelta() else timedelta(minutes=1)


def _until_overdue(state: State, now: datetime) -> timedelta:
    """Until the review is overdue, in parts: clocks are set, and processes sleep."""
    left = state.review_due_at - now if state.review_due_at else timedelta()
    return min(left, timedelta(hours=1)) if left > timedelta() else timedelta(hours=1)
