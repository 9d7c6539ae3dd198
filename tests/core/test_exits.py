"""Every wait has a way out, and what users meet is watched at every moment at which the canary has traffic."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from controller.core.decide import decide
from controller.core.model import (
    Autoscaler,
    CanaryParts,
    Deployment,
    Evidence,
    Floor,
    Held,
    Incident,
    Measurements,
    Observation,
    Phase,
    ReplicaSet,
    Seen,
    Stage,
    State,
    Strategy,
    Verdict,
)
from controller.core.plan import DeleteReplicaSet, Mark, plan
from controller.core.policy import OnRollback, Policy
from controller.core.slo import Breach
from tests.simulation.test_world import policy
from tests.simulation.world import BEGIN, SIZE, World

NORMAL = policy("normal")
SECOND = timedelta(seconds=1)
STABLE = ReplicaSet("shop-old", "old", "1", "old", 0, 0, 1)
NEWER = ReplicaSet("shop-new", "new", "1", "new", 10, 10, 2)


def rolling(state: State) -> bool:
    return state.phase is Phase.PROMOTING and state.stage is Stage.ROLL


def setting_up(state: State) -> bool:
    return state.weight == 50 and state.settled_at is None


def reached(world: World, when: Callable[[State], bool]) -> World:
    while not when(world.state):
        assert not world.state.phase.terminal
        play(world, SECOND)
    return world


def play(world: World, time: timedelta) -> State:
    return asyncio.run(world.run(world.now - BEGIN + time))


class Fading(World):
    """From a moment on no pod of the new revision is ready, though none crashes."""

    faded = False

    def canary_ready(self) -> int:
        return 0 if self.faded else super().canary_ready()

    def ready(self, revision: str) -> int:
        return 0 if self.faded and revision == "new" else super().ready(revision)

    def parts(self) -> CanaryParts:
        parts = super().parts()
        return replace(parts, pods=tuple(replace(p, ready=p.ready and not self.faded) for p in parts.pods))


@pytest.mark.parametrize("when", [setting_up, rolling])
def test_pods_that_are_not_ready_go_back_while_the_next_step_is_set_up(when: Callable[[State], bool]) -> None:
    world = Fading(NORMAL)
    reached(world, when)
    world.faded = True
    assert play(world, timedelta(seconds=40)).cause == "NotReady"


@pytest.mark.parametrize("when", [setting_up, rolling])
def test_a_canary_that_someone_deletes_goes_back_at_once(when: Callable[[State], bool]) -> None:
    world = reached(World(NORMAL), when)
    world.canary = None
    assert play(world, 3 * SECOND).cause == "CanaryLost"


# --- Long waits, in the pure core ---


def winding_up(stage: Stage, **changes: Any) -> tuple[State, World]:
    world = reached(World(NORMAL), rolling)
    state = replace(world.state, stage=stage, weight=0, settled_at=None, entered_at=world.now, evidence=(), breaches=())
    return replace(state, **changes), world


def observed(world: World, deployment: Deployment, *, named: bool = False, **changes: Any) -> Observation:
    seen = asyncio.run(world.observe(world.change, world.state, None))
    route = replace(world.route(), weight=0, intact=not named, accepted=True)
    parts: dict[str, Any] = {"canary": CanaryParts()} if not named else {}
    target: Seen = replace(
        seen.targets["shop"],
        deployment=deployment,
        routes=(route,),
        pods=(),
        replica_sets=(STABLE, NEWER),
        **parts,
        **changes,
    )
    return replace(seen, targets={"shop": target})


def later(state: State, seen: Observation, begin: datetime, problem: str = "") -> State:
    """An hour in which nothing moves."""
    for second in range(3600):
        now = begin + second * SECOND
        state = decide(state, replace(seen, measurements=Measurements(now, problem=problem)), NORMAL, now)
    return state


@pytest.mark.parametrize("revision", ["newer", "old"])
def test_a_template_that_is_applied_in_the_last_moment_waits_for_a_change_of_its_own(revision: str) -> None:
    state, world = winding_up(Stage.CLEAN)
    d = replace(world.made("shop", "d", SIZE), revision=revision, held=Held.WAITING.value, paused=True)
    seen = observed(world, d)
    assert plan(state, seen) == ()
    assert later(state, seen, world.now).phase is Phase.COMPLETED


def test_a_way_back_that_died_after_its_first_write_is_still_the_same_way_back() -> None:
    """The stable template was put back before the verdict was committed: nobody else gave it another one."""
    world = reached(World(NORMAL), rolling)
    d = replace(world.made("shop", "d", SIZE), revision="old", held=Held.RESTORING.value, paused=False)
    seen = observed(world, d)
    assert decide(world.state, seen, NORMAL, world.now).phase is Phase.PROMOTING, "it is no other change's template"
    incident = Incident("CheckoutDown", {}, world.now)
    again = replace(seen, measurements=Measurements(world.now, incidents=(incident,)))
    back = decide(world.state, again, NORMAL, world.now)
    assert (back.phase, back.outcome, back.cause) == (Phase.ROLLING_BACK, Phase.ROLLED_BACK, "P0Incident")
    assert back.rejected


def over_limit(policy: Policy, at: datetime) -> dict[str, Any]:
    return {
        "breaches": tuple(Breach(r.name, "shop", timedelta(seconds=20), at, True) for r in policy.rules),
        "evidence": tuple(Evidence(r.name, "shop", Verdict.INCONCLUSIVE, "2%", "1%", "") for r in policy.rules),
    }


def test_a_bad_last_sample_does_not_hold_a_canary_that_has_no_traffic_any_more() -> None:
    state, world = winding_up(Stage.DRAIN)
    d = replace(world.made("shop", "d", SIZE), revision="new", held=Held.PROMOTING.value, paused=False)
    state = replace(state, **over_limit(NORMAL, world.now))
    assert later(state, observed(world, d, named=True), world.now).stage is Stage.CLEAN


def test_a_promotion_that_nobody_can_see_is_inconclusive_in_the_end() -> None:
    state, world = winding_up(Stage.ROLL, weight=100)
    state = replace(state, **over_limit(NORMAL, world.now))
    d = replace(world.made("shop", "d", SIZE), held=Held.PROMOTING.value, paused=False, updated=10, total=10, ready=10)
    seen = observed(world, d, named=True)
    route = replace(seen.targets["shop"].routes[0], weight=100)
    seen = replace(seen, targets={"shop": replace(seen.targets["shop"], routes=(route,))})
    assert later(state, seen, world.now, problem="PrometheusUnreachable: no answer").cause == "Inconclusive"


def test_a_native_rollout_whose_pods_fade_while_it_is_watched_goes_back() -> None:
    state, world = winding_up(Stage.ROLL)
    native = replace(state.targets[0], strategy=Strategy.NATIVE, services=(), routes=(), selector_key="")
    state = replace(state, targets=(native,), settled_at=world.now)
    d = replace(world.made("shop", "d", SIZE), held=Held.PROMOTING.value, paused=False, updated=10, total=10, ready=0)
    assert later(state, observed(world, d), world.now).cause == "NotReady"


def test_a_restored_deployment_is_unlocked_before_the_change_ends() -> None:
    restore = replace(NORMAL, on_rollback=OnRollback.RESTORE)
    state, world = winding_up(
        Stage.CLEAN, phase=Phase.ROLLING_BACK, outcome=Phase.ROLLED_BACK, promoted=False, policy=restore
    )
    d = replace(world.made("shop", "d", SIZE), revision="old", held=Held.RESTORING.value, paused=False, observed=False)
    assert decide(state, observed(world, d), restore, world.now).phase is Phase.ROLLING_BACK


def test_an_idle_replica_set_of_the_held_template_goes_at_size_zero_too() -> None:
    _, world = winding_up(Stage.CLEAN)
    d = replace(world.made("shop", "d", SIZE), held=Held.WAITING.value, paused=True, replicas=0)
    idle = replace(NEWER, replicas=0, ready=0)
    seen = observed(world, d)
    seen = replace(seen, targets={"shop": replace(seen.targets["shop"], replica_sets=(STABLE, idle))})
    assert isinstance(plan(State(targets=world.state.targets), seen)[0], DeleteReplicaSet)


def test_an_autoscaler_of_another_name_is_left_alone() -> None:
    state, world = winding_up(Stage.CLEAN)
    state = replace(state, targets=tuple(replace(t, floor=Floor("ours", 2)) for t in state.targets))
    d = replace(world.made("shop", "d", SIZE), revision="new", held="", paused=False)
    assert plan(state, observed(world, d, autoscaler=Autoscaler("another", 3, 20))) == ()


def test_a_first_deployment_whose_group_goes_back_before_it_ran_is_not_left_locked() -> None:
    state, world = winding_up(Stage.CLEAN, phase=Phase.ROLLING_BACK, outcome=Phase.ROLLED_BACK, promoted=False)
    state = replace(
        state, targets=tuple(replace(t, stable_revision="", strategy=Strategy.NATIVE) for t in state.targets)
    )
    d = replace(world.made("shop", "d", SIZE), held=Held.RUNNING.value, paused=True)
    (intent,) = plan(state, observed(world, d))
    assert isinstance(intent, Mark)
    assert intent.held is Held.REJECTED
