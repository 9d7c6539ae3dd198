"""From the committed state and the cluster as it is: the next write towards it. Pure.

Every write is absolute and may be repeated. The order is the safety. Raising: capacity, then traffic; lowering:
traffic, drain, then capacity.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from controller.core.checks import need, rolled, stable_covers, targets
from controller.core.fights import yields_to
from controller.core.model import (
    Deployment,
    Held,
    JobOutcome,
    JobRun,
    Observation,
    Phase,
    ReplicaSet,
    Seen,
    ServicePair,
    Stage,
    State,
    Strategy,
    Target,
)
from controller.core.policy import OnRollback
from controller.core.template import copy_name


@dataclass(frozen=True)
class Intent:
    """A write, named for what it does. `target` is the Deployment that it is about."""

    target: Target


@dataclass(frozen=True)
class Mark(Intent):
    """Set serin.dev/held, and pause."""

    deployment: Deployment
    held: Held


@dataclass(frozen=True)
class Release(Intent):
    """Take serin.dev/held away and un-pause: nothing of ours is pending."""

    deployment: Deployment


@dataclass(frozen=True)
class Promote(Intent):
    """`held: promoting` and un-pause in one write: the Deployment rolls by itself."""

    deployment: Deployment


@dataclass(frozen=True)
class Restore(Intent):
    """The stable template back, un-paused, under `held: restoring`."""

    deployment: Deployment


@dataclass(frozen=True)
class DisownTemplate(Intent):
    """Drop our managedFields entry, so that the user's next apply neither conflicts nor keeps a field it dropped."""

    deployment: Deployment


@dataclass(frozen=True)
class DeleteReplicaSet(Intent):
    replica_set: ReplicaSet


@dataclass(frozen=True)
class SetFloor(Intent):
    """minReplicas of the HorizontalPodAutoscaler."""

    autoscaler: str
    min_replicas: int


@dataclass(frozen=True)
class CreateService(Intent):
    pair: ServicePair


@dataclass(frozen=True)
class CreateCompanion(Intent):
    """A copy of a NetworkPolicy or PodDisruptionBudget for the canary's pods."""

    kind: str
    source: str


@dataclass(frozen=True)
class CreateCanary(Intent):
    deployment: Deployment
    replicas: int


@dataclass(frozen=True)
class ScaleCanary(Intent):
    replicas: int


@dataclass(frozen=True)
class Shift(Intent):
    """Every rule of a route to `weight` percent for the canary, which is named at 0 too."""

    route: str
    weight: int


@dataclass(frozen=True)
class PutBack(Intent):
    """The user's backendRefs back, word for word: the canary is not named any more."""

    route: str


@dataclass(frozen=True)
class DeleteCanary(Intent):
    """Delete one object of the canary."""

    kind: str
    name: str


@dataclass(frozen=True)
class RunJob(Intent):
    """Make the Job of a CronJob, as `kubectl create job --from` does."""

    run: JobRun


def plan(state: State, observation: Observation) -> tuple[Intent, ...]:
    """What may be written now, the most urgent first; one of them is, the first that the API server does not refuse.

    On the way back each Deployment goes by itself; and returning traffic and cleaning up, each route and object: none
    waits for another one that cannot be written. Everything else is written in its order.
    """
    lacking = [list(_writes(state, target, seen)) for target, seen in targets(state, observation)]
    if state.stage in (Stage.RETURN, Stage.WATCH, Stage.CLEAN) or (state.stage is Stage.RECOVER and not state.promoted):
        return tuple(write for writes in lacking for write in writes)
    firsts = tuple(writes[0] for writes in lacking if writes)
    return firsts if state.phase is Phase.ROLLING_BACK else (firsts or tuple(_jobs(state)))[:1]


def _jobs(state: State) -> Iterator[Intent]:
    """While the change waits for nothing else."""
    if state.phase is Phase.WAITING and state.reason == "AwaitingJobs":
        yield from (RunJob(state.targets[0], run) for run in state.jobs if run.outcome is JobOutcome.PENDING)


def _writes(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
    """What this Deployment still lacks, in the order in which it may be written; only the first is."""
    match state.phase, state.stage:
        case Phase.WAITING, _:
            yield from _hold(target, seen)
        case Phase.PROGRESSING, _:
            yield from _lock(target, seen)
            if target.strategy is Strategy.CANARY:
                yield from _lower_traffic(state, target, seen)
                yield from _raise_capacity(state, target, seen)
                yield from _raise_traffic(state, target, seen)
        case Phase.PROMOTING, Stage.ROLL:
            yield from _raise_traffic(state, target, seen)
            yield from _roll(target, seen)
        case Phase.ROLLING_BACK, Stage.RECOVER:
            yield from _recover(state, target, seen)
            if state.promoted:
                yield from _raise_traffic(state, target, seen)
            elif seen.deployment and stable_covers(target, seen):
                yield from _return(target, seen)
        case _, Stage.WATCH:
            yield from _watch(target, seen)
        case _, Stage.RETURN:
            yield from _return(target, seen)
        case _, Stage.CLEAN:
            yield from clean_up(state, target, seen)
        case phase, _ if phase.terminal:
            yield from _come_late(target, seen)


def _hold(target: Target, seen: Seen) -> Iterator[Intent]:
    """A ReplicaSet of the held template without pods would be started by scaling the Deployment 0 → N: it goes."""
    d = seen.deployment
    if d and d.held and d.paused:
        for rs in seen.replica_sets:
            if rs.revision == d.revision and rs.replicas == 0:
                yield DeleteReplicaSet(target, rs)


def _lock(target: Target, seen: Seen) -> Iterator[Intent]:
    d = seen.deployment
    if d and d.revision == target.revision and not (d.held == Held.RUNNING and d.paused):
        yield Mark(target, d, Held.RUNNING)


def _raise_capacity(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
    d = seen.deployment
    if d is None or d.revision != target.revision:
        return
    scaler = seen.autoscaler
    if target.floor and scaler and scaler.name == target.floor.name:
        floor = min(target.replicas, scaler.max_replicas)
        if scaler.min_replicas < floor:
            yield SetFloor(target, scaler.name, floor)
    for pair in target.services:
        if pair.canary not in seen.canary.services:
            yield CreateService(target, pair)
    for source in seen.companions:
        kind, name = source.split("/", 1)
        if f"{kind}/{copy_name(target.name, name)}" not in seen.canary.companions:
            yield CreateCompanion(target, kind, name)
    wanted = need(target.replicas, state.weight)
    if seen.canary.deployment is None:
        yield CreateCanary(target, d, wanted)
    elif seen.canary.deployment.replicas < wanted:
        yield ScaleCanary(target, wanted)


def _lower_traffic(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
    """Someone else gave the canary more than was decided."""
    for route in seen.routes:
        if route.weight is not None and route.weight > state.weight:
            yield Shift(target, route.key, state.weight)


def _raise_traffic(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
    """More only with ready endpoints for all of it.

    The canary is named in the routes before it gets weight, and until it has none any more: a proxy that hears of a
    route before it hears of the cluster, or of the cluster's end before the route's, answers 503.
    """
    if target.strategy is Strategy.NATIVE:
        return
    wanted = need(target.replicas, state.weight)
    ready = seen.canary.ready >= wanted and all(
        seen.canary.endpoints.get(pair.canary, 0) >= wanted for pair in target.services
    )
    for route in seen.routes:
        if route.weight == state.weight or not (ready or state.promoted) or yields_to(target, route, state.weight):
            continue
        if route.intact and not state.promoted:
            yield Shift(target, route.key, 0)
        elif route.accepted or state.promoted:
            yield Shift(target, route.key, state.weight)


def _roll(target: Target, seen: Seen) -> Iterator[Intent]:
    d = seen.deployment
    if d is None or d.revision != target.revision:
        return
    if not target.stable_revision:
        if d.held or d.paused:
            yield Release(target, d)
    elif d.held != Held.PROMOTING or d.paused:
        yield Promote(target, d)


def _recover(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
    """Stop the roll; bring stable pods back.

    The rejected ReplicaSet goes only while the Deployment is paused, and while stable still has replicas.
    """
    d = seen.deployment
    if d is None or not state.promoted or not target.stable_revision:
        return
    stable = next((rs for rs in seen.replica_sets if rs.revision == target.stable_revision), None)
    if d.revision == target.revision and stable and stable.replicas > 0:
        # Also when it is paused: a promotion that another leader sent may be on its way, and is refused from here on.
        if not d.paused or d.held != Held.RETURNING:
            yield Mark(target, d, Held.RETURNING)
        for rs in seen.replica_sets:
            if rs.revision == target.revision:
                yield DeleteReplicaSet(target, rs)
    elif d.revision == target.revision:
        yield Restore(target, d)


def _return(target: Target, seen: Seen) -> Iterator[Intent]:
    for route in seen.routes:
        if route.weight != 0:
            yield Shift(target, route.key, 0)


def _watch(target: Target, seen: Seen) -> Iterator[Intent]:
    """Without the canary, which is of the new revision; the template is locked, but for an Emergency."""
    yield from _remove(target, seen)
    d = seen.deployment
    if d and d.held == Held.PROMOTING and d.revision == target.revision:
        yield Mark(target, d, Held.RUNNING)


def clean_up(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
    """What is still to be removed or put back at the end; nothing when nothing of ours is left of this Deployment."""
    yield from _remove(target, seen)
    gone = seen.canary.deployment is None and all(route.intact for route in seen.routes)
    if gone and seen.deployment and (intent := _settle_deployment(state, target, seen)):
        yield intent


def _remove(target: Target, seen: Seen) -> Iterator[Intent]:
    """The canary and what goes with it."""
    named = [route.key for route in seen.routes if not route.intact]
    yield from (PutBack(target, key) for key in named)
    if named:
        return
    if seen.canary.deployment:
        yield DeleteCanary(target, "Deployment", target.canary)
        return
    if seen.canary.ready == 0:
        yield from (DeleteCanary(target, "Service", service) for service in seen.canary.services)
        yield from (DeleteCanary(target, *companion.split("/", 1)) for companion in seen.canary.companions)
    floor, scaler = target.floor, seen.autoscaler
    if floor and scaler and scaler.name == floor.name and scaler.ours and scaler.min_replicas != floor.min_replicas:
        yield SetFloor(target, floor.name, floor.min_replicas)


def _come_late(target: Target, seen: Seen) -> Iterator[Intent]:
    """What a leader that had lost its lease without knowing it made of a change that had ended meanwhile.

    The route is no concern of this change any more: another one may run.
    """
    if seen.canary.deployment:
        yield DeleteCanary(target, "Deployment", target.canary)
    yield from (DeleteCanary(target, "Service", service) for service in seen.canary.services)
    yield from (DeleteCanary(target, *companion.split("/", 1)) for companion in seen.canary.companions)


def _settle_deployment(state: State, target: Target, seen: Seen) -> Intent | None:
    d = seen.deployment
    assert d is not None
    if state.phase is Phase.PROMOTING:
        # A newer template, even the one that was stable before, is another change's, and held as such if we locked it.
        if d.revision != target.revision:
            return Mark(target, d, Held.WAITING) if d.held and d.held != Held.WAITING else None
        return Release(target, d) if d.held else None
    if d.revision == target.revision:
        restore = (
            state.policy is not None
            and state.policy.on_rollback is OnRollback.RESTORE
            and state.outcome is Phase.ROLLED_BACK
        )
        if restore and target.stable_template:
            return Restore(target, d)
        # The first deployment of a name that is released already has nothing to go back to: it stays as it is.
        return (
            Mark(target, d, Held.REJECTED) if d.held != Held.REJECTED and (d.held or target.stable_revision) else None
        )
    if d.revision == target.stable_revision and d.held:
        if "serin" in d.template_owners:
            return DisownTemplate(target, d)
        # Not in the middle of its way back to stable, unless that is stuck: another template mends it then.
        return Release(target, d) if d.paused or d.failure or rolled(target, seen) else None
    return Mark(target, d, Held.WAITING) if d.held and d.held != Held.WAITING else None
