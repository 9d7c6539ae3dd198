"""The checks of the rules table: each looks for one thing and is named for what it reports.

`Check(state, observation, policy, now) -> Finding | None`; the state is the one already brought up to date by `track`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil

from controller.core import compare, sentences, slo
from controller.core.change import AUTO, CHANGE_LABEL, RETRY, TYPE, Problem, change_type
from controller.core.codec import format_duration
from controller.core.decisions import hurried
from controller.core.model import (
    Change,
    Deployment,
    Drift,
    Evidence,
    Held,
    Observation,
    Phase,
    Pod,
    Seen,
    Stage,
    State,
    Strategy,
    Target,
    Verdict,
)
from controller.core.policy import RESERVED, ChangeType, ErrorRate, LogErrors, LowTraffic, Policy, Statistical


@dataclass(frozen=True)
class Finding:
    """Why a change goes back or holds."""

    reason: str
    message: str
    outcome: Phase = Phase.ROLLED_BACK
    rejected: bool = False
    """The revision itself is at fault."""


Check = Callable[[State, Observation, Policy, datetime], Finding | None]

ENDING_TROUBLE = {
    "CrashLoopBackOff": "CrashLoop",
    "OOMKilled": "OOMKilled",
    "ImagePullBackOff": "ImagePull",
    "InvalidImageName": "ImagePull",
    "CreateContainerConfigError": "ContainerConfig",
    "CreateContainerError": "ContainerConfig",
    "RunContainerError": "ContainerConfig",
}
"""What the kubelet says of a container that will not run, and the reason we give."""


def need(replicas: int, weight: int) -> int:
    """Canary pods that `weight` percent of the load of `replicas` pods needs."""
    return max(1, ceil(replicas * weight / 100))


def targets(state: State, observation: Observation, strategy: Strategy | None = None) -> Iterator[tuple[Target, Seen]]:
    """Each Deployment of the change; one that was created anew under its name is another one, and its own is gone."""
    for target in state.targets:
        if strategy is None or target.strategy is strategy:
            seen = observation.targets.get(target.name, Seen(None))
            d = seen.deployment
            if d is not None and d.uid != target.uid:
                seen = replace(seen, deployment=None, successor=d, replica_sets=(), pods=())
            yield target, seen


def exposed_pods(state: State, target: Target, seen: Seen) -> tuple[Pod, ...]:
    """The pods of the new revision that count: those of the canary and, once promoted, the Deployment's own."""
    own = {rs.name for rs in seen.replica_sets if rs.revision == target.revision} if state.promoted else set()
    return tuple(p for p in (*seen.canary.pods, *(p for p in seen.pods if p.replica_set in own)) if not p.leaving)


def crashes(state: State, observation: Observation) -> Iterator[tuple[Pod, datetime]]:
    """The pods that count of which a container was started again, and when its last run had ended."""
    for target, seen in targets(state, observation):
        yield from ((pod, pod.crashed_at) for pod in exposed_pods(state, target, seen) if pod.crashed_at)


def anew(state: State, observation: Observation) -> str:
    """Why this step's dwell began anew, to be added to a sentence; empty: it did not."""
    pod = next((pod for pod, at in crashes(state, observation) if at == state.settled_at), None)
    return f": its dwell began anew when {pod.name} crashed" if pod else ""


def stable_covers(target: Target, seen: Seen) -> bool:
    """Ready stable pods can take the whole load: no more are missing than its own rolling update may take away.

    When the Deployment is gone, whatever is ready behind each of its Services is stable: orphaned pods, or those of the
    Deployment that was created in its place.
    """
    deployment = seen.deployment
    if deployment is None:
        wanted = min(seen.canary.ready, seen.successor.replicas if seen.successor else seen.canary.ready)
        behind = (len(seen.endpoints.get(pair.stable, ())) for pair in target.services)
        return all(ready >= max(1, wanted) for ready in behind)
    ready = sum(rs.ready for rs in seen.replica_sets if rs.revision == target.stable_revision)
    return ready > 0 and ready >= min(target.replicas, deployment.replicas) - deployment.unavailable_max


# --- Ends: the change is no longer what the cluster wants ---


def withdrawn(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    if observation.change.deleting:
        return Finding("Withdrawn", "the ChangeRequest was deleted", Phase.SUPERSEDED)
    return None


def deployment_deleted(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    if state.phase is Phase.PROMOTING and state.stage is not Stage.ROLL:
        return None  # it had done what it was about
    for target, seen in targets(state, observation):
        if seen.deployment is None:
            anew = " and created anew" if seen.successor else ""
            return Finding("DeploymentDeleted", f"Deployment {target.name} was deleted{anew}", Phase.SUPERSEDED)
    return None


def superseded(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The Deployment was given another template or another change.

    Once its pods are replaced, a newer template waits for a change of its own, and this one ends as what it is.
    """
    if state.phase is Phase.PROMOTING and state.stage is not Stage.ROLL:
        return None
    change = observation.change
    for target, seen in targets(state, observation):
        d = seen.deployment
        if d is None or (ours(change, d) if state.phase is Phase.WAITING else d.revision == target.revision):
            continue
        if state.promoted and d.held == Held.RESTORING:
            continue  # by us: the first write of a way back, after which this process, or the one before, has died
        if d.revision == target.stable_revision and d.held in ("", Held.WAITING):
            return Finding("Reverted", f"Deployment {target.name} is back at its stable template", Phase.SUPERSEDED)
        newer = d.change if d.change not in (change.change_id, AUTO) else "another template"
        by = f" by {d.authors['template'].manager}" if "template" in d.authors else ""
        return Finding("Superseded", f"Deployment {target.name} was given {newer}{by}", Phase.SUPERSEDED)
    return None


def not_paused(target: Target, seen: Seen) -> bool:
    """Before its promotion, the Deployment replaces its own pods by the new revision."""
    d = seen.deployment
    return d is not None and d.revision == target.revision and not d.paused and d.held != Held.WAITING


def unpaused(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Someone started the native rolling update before the canary had passed: it is stopped and taken back."""
    for target, seen in targets(state, observation):
        d = seen.deployment
        if d and not_paused(target, seen):
            author = d.authors.get("paused")
            by = author.manager if author else "someone else"
            return Finding("Unpaused", f"{by} un-paused Deployment {d.name}: pods were replaced by an unjudged version")
    return None


def ours(change: Change, deployment: Deployment) -> bool:
    """A held Deployment whose template this change is about; a change that Serin numbered is about one revision."""
    if deployment.held != Held.WAITING:
        return False
    return deployment.revision == change.revision if change.revision else deployment.change == change.change_id


# --- Evidence against the revision ---


def pods_failing(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Containers of the new revision that crash, are killed or cannot be started. Needs no Prometheus."""
    for target, seen in targets(state, observation):
        pods = exposed_pods(state, target, seen)
        for pod in pods:
            if reason := ENDING_TROUBLE.get(pod.trouble):
                return Finding(
                    reason, f"pod {pod.name}: {pod.trouble}{': ' + pod.detail if pod.detail else ''}", rejected=True
                )
        restarts = sum(pod.restarts for pod in pods)
        if restarts > policy.health.restarts_max:
            return Finding(
                "Restarts", f"containers of {target.name}'s new pods restarted {restarts} times", rejected=True
            )
    return None


def pods_not_ready(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Fewer ready canary pods than the weight needs, for too long."""
    for target, seen in targets(state, observation):
        since = target.not_ready_since
        if since and now - since >= policy.health.not_ready_max:
            lasted = format_duration(policy.health.not_ready_max)
            own = seen.deployment.ready if seen.deployment else 0
            by_canary = target.strategy is Strategy.CANARY and state.stage is not Stage.WATCH
            ready = seen.canary.ready if by_canary else own
            message = f"only {ready} new pods of {target.name} ready for {lasted}: fewer than their traffic needs"
            return Finding("NotReady", message, rejected=True)
    return None


def carried(state: State, seen: Seen) -> int:
    """Percent of the traffic that the routes send to the canary now: while a step is set up, still the last one's."""
    return max((state.weight if route.weight is None else route.weight for route in seen.routes), default=0)


def too_few_ready(state: State, target: Target, seen: Seen) -> bool:
    """Fewer ready pods of the new revision than their traffic needs; those that are leaving never count against it."""
    if state.stage not in (None, Stage.ROLL, Stage.WATCH):
        return False
    if target.strategy is Strategy.CANARY and state.stage is not Stage.WATCH:
        leaving, weight = sum(pod.leaving for pod in seen.canary.pods), carried(state, seen)
        return weight > 0 and seen.canary.ready + leaving < need(target.judged or target.replicas, weight)
    d = seen.deployment
    if d is None or state.settled_at is None:
        return False
    leaving = sum(pod.leaving for pod in seen.pods)
    return d.ready + leaving < min(target.replicas, d.replicas) - d.unavailable_max


def canary_lost(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Someone deleted a part of the canary while it had weight, or made it another one than was approved."""
    if state.stage not in (None, Stage.ROLL):
        return None
    for target, seen in targets(state, observation, Strategy.CANARY):
        if not carried(state, seen):
            continue
        if seen.canary.deployment is None:
            return Finding("CanaryLost", f"Deployment {target.canary} was deleted by someone else")
        gone = [pair.canary for pair in target.services if pair.canary not in seen.canary.services]
        if gone:
            return Finding("CanaryLost", f"Service {gone[0]} was deleted by someone else")
        if edit := next(iter(seen.canary.edits), None):
            return Finding("CanaryEdited", f"{written(edit)}: it is not what was approved")
    return None


def written(drift: Drift) -> str:
    return f"{drift.by or 'someone else'} wrote {drift.what}"


def progress_deadline(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """New pods that were asked for do not come, and have not come any nearer for too long."""
    since = state.progressed_at
    if not since:
        return None
    overdue = now - since >= policy.health.progress_deadline
    for target, seen in targets(state, observation):
        missing = (
            not rolled(target, seen)
            if state.promoted
            else target.strategy is Strategy.CANARY and not has_capacity(state, target, seen)
        )
        workload = seen.deployment if state.promoted else seen.canary.deployment
        why = workload.failure if workload else ""
        if missing and (overdue or (state.promoted and why.startswith("ProgressDeadlineExceeded"))):
            lasted = format_duration(policy.health.progress_deadline)
            how = f"no further new pod is ready for {lasted}" if overdue else "its new pods do not come"
            message = f"{target.name}: {how}{': ' + why if why else ''}"
            return Finding("ProgressDeadline", message, rejected=True)
    return None


def route_deadline(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The pods are there, but no route leads to them, or its gateway does not take it."""
    since, pending = state.progressed_at, route_pending(state, observation, policy, now)
    if not since or not pending or now - since < policy.health.progress_deadline:
        return None
    return replace(pending, message=f"{pending.message}, for {format_duration(policy.health.progress_deadline)}")


def p0_incident(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """A P0 alert of the workload or its namespace that began after the change first had weight.

    Never against an Emergency.
    """
    measured, since = observation.measurements, state.weighted_at
    if observation.change.type is ChangeType.EMERGENCY or measured is None or since is None:
        return None
    for incident in measured.incidents:
        if incident.began_at >= since:
            return Finding(
                "P0Incident", f"alert {incident.name} is firing since {incident.began_at:%H:%M:%S} UTC", rejected=True
            )
    return None


def error_rate(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    return _failed(state, "ErrorRate", lambda e: e.rule == ErrorRate.name)


def slo_burn(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    return _failed(state, "SLOBurn", lambda e: e.rule not in (*RESERVED, *compare.RULES))


def log_errors(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    return _failed(state, "LogErrors", lambda e: e.rule == LogErrors.name)


def worse_than_stable(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The comparison with stable, when the policy lets it act."""
    if policy.analysis.statistical is not Statistical.ON:
        return None
    return _failed(state, "WorseThanStable", lambda e: e.rule in compare.RULES)


def _failed(state: State, reason: str, about: Callable[[Evidence], bool]) -> Finding | None:
    failed = next((e for e in state.evidence if about(e) and e.verdict is Verdict.FAIL), None)
    return Finding(reason, failed.message, rejected=True) if failed else None


def no_traffic(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The canary's share of the requests does not arrive, or is not answered: a failing health check."""
    return _unanswered(state, observation, UNANSWERED_MAX, rejected=True)


def no_traffic_yet(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    return _unanswered(state, observation, UNANSWERED_HOLD, rejected=False)


UNANSWERED_HOLD, UNANSWERED_MAX = timedelta(minutes=1), timedelta(minutes=5)
EXPECTED_MIN = 50
"""So many requests the canary would have answered by its weight. Source: ANALYSIS.md, "canary silent"."""


def _unanswered(state: State, observation: Observation, longest: timedelta, *, rejected: bool) -> Finding | None:
    """The metrics of both arms are new, stable answers requests, and the canary has answered none for so long."""
    arms = observation.arms
    if state.settled_at is None or state.stage is not None or state.weight >= 100:
        return None
    for target, _ in targets(state, observation, Strategy.CANARY):
        canary, stable = (arms.get((target.name, ErrorRate.name, side)) for side in ("canary", "stable"))
        if not (canary and stable and canary.fresh_at and stable.fresh_at):
            continue
        last = max([state.settled_at, *(sample.at for sample in canary.samples if sample.total)])
        silent = min(canary.fresh_at, stable.fresh_at) - last
        answered = slo.counts(stable, last)[1]
        expected = answered * state.weight / (100 - state.weight)
        if silent >= longest and expected >= EXPECTED_MIN:
            text = (
                f"answered none of the about {expected:,.0f} requests of its {state.weight} % in "
                f"{sentences.seconds(silent)}; stable answered {answered:,.0f}"
            )
            return Finding(
                "NoTraffic", sentences.sentence("no-traffic", f"the canary of {target.name}", text), rejected=rejected
            )
    return None


def inconclusive(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Nothing has been known for longer than the policy bears."""
    since = state.no_data_since
    if since and now - since >= policy.no_data_deadline and state.stage in (None, Stage.ROLL):
        return Finding(
            "Inconclusive",
            f"no usable metrics for {format_duration(policy.no_data_deadline)}; "
            f"{no_data_cause(state, observation, policy, now)}",
        )
    return None


ROUNDS_MAX = 3
"""So often what others write over is put back, at each step."""


def conflict(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Someone keeps writing over what is ours: the traffic goes to stable rather than to and fro."""
    for target, _ in targets(state, observation):
        if target.drift and target.drifts > ROUNDS_MAX:
            again = f"kubectl serin retry {observation.change.change_id} -n {observation.change.namespace}"
            message = (
                f"{written(target.drift)}, time {target.drifts} at this step; have it leave that alone, then {again}"
            )
            return Finding("Conflict", message)
    return None


# --- Reasons to wait before the start ---


def unusable(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    return _problem(observation.change.problem)


def environment_lacking(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    return _problem(next(iter(observation.environment), ""))


def policy_unusable(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    return _problem(observation.policy_problem)


def _problem(text: str) -> Finding | None:
    reason, _, message = text.partition(": ")
    return Finding(reason, message) if text else None


def duplicate_id(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    change = observation.change
    for other in observation.others:
        older = (
            other.created_at
            and change.created_at
            and (other.created_at, other.namespace) < (change.created_at, change.namespace)
        )
        if other.namespace != change.namespace and other.change_id == change.change_id and older:
            return Finding(
                "DuplicateChangeID",
                f"{change.change_id} is a change of namespace {other.namespace}: give this one an ID of its own",
            )
    return None


def another_active(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    for other in observation.others:
        if other.unreadable and other.namespace == observation.change.namespace:
            return Finding("UnknownStatus", f"{other.change_id} may be under way: {other.unreadable}")
        shared = (t for t in state.targets if t.name in other.revisions and not other.leaves(t.name, t.uid))
        if other.namespace == observation.change.namespace and other.active and any(shared):
            return Finding(
                "AnotherChangeActive", f"{other.change_id} is {other.phase}; this one follows when it has ended"
            )
    return None


def rejected_revision(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    for target, seen in targets(state, observation):
        retry = seen.deployment.annotations.get(RETRY, "") if seen.deployment else ""
        for other in observation.others:
            if other.rejected and other.revisions.get(target.name) == target.revision and retry != other.change_id:
                way_on = f"change it, or run it knowingly with the annotation {RETRY}={other.change_id}"
                return Finding(
                    "RejectedRevision",
                    f"this template of {target.name} was rolled back by {other.change_id} ({other.cause}): {way_on}",
                )
    return None


def no_deployment(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    if not state.targets:
        return Finding(
            "NoDeployment",
            f"no Deployment is labelled serin.dev/change={observation.change.change_id} with a new template",
        )
    return None


def workload_unfit(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """What has to be mended by hand before a change can start at all."""
    for target, seen in targets(state, observation):
        d = seen.deployment
        if d is None:
            continue
        if d.controlled_by:
            return Finding(
                "OwnedByAnotherController",
                f"Deployment {d.name} belongs to {d.controlled_by}: only one of us can roll it out; "
                "remove it or the label",
            )
        if not d.held or not d.paused:
            return Finding(
                "NotHeld",
                f"Deployment {d.name} is not held; are the admission policies installed? "
                "kubectl apply --server-side -k policies/",
            )
        active = [rs for rs in seen.replica_sets if rs.replicas > 0]
        if len(active) > 1:
            names = ", ".join(sorted(rs.name for rs in active))
            return Finding(
                "TwoActiveReplicaSets",
                f"{names} both have pods: an earlier update of {d.name} was not finished; "
                "apply the template of one of them first",
            )
        if seen.taken and target.strategy is Strategy.CANARY:
            return Finding("NameTaken", f"{seen.taken} exists and is not ours: rename it, the canary needs that name")
        if seen.unserved:
            return Finding("ServiceWithoutPods", f"{seen.unserved}: correct its selector")
        if target.strategy is Strategy.NATIVE:
            continue
        if problem := next((r for r in seen.routes if r.problem), None):
            return Finding("NoReferenceGrant", f"{problem.key}: {problem.problem}")
        if refused := next((r for r in seen.routes if not r.accepted), None):
            return Finding("RouteNotAccepted", f"{refused.key} is not accepted by its gateway: see its status.parents")
    return None


def type_differs(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """A Deployment says another type than its change has; an Emergency has to be declared on each of them."""
    change = observation.change
    for target, seen in targets(state, observation):
        said = seen.deployment.annotations.get(TYPE) if seen.deployment else change.type
        kind = change_type({TYPE: said}) if said else ChangeType.NORMAL
        if isinstance(kind, Problem):
            return Finding(kind.reason, f"Deployment {target.name}: {kind.message}")
        if kind is change.type or not (said or change.type is ChangeType.EMERGENCY):
            continue
        annotate = f"kubectl annotate deployment/{target.name} -n {change.namespace} --overwrite {TYPE}={change.type}"
        return Finding(
            "TypeDiffers",
            f"{change.change_id} is a change of type {change.type}, and Deployment {target.name} asks for one of type "
            f"{kind}: {annotate}; or give it a change ID of its own",
        )
    return None


def metrics_unreachable(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """No canary is exposed while nobody could see it fail."""
    if not any(t.strategy is Strategy.CANARY for t in state.targets):
        return None
    measured = observation.measurements
    if measured is None or now - measured.taken_at > timedelta(minutes=1):
        return Finding("NoMetrics", "waiting for the first answer of Prometheus")
    return _problem(measured.problem)


# --- Reasons to wait under way ---


def contested(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """What someone else has written over is being put back."""
    for target, _ in targets(state, observation):
        if target.drift:
            wait = "after a moment" if target.gives_way else "now"
            count = f"time {target.drifts}, and it is put back {ROUNDS_MAX} times"
            return Finding("Contested", f"{written(target.drift)} ({count}); it is put back {wait}")
    return None


def label_removed(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Past admission. A new template would be held by nobody; what runs was approved, and keeps its weight."""
    for target, seen in targets(state, observation):
        if seen.deployment and not seen.deployment.change:
            way_back = f"kubectl serin rollback {observation.change.change_id} -n {observation.change.namespace}"
            message = (
                f"Deployment {target.name} has lost its label {CHANGE_LABEL}, and nothing holds a new template of it"
            )
            return Finding("LabelRemoved", f"{message}; put it back, or go back: {way_back}")
    return None


def service_strays(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The user's Service was pointed elsewhere: what is stable answers no requests of it any more."""
    for target, seen in targets(state, observation):
        for stray in seen.strays:
            message = f"{written(stray)}: it does not select the pods of {target.name} any more; put it back"
            return Finding("ServiceChanged", message)
    return None


def write_refused(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The API server refuses what has to be written next; it is tried again and again."""
    return _problem(observation.refusal)


def has_capacity(state: State, target: Target, seen: Seen) -> bool:
    wanted = need(target.replicas, state.weight)
    return seen.canary.ready >= wanted and all(
        seen.canary.endpoints.get(pair.canary, 0) >= wanted for pair in target.services
    )


def capacity_pending(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Canary pods are awaited; or some of those that carried the step are not ready, if not for long enough yet."""
    for target, seen in targets(state, observation, Strategy.CANARY):
        if state.settled_at is None and has_capacity(state, target, seen):
            continue
        if state.settled_at and not target.not_ready_since:
            continue
        wanted = need(target.replicas, state.weight)
        why = f": {seen.canary.deployment.failure}" if seen.canary.deployment and seen.canary.deployment.failure else ""
        return Finding("CapacityPending", f"{seen.canary.ready} of {wanted} canary pods of {target.name} ready{why}")
    return None


def route_pending(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    for target, seen in targets(state, observation, Strategy.CANARY):
        if not seen.routes:
            return Finding("RouteLost", f"no route names {target.name}'s Service any more: the canary gets no traffic")
        for route in seen.routes:
            if route.weight != state.weight or not route.accepted:
                return Finding("RoutePending", f"{route.key} has not been accepted with {state.weight} % yet")
    return None


def no_data(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    if state.no_data_since is None:
        return None
    return Finding(
        "NoData", f"{no_data_cause(state, observation, policy, now)}; holding since {state.no_data_since:%H:%M:%S} UTC"
    )


def no_data_cause(state: State, observation: Observation, policy: Policy, now: datetime) -> str:
    measured = observation.measurements
    if measured is None or now - measured.taken_at > timedelta(minutes=1):
        return "Prometheus has not been asked for a minute"
    return measured.problem or f"the canary's metrics are older than {format_duration(policy.metrics.stale_after)}"


def over_limit(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """A limit is exceeded, but not yet for long enough; without traffic, nothing more is learnt of a canary."""
    if state.stage not in (None, Stage.ROLL):
        return None
    bad = {(b.rule, b.target) for b in state.breaches if b.last_bad}
    evidence = next((e for e in state.evidence if (e.rule, e.target) in bad), None)
    return Finding("OverLimit", evidence.message) if evidence else None


def suspicious(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """The comparison with stable has evidence against the canary, if not enough yet: more is waited for."""
    if policy.analysis.statistical is not Statistical.ON or state.stage is not None:
        return None
    why = compare.doubt(state, policy)
    return Finding("Suspicious", why) if why else None


def baking(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    if state.settled_at is None:
        return Finding("Settling", "the step is being set up")
    until = state.settled_at + bake(state, policy)
    if now < until:
        return Finding("Baking", f"{state.weight} % until {until:%H:%M:%S} UTC{anew(state, observation)}")
    return None


def bake(state: State, policy: Policy) -> timedelta:
    """The least time at this step, once settled."""
    return timedelta() if hurried(state) else policy.step(state.step).bake


def low_traffic(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Data is fine, but too few requests came to say much: twice the bake, then on (or hold, by policy)."""
    fewest = min((e.requests for e in state.evidence if e.rule in counted(policy)), default=0)
    if state.settled_at is None or fewest >= policy.min_requests or hurried(state):
        return None
    count = f"{fewest} of the {policy.min_requests} requests that a verdict needs"
    until = low_traffic_until(state, policy)
    if policy.low_traffic is LowTraffic.HOLD:
        return Finding("LowTraffic", f"{count}; the policy holds until there are more")
    return Finding("LowTraffic", f"{count}; on at {until:%H:%M:%S} UTC all the same") if now < until else None


def counted(policy: Policy) -> frozenset[str]:
    """The rules that need requests: a good version may log nothing."""
    return frozenset(rule.name for rule in policy.request_rules)


def low_traffic_until(state: State, policy: Policy) -> datetime:
    """When a settled step goes on though few requests came: after twice its bake."""
    if state.settled_at is None:
        raise ValueError("the step is not settled")
    return state.settled_at + 2 * (policy.steps[-1].bake if state.promoted else bake(state, policy))


def no_pass(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """A step up needs a PASS of every rule, on data newer than the step."""
    wanted = {(t.name, rule.name) for t, _ in targets(state, observation, Strategy.CANARY) for rule in policy.rules}
    passed = {(e.target, e.rule) for e in state.evidence if e.verdict is Verdict.PASS}
    if missing := sorted(wanted - passed):
        return Finding(
            "NoVerdict",
            f"waiting for data newer than this step about {', '.join(f'{rule} of {name}' for name, rule in missing)}",
        )
    return None


# --- Promotion ---


def rolled(target: Target, seen: Seen) -> bool:
    """The Deployment runs one revision alone, ready, at the size that its owner wants."""
    d = seen.deployment
    if d is None or d.paused or not d.observed:
        return False
    return d.updated == d.replicas == d.total and d.ready >= d.replicas


def takes_over(state: State, target: Target, seen: Seen, policy: Policy, now: datetime) -> bool:
    """The Deployment is rolled out, and its ready pods, behind its Services, are as many as carry the traffic now.

    After a bounded wait fewer do, for its owner may have scaled it down; but never none.
    """
    d = seen.deployment
    if d is None or not (rolled(target, seen) and served(target, seen)):
        return False
    since = state.progressed_at
    waited = state.settled_at is not None or (since is not None and now - since >= policy.capacity_wait_max)
    return target.strategy is Strategy.NATIVE or (d.ready > 0 and (d.ready >= seen.canary.ready or waited))


DATA_PLANE_LAG = timedelta(seconds=3)
"""A gateway may send requests to pods that are gone for that long after the API server knows better."""


def served(target: Target, seen: Seen) -> bool:
    """The user's Services lead to the Deployment's pods as they are now: to all that are ready, to none that leaves."""
    staying = {pod.name for pod in seen.pods if pod.ready and not pod.leaving}
    leaving = {pod.name for pod in seen.pods if pod.leaving}
    behind = [seen.endpoints.get(pair.stable, frozenset()) for pair in target.services]
    return all(staying <= names and not leaving & names for names in behind)


def recovered(state: State, target: Target, seen: Seen) -> bool:
    """Stable is back at the size that can take what the canary carries, and alone."""
    if not target.stable_revision:
        return True
    if seen.deployment is None:
        return stable_covers(target, seen)
    ready = sum(rs.ready for rs in seen.replica_sets if rs.revision == target.stable_revision)
    if not state.promoted:
        return stable_covers(target, seen)
    return stable_covers(target, seen) and ready >= seen.canary.ready and stable_alone(target, seen)


def stable_alone(target: Target, seen: Seen) -> bool:
    """No pod of the new revision is left behind the user's Services."""
    others = [rs for rs in seen.replica_sets if rs.revision == target.revision]
    return not any(rs.replicas or rs.ready for rs in others) and served(target, seen)


def stable_not_ready(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Stable has no ready pod to go back to; a Deployment that its owner deleted is another matter."""
    if not state.entered_at or now - state.entered_at < policy.capacity_wait_max:
        return None
    for target, seen in targets(state, observation):
        d = seen.deployment
        if d and not recovered(state, target, seen):
            why = "it is scaled to 0" if d.replicas == 0 else d.failure or "see its pods"
            ways = f"or delete the ChangeRequest: {format_duration(policy.health.progress_deadline)} after the rollback"
            message = f"stable pods of {target.name} are not ready: {why}; the canary carries its share on; mend that,"
            return Finding("StableNotReady", f"{message} {ways} began, it ends without them")
    return None


def route_stuck(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Routes that were to return the traffic long ago."""
    if not state.entered_at or now - state.entered_at < policy.capacity_wait_max:
        return None
    routes = (route for _, seen in targets(state, observation) for route in seen.routes)
    stuck = ", ".join(route.key for route in routes if route.weight != 0 or not route.accepted)
    if not stuck:
        return None
    message = f"{stuck} not accepted without weight for the canary since {state.entered_at:%H:%M:%S} UTC"
    return Finding("RouteStuck", f"{message}: see status.parents, and whether the gateway runs")


def rolling(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    if state.stage is not Stage.ROLL:
        return None
    for target, seen in targets(state, observation):
        d = seen.deployment
        if d and not takes_over(state, target, seen, policy, now):
            if d.replicas == 0:
                meanwhile = ": the canary carries the traffic until it has pods" if seen.canary.ready else ""
                return Finding("ScaledToZero", f"Deployment {d.name} has 0 replicas; scale it up again{meanwhile}")
            why = f": {d.failure}" if d.failure else ""
            return Finding("Rolling", f"{d.updated} of {d.replicas} pods of {d.name} replaced, {d.ready} ready{why}")
    if state.settled_at is None or now - state.settled_at < DATA_PLANE_LAG:
        return Finding("Settling", "all pods are replaced; the gateway takes them in before they get the traffic")
    return None


def watching(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """Deployments without a canary are watched for the last step's bake after their own rolling update.

    Not the first of a name: there is nothing to go back to.
    """
    watched = any(t.strategy is Strategy.NATIVE and t.stable_revision for t in state.targets)
    if state.stage is not Stage.ROLL or not watched:
        return None
    bake = policy.steps[-1].bake
    if state.settled_at is None or now < state.settled_at + bake:
        until = f" until {state.settled_at + bake:%H:%M:%S} UTC" if state.settled_at else ""
        return Finding("Watching", f"rolled out; watched{until}{anew(state, observation)}")
    return None


def watched(state: State, observation: Observation, policy: Policy, now: datetime) -> Finding | None:
    """After the promotion, for as long as the policy says; a newer template ends it, for it is another change's.

    A limit that is exceeded at its end is proven or refuted first; missing data is waited for, but not for ever.
    """
    still = any(seen.deployment and seen.deployment.revision == t.revision for t, seen in targets(state, observation))
    if state.stage is not Stage.WATCH or state.settled_at is None or not still:
        return None
    until = state.settled_at + policy.after.watch
    bad = {(b.rule, b.target) for b in state.breaches if b.last_bad}
    exceeded = next((e for e in state.evidence if (e.rule, e.target) in bad), None)
    if exceeded and now < until + max(rule.sustained for rule in policy.rules):
        return Finding("OverLimit", exceeded.message)
    if now < until:
        return Finding("Watching", f"promoted; watched until {until:%H:%M:%S} UTC{anew(state, observation)}")
    if short := next((t.name for t in state.targets if t.not_ready_since), ""):
        return Finding("Watching", f"promoted; too few pods of {short} are ready to end the watch")
    since = state.no_data_since
    if since and now - since < policy.no_data_deadline:
        ends = f"ends without at {since + policy.no_data_deadline:%H:%M:%S} UTC"
        return Finding(
            "NoData", f"{no_data_cause(state, observation, policy, now)}; the watch waits for it, and {ends}"
        )
    return None
