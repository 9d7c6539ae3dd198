"""What the state takes in from an observation before any rule is asked.

Durations, evidence, and, until the start, the targets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from controller.core import fights, gates, jobs
from controller.core.change import REQUESTED_BY, printable
from controller.core.checks import (
    carried,
    crashes,
    has_capacity,
    need,
    ours,
    recovered,
    route_pending,
    takes_over,
    targets,
    too_few_ready,
)
from controller.core.codec import digest
from controller.core.decisions import take_in
from controller.core.diff import differences, for_record, images
from controller.core.form import forward_only
from controller.core.judge import judge
from controller.core.model import (
    Floor,
    Observation,
    Phase,
    Seen,
    Stage,
    State,
    Strategy,
    Target,
)
from controller.core.policy import Policy
from controller.core.template import joint_revision
from controller.core.windows import FOREVER, Opening, Timing


def track(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    if state.phase is Phase.WAITING:
        return _ask_around(state, observation, policy, now)
    state = take_in(state, observation, policy, now)
    state = replace(
        state, targets=tuple(_follow(state, t, seen, policy, now) for t, seen in targets(state, observation))
    )
    state = replace(
        state,
        warnings=(
            *filter(None, (observation.policy_problem, *observation.environment)),
            *jobs.warnings(state, observation.change),
        ),
        settled_at=_settled_at(state, observation, policy, now),
        weighted_at=_weighted_at(state, observation, now),
    )
    state = _progressed(state, observation, policy, now)
    # Once the traffic has gone back there is nothing to judge: the evidence stays as it was.
    watched = state.phase is Phase.PROMOTING and state.stage in (Stage.ROLL, Stage.WATCH)
    exposed = state.phase is Phase.PROGRESSING or watched
    return judge(state, observation, policy, now) if exposed else state


# --- Until the start: what each Deployment is, and how it will be rolled out ---


def _ask_around(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    """What the change is about and who asked for it, and only then what people decided about that."""
    found = _assess_all(state, observation, policy)
    state = replace(
        state,
        targets=found,
        revision=joint_revision({t.name: t.revision for t in found}),
        terms=_terms(observation),
        requesters=_requesters(observation),
        revert=_is_revert(found, observation),
        forward_only=forward_only(observation.change.spec),
    )
    state = take_in(state, observation, policy, now)
    state = replace(state, jobs=jobs.follow(state, observation, policy))
    told = (*jobs.warnings(state, observation.change), *gates.gitops_warnings(state))
    state = replace(state, warnings=told)
    when = gates.schedule(state, observation, policy, now)
    return replace(
        state,
        approval=gates.approval(state, observation, policy, now),
        window=_scheduled(when, state.window) if when else None,
    )


def _scheduled(found: Timing, before: Opening | None) -> Opening | None:
    """The part of an opening that it will use; none where it may start at any time. What is open stays as recorded."""
    opening = found.opening
    if opening is None or opening.end == FOREVER:
        return None
    if found.may_start and before and before.end == opening.end:
        return before
    return replace(opening, start=found.start_at or opening.start)


def _terms(observation: Observation) -> str:
    change = observation.change
    found = (seen.deployment for seen in observation.targets.values())
    strategies = {d.name: d.strategy for d in found if d and ours(change, d)}
    return digest([change.type, strategies])[:10]


def _requesters(observation: Observation) -> tuple[str, ...]:
    """Of each Deployment, whoever applied the template, as admission stamped it; and the author that is claimed."""
    change = observation.change
    found = [seen.deployment for seen in observation.targets.values() if seen.deployment]
    applied = [d.annotations.get(REQUESTED_BY, "") for d in found if ours(change, d)]
    claimed = " ".join(change.author.split())  # names are compared word by word, and shown in one line
    return tuple(sorted({printable(who, 256) for who in (change.requested_by, claimed, *applied) if who}))


def _is_revert(found: Sequence[Target], observation: Observation) -> bool:
    """Whether each Deployment goes back to the revision that its last completed change replaced."""
    return bool(found) and all(_replaced(t, observation) == t.revision for t in found)


def _replaced(target: Target, observation: Observation) -> str:
    completed = [
        other
        for other in observation.others
        if other.namespace == observation.change.namespace
        and other.phase is Phase.COMPLETED
        and other.ended_at
        and target.name in other.revisions
    ]
    newest = max(completed, key=lambda other: (other.ended_at is not None, other.ended_at), default=None)
    if newest is None or newest.revisions[target.name] != target.stable_revision:
        return ""
    return newest.stable_revisions.get(target.name, "")


def _assess_all(state: State, observation: Observation, policy: Policy) -> tuple[Target, ...]:
    """The Deployments that this change is about; the last ones known when there is none any more."""
    found = tuple(
        assess(seen, policy)
        for _, seen in sorted(observation.targets.items())
        if seen.deployment is not None and ours(observation.change, seen.deployment)
    )
    return found or state.targets


def assess(seen: Seen, policy: Policy) -> Target:
    d = seen.deployment
    assert d is not None
    others = [rs for rs in seen.replica_sets if rs.revision != d.revision]
    stable = max(others, key=lambda rs: (rs.replicas > 0, rs.number), default=None)
    why_native = next(_why_native(seen, policy, first=stable is None), "")
    size = max(d.replicas, stable.replicas if stable else 0)
    scaler = seen.autoscaler if not why_native else None
    raised = scaler is not None and scaler.min_replicas < min(size, scaler.max_replicas)
    back = [revert for route in seen.routes for revert in route.reverts]
    back += scaler.reverts if scaler and raised else ()
    return Target(
        name=d.name,
        uid=d.uid,
        revision=d.revision,
        strategy=Strategy.NATIVE if why_native else Strategy.CANARY,
        strategy_reason=why_native or f"{', '.join(r.key for r in seen.routes)}; other callers are not split",
        stable_revision=stable.revision if stable else "",
        stable_replica_set=stable.name if stable else "",
        stable_template=stable.template if stable else None,
        diff=for_record(differences(stable.template, d.template)) if stable else (),
        images=images(d.template),
        replicas=size,
        selector_key="" if why_native else seen.selector_key,
        services=() if why_native else seen.services,
        routes=() if why_native else tuple(route.original for route in seen.routes),
        floor=Floor(scaler.name, scaler.min_replicas) if scaler else None,
        reverts=() if why_native else tuple(back),
    )


def _why_native(seen: Seen, policy: Policy, *, first: bool) -> Iterator[str]:
    d = seen.deployment
    assert d is not None
    if first:
        yield "this is its first deployment"
    if not seen.routes:
        yield "no route names a Service of its pods"
    if d.recreate:
        yield "its update strategy is Recreate"
    yield from seen.obstacles
    if not seen.selector_key:
        yield "no label of its selector is also in the selector of each of its Services"
    if d.replicas < policy.canary_replicas_min:
        yield f"it has {d.replicas} replicas, and the policy asks for {policy.canary_replicas_min} to make a canary"


# --- Under way ---


def _follow(state: State, target: Target, seen: Seen, policy: Policy, now: datetime) -> Target:
    own = next((rs.name for rs in seen.replica_sets if rs.revision == target.revision), target.replica_set)
    target = _grown(state, replace(target, replica_set=own), seen, policy, now)
    scaler = seen.autoscaler
    if target.floor and scaler and scaler.name == target.floor.name and not scaler.ours:
        target = replace(target, floor=replace(target.floor, min_replicas=scaler.min_replicas))
    short = too_few_ready(state, target, seen)
    target = replace(target, not_ready_since=(target.not_ready_since or now) if short else None)
    return fights.follow(state, target, seen, now)


def _grown(state: State, target: Target, seen: Seen, policy: Policy, now: datetime) -> Target:
    """Stable that grows asks for more canary pods, which have as long as any new pods to get ready."""
    d = seen.deployment
    if d and state.phase is Phase.PROGRESSING and d.replicas > target.replicas:
        return replace(target, replicas=d.replicas, judged=target.judged or target.replicas, grew_at=now)
    late = target.grew_at is not None and now - target.grew_at >= policy.health.progress_deadline
    if late or seen.canary.ready >= need(target.replicas, carried(state, seen)):
        return replace(target, judged=0, grew_at=None)
    return target


def _settled_at(state: State, observation: Observation, policy: Policy, now: datetime) -> datetime | None:
    """When the cluster reached the target of this step or stage, or, later, when a new pod last crashed.

    Each crash that the policy bears begins the dwell anew: a process that was away may have seen nothing of a loop but
    one more restart.
    """
    reached = _reached_at(state, observation, policy, now)
    if reached is None or state.stage not in (None, Stage.ROLL, Stage.WATCH):
        return reached
    crashed = (at for _, at in crashes(state, observation) if at <= now)
    return max([reached, *crashed])


def _reached_at(state: State, observation: Observation, policy: Policy, now: datetime) -> datetime | None:
    """Nothing while a route says otherwise."""
    if state.phase is Phase.PROGRESSING:
        if route_pending(state, observation, policy, now):
            return None
        ready = all(
            has_capacity(state, t, observation.targets[t.name])
            for t in state.targets
            if t.strategy is Strategy.CANARY and t.name in observation.targets
        )
        return state.settled_at or (now if ready else None)
    if state.stage is Stage.ROLL:
        # A pod that is evicted later does not start the watch anew.
        done = all(takes_over(state, t, seen, policy, now) for t, seen in targets(state, observation))
        return state.settled_at or (now if done else None)
    if state.stage is Stage.WATCH:
        return state.settled_at or state.entered_at
    if state.stage is Stage.RECOVER:
        back = all(recovered(state, t, seen) for t, seen in targets(state, observation))
        return (state.settled_at or now) if back else None
    return None


def _progressed(state: State, observation: Observation, policy: Policy, now: datetime) -> State:
    """Progress as Kubernetes counts it: one more new pod, one more of them ready, one fewer of the others.

    One more that is wanted has a time of its own, and where none is wanted, none is late.
    """
    found = list(targets(state, observation))
    arrived = (
        state.settled_at is not None
        if state.stage is None
        else state.stage is not Stage.ROLL or all(takes_over(state, t, seen, policy, now) for t, seen in found)
    )
    wanted = all(seen.deployment is None or seen.deployment.replicas for _, seen in found)
    if arrived or not wanted:
        return replace(state, progress=0, progressed_at=None)
    reached = sum(_reached(state, target, seen) for target, seen in found)
    if state.progressed_at and reached <= state.progress:
        return state
    return replace(state, progress=reached, progressed_at=now)


def _reached(state: State, target: Target, seen: Seen) -> int:
    if state.stage is None:
        return target.replicas + seen.canary.ready + sum(seen.canary.endpoints.values())
    d = seen.deployment
    ready = sum(rs.ready for rs in seen.replica_sets if rs.revision == target.revision)
    return d.replicas + 2 * d.updated - d.total + ready if d else 0


def _weighted_at(state: State, observation: Observation, now: datetime) -> datetime | None:
    shown = any(route.weight != 0 for seen in observation.targets.values() for route in seen.routes)
    return state.weighted_at or (now if shown and state.phase is Phase.PROGRESSING else None)
