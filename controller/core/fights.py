"""What of ours is not as we left it, who did it, and how long that stands. Pure.

Values say that something is not ours any more, managedFields say who wrote it. One count for all of it: what is written
over again and again is given up, and the traffic goes to stable.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from controller.core.change import HELD
from controller.core.checks import need, not_paused
from controller.core.model import Author, Autoscaler, Drift, Held, Phase, Route, Seen, Stage, State, Strategy, Target

BACK_OFF_FIRST, BACK_OFF_MAX = timedelta(seconds=2), timedelta(minutes=5)


def follow(state: State, target: Target, seen: Seen, now: datetime) -> Target:
    """With what others did since, counted once for each time that they wrote over us."""
    newest = max(foreign(state, target, seen), key=_moment, default=None)
    if newest is None:
        return replace(target, drift=None, gives_way=False)
    if target.drift is None or (_over(target, now) and _moment(newest) > _moment(target.drift)):
        target = replace(target, drifts=target.drifts + 1, drift=replace(newest, seen_at=now))
    return replace(target, gives_way=state.phase is Phase.PROGRESSING and not _over(target, now))


def _moment(drift: Drift) -> float:
    return drift.at.timestamp() if drift.at else 0.0


def _over(target: Target, now: datetime) -> bool:
    return now >= put_back_at(target)


def put_back_at(target: Target) -> datetime:
    """Until then what takes traffic from the canary stands: twice as long each time."""
    assert target.drift is not None
    assert target.drift.seen_at is not None
    return target.drift.seen_at + min(BACK_OFF_FIRST * (1 << min(target.drifts - 1, 16)), BACK_OFF_MAX)


def yields_to(target: Target, route: Route, weight: int) -> bool:
    """Whether a route may stay as someone else left it for now: only while it gives the canary less."""
    return target.gives_way and route.weight is not None and route.weight < weight


def foreign(state: State, target: Target, seen: Seen) -> Iterator[Drift]:
    """What others wrote over. What they have no name for in the API server was there at the last look, or is not back.

    In promotion the routes are not counted: what others do there, the promotion is about to do.
    """
    d = seen.deployment
    if state.phase is Phase.PROMOTING and state.stage is Stage.ROLL:
        if d and d.held == Held.PROMOTING and d.paused:
            yield _drift(f"spec.paused of Deployment {d.name}", d.authors.get("paused"))
        return
    if state.phase is not Phase.PROGRESSING:
        return
    steady = state.settled_at is not None or target.drift is not None
    if steady and d and d.revision == target.revision and d.held != Held.RUNNING and not not_paused(target, seen):
        yield _drift(f"annotation {HELD} of Deployment {d.name}", None)
    if target.strategy is Strategy.NATIVE:
        return
    for route in seen.routes:
        if route.weight != state.weight and (steady or (state.weighted_at and route.author)):
            yield _drift(f"spec.rules of {route.key}", route.author)
    if state.weighted_at and (scaler := _lowered(target, seen)):
        yield _drift(f"spec.minReplicas of HorizontalPodAutoscaler {scaler.name}", scaler.author)
    canary = seen.canary.deployment
    if canary and "replicas" in canary.authors and canary.replicas < need(target.replicas, state.weight):
        yield _drift(f"spec.replicas of Deployment {canary.name}", canary.authors["replicas"])


def _lowered(target: Target, seen: Seen) -> Autoscaler | None:
    """The autoscaler whose floor someone else put below the size that stable keeps."""
    scaler = seen.autoscaler
    mine = scaler is not None and target.floor is not None and scaler.name == target.floor.name
    low = scaler is not None and scaler.min_replicas < min(target.replicas, scaler.max_replicas)
    return scaler if scaler and mine and low and scaler.author else None


def _drift(what: str, author: Author | None) -> Drift:
    return Drift(what, author.manager if author else "", author.at if author else None)
