"""The next write: what may be written, what must not be yet, and what does not wait for another."""

from dataclasses import replace
from typing import Any

import pytest

from controller.core.model import (
    Autoscaler,
    CanaryParts,
    Change,
    Deployment,
    Floor,
    Held,
    Observation,
    Phase,
    Pod,
    ReplicaSet,
    Route,
    RouteOriginal,
    Seen,
    ServicePair,
    Stage,
    State,
    Strategy,
    Target,
)
from controller.core.plan import DeleteCanary, Mark, PutBack, SetFloor, Shift, plan
from controller.core.policy import ChangeType

CHANGE = Change("demo", "chg-1", "CHG-20261123-001", ChangeType.NORMAL, "uid", "1")


def target(name: str, **fields: Any) -> Target:
    made = Target(
        name=name,
        uid=f"uid-{name}",
        revision="new",
        strategy=Strategy.CANARY,
        stable_revision="old",
        replicas=4,
        selector_key="app",
        services=(ServicePair(name, f"{name}-canary", (80,)),),
        routes=(original(name),),
    )
    return replace(made, **fields)


def original(name: str) -> RouteOriginal:
    return RouteOriginal("HTTPRoute", "demo", name, ([{"name": name}],))


def deployment(name: str, **fields: Any) -> Deployment:
    made = Deployment(
        name=name, namespace="demo", uid=f"uid-{name}", resource_version="1", replicas=4, total=4, updated=0, ready=4,
        available=4, observed=True, paused=True, held="running", change=CHANGE.change_id, revision="new", template={},
        selector={"app": name}, recreate=False, unavailable_max=1, progress_deadline_seconds=600, min_ready_seconds=0,
        annotations={}, labels={},
    )  # fmt: skip
    return replace(made, **fields)


def route(name: str, weight: int | None, **fields: Any) -> Route:
    return replace(
        Route(f"HTTPRoute/demo/{name}", weight, intact=False, accepted=True, original=original(name)), **fields
    )


def pods(count: int, *, ready: bool = True) -> tuple[Pod, ...]:
    return tuple(Pod(f"p{i}", f"p{i}", ready, leaving=False, restarts=0) for i in range(count))


def canary(name: str, ready: int = 4) -> CanaryParts:
    endpoints = {f"{name}-canary": ready}
    return CanaryParts(deployment(f"{name}-canary"), (f"{name}-canary",), endpoints, pods(ready))


def seen(name: str, weight: int | None = 50, **fields: Any) -> Seen:
    made = Seen(
        deployment=deployment(name),
        replica_sets=(ReplicaSet(f"{name}-old", "old", "1", "old", 4, 4, 1),),
        canary=canary(name),
        routes=(route(name, weight),),
    )
    return replace(made, **fields)


def observed(**found: Seen) -> Observation:
    return Observation(CHANGE, found, None)


def state(phase: Phase, stage: Stage | None, *targets: Target, **fields: Any) -> State:
    return State(phase=phase, stage=stage, targets=targets, **fields)


def test_what_has_its_stable_pods_goes_back_while_another_one_is_waited_for() -> None:
    waiting = state(Phase.ROLLING_BACK, Stage.RECOVER, target("gone"), target("shop"), weight=50)
    (intent,) = plan(waiting, observed(gone=seen("gone", deployment=None, replica_sets=()), shop=seen("shop")))
    assert (isinstance(intent, Shift) and (intent.target.name, intent.weight)) == ("shop", 0)


def test_a_deployment_that_was_created_anew_is_not_written() -> None:
    anew = seen("shop", 0, deployment=deployment("shop", uid="anew", held="true"), routes=(), canary=CanaryParts())
    for stage in (Stage.RECOVER, Stage.RETURN, Stage.CLEAN):
        assert plan(state(Phase.ROLLING_BACK, stage, target("shop"), promoted=True), observed(shop=anew)) == ()


def test_on_the_way_back_no_route_and_no_deployment_waits_for_another() -> None:
    partners = replace(route("shop", 50), key="HTTPRoute/demo/partners")
    found = observed(shop=seen("shop", routes=(partners, route("shop", 50))), till=seen("till"))
    both = (target("shop"), target("till"))
    back = plan(state(Phase.ROLLING_BACK, Stage.RETURN, *both), found)
    shifts = ["HTTPRoute/demo/partners", "HTTPRoute/demo/shop", "HTTPRoute/demo/till"]
    assert [i.route for i in back if isinstance(i, Shift) and i.weight == 0] == shifts
    cleaning = plan(state(Phase.ROLLING_BACK, Stage.CLEAN, *both), found)
    assert [i.route for i in cleaning if isinstance(i, PutBack)] == shifts
    assert len(cleaning) == len(shifts), "nothing is deleted that a route still names"


def test_forward_there_is_one_write_and_its_order_is_kept() -> None:
    bare = seen("shop", 0, canary=CanaryParts(), deployment=deployment("shop", held="true"))
    both = (target("shop"), target("till"))
    found = observed(shop=bare, till=replace(bare, deployment=deployment("till", held="true")))
    assert [type(i) for i in plan(state(Phase.PROGRESSING, None, *both, weight=10), found)] == [Mark]


def test_a_rejected_replica_set_stays_while_its_deployment_cannot_be_paused() -> None:
    new = ReplicaSet("shop-new", "new", "1", "new", 2, 2, 2)
    rolling = deployment("shop", held="promoting", paused=False)
    both = seen("shop", 100, deployment=rolling, replica_sets=(*seen("shop").replica_sets, new))
    stopping = plan(state(Phase.ROLLING_BACK, Stage.RECOVER, target("shop"), promoted=True), observed(shop=both))
    assert [type(i) for i in stopping] == [Mark]


def test_the_way_back_from_a_promotion_marks_also_what_is_paused_before_the_traffic_moves() -> None:
    """A promotion that another leader has sent would pass else, for nothing that it was decided about has changed."""
    promoted = target("shop")
    held = observed(shop=seen("shop", 100))
    first = plan(state(Phase.ROLLING_BACK, Stage.RECOVER, promoted, promoted=True, weight=100), held)
    assert [(type(i), getattr(i, "held", "")) for i in first] == [(Mark, Held.RETURNING)]
    marked = observed(shop=seen("shop", 100, deployment=deployment("shop", held="returning")))
    assert plan(state(Phase.ROLLING_BACK, Stage.RECOVER, promoted, promoted=True, weight=100), marked) == ()


def test_an_autoscaler_that_may_not_be_written_does_not_keep_the_deployment_locked() -> None:
    scaled = seen("shop", None, routes=(), canary=CanaryParts(), autoscaler=Autoscaler("shop", 4, 9, ours=True))
    floor = target("shop", floor=Floor("shop", 2))
    left = plan(state(Phase.ROLLING_BACK, Stage.CLEAN, floor, outcome=Phase.ROLLED_BACK), observed(shop=scaled))
    assert [type(i) for i in left] == [SetFloor, Mark]


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase.terminal])
def test_what_comes_late_to_a_change_that_has_ended_goes_and_no_route_is_touched(phase: Phase) -> None:
    """The route may be the next change's by now."""
    ended = State(phase=phase, targets=(target("shop"),))
    late = Observation(CHANGE, {"shop": seen("shop", 50, deployment=None)}, None)
    assert [(type(i), i.kind, i.name) for i in plan(ended, late) if isinstance(i, DeleteCanary)] == [
        (DeleteCanary, "Deployment", "shop-canary")
    ]
    services = Observation(CHANGE, {"shop": seen("shop", 50, canary=CanaryParts(services=("shop-canary",)))}, None)
    assert [(type(i), getattr(i, "kind", "")) for i in plan(ended, services)] == [(DeleteCanary, "Service")]
    assert plan(ended, Observation(CHANGE, {}, None)) == ()
