"""Controls of the plan: without one of its guards an invariant of the world breaks, the one that is named."""

from collections.abc import Iterator

import pytest

from controller.core import decide, plan
from controller.core.model import Seen, Stage, State, Target
from controller.core.plan import DeleteCanary, DeleteReplicaSet, Intent, Shift
from tests.simulation.under_way import MINUTE, NORMAL, at_stage, play, under_way, until
from tests.simulation.world import SIZE, Broken, Trouble, World


def test_capacity_comes_before_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "need", lambda replicas, weight: 0)
    with pytest.raises(Broken, match="I4: capacity, then traffic"):
        play(World(NORMAL, Trouble(never_ready=True)), MINUTE)


def test_a_canary_is_named_before_it_has_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
        if seen.canary.ready:
            yield from (Shift(target, r.key, state.weight) for r in seen.routes if r.weight != state.weight)

    monkeypatch.setattr(plan, "_raise_traffic", at_once)
    with pytest.raises(Broken, match="the canary is named before it has weight"):
        play(World(NORMAL), MINUTE)


def test_a_canary_goes_after_the_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
        yield DeleteCanary(target, "Deployment", target.canary)

    world = at_stage(Stage.DRAIN)
    monkeypatch.setattr(plan, "clean_up", at_once)
    with pytest.raises(Broken, match="I4: traffic, drain, then capacity"):
        play(world, MINUTE)


def test_a_rejected_replica_set_goes_only_while_its_deployment_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(state: State, target: Target, seen: Seen) -> Iterator[Intent]:
        yield from (DeleteReplicaSet(target, rs) for rs in seen.replica_sets if rs.revision == target.revision)

    world = under_way("roll")
    world.trouble = Trouble(crash_at=0)
    monkeypatch.setattr(plan, "_recover", at_once)
    with pytest.raises(Broken, match="I5: only a rejected one, paused, stable standing"):
        play(world, MINUTE)


def test_traffic_returns_to_pods_that_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    world = until(at_stage(Stage.ROLL), lambda w: w.ready("new") == SIZE)
    world.trouble = Trouble(crash_at=0, stable_never_ready=True)
    monkeypatch.setattr(decide, "_awaited", lambda *_, **__: False)
    world.own["new"].ready_at.clear()
    with pytest.raises(Broken, match="I3: traffic returns to ready pods only"):
        play(world, MINUTE)


def test_a_canary_serves_on_when_its_deployment_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = under_way("100")
    world.trouble = Trouble(unowned_at=world.since + 1)
    world.own["old"].ready_at.clear()  # the garbage collector was faster than we
    monkeypatch.setattr(decide, "_awaited", lambda *_, **__: False)
    with pytest.raises(Broken, match="I5: the only healthy version carries the traffic"):
        play(world, MINUTE)
