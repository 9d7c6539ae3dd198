"""The Deployment itself goes, comes again or changes its size while its change is under way."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from controller.core.model import Phase, Stage, State
from controller.core.policy import Approval, Policy
from tests.simulation.test_world import policy
from tests.simulation.world import BEGIN, SIZE, Trouble, World

NORMAL = policy("normal")
SECOND = timedelta(seconds=1)
NEXT = "CHG-20261123-002"
WEIGHTS = {"10": 10, "50": 50, "100": 100, "roll": 100}
MOMENTS = pytest.mark.parametrize("moment", list(WEIGHTS))


def play(world: World, time: timedelta = timedelta(hours=3)) -> State:
    return asyncio.run(world.run(world.now - BEGIN + time))


def until(world: World, when: Callable[[World], bool]) -> World:
    while not when(world):
        assert not world.state.phase.terminal
        play(world, SECOND)
    return world


def under_way(moment: str, policy: Policy = NORMAL) -> World:
    """A healthy change whose canary has carried this share for a moment; `roll`: some pods are replaced."""
    if moment == "roll":
        return until(World(policy), lambda w: w.state.stage is Stage.ROLL and 0 < w.ready("new") < SIZE)
    return until(World(policy), lambda w: w.way.weight == WEIGHTS[moment] and w.state.settled_at is not None)


def struck(world: World, **trouble: object) -> World:
    """The Deployment is deleted now."""
    world.trouble = Trouble(unowned_at=world.since + 1, **trouble)  # type: ignore[arg-type]
    return world


def created_anew(moment: str, template: str, label: str = "") -> World:
    world = under_way(moment)
    return struck(world, created_at=world.since + 4, created_as=template, created_for=label)


def go_on(world: World, seconds: int) -> None:
    """What the other changes do after the first one has ended."""
    for _ in range(seconds):
        world.pass_second()
        asyncio.run(world.settle_down())


@MOMENTS
@pytest.mark.parametrize(("template", "label"), [("new", ""), ("old", "CHG-20261101-001"), ("newer", NEXT)])
def test_one_that_is_created_anew_gets_the_traffic_when_it_has_pods(moment: str, template: str, label: str) -> None:
    world = created_anew(moment, template, label)
    begin = world.since
    done = play(world)
    assert (done.phase, done.cause) == (Phase.SUPERSEDED, "DeploymentDeleted")
    assert world.since - begin < 60
    assert world.ready(template) == SIZE
    go_on(world, 5)
    assert (world.held, world.paused) == ("", False)


@MOMENTS
def test_one_that_waits_for_an_approval_is_waited_for_as_long_as_new_pods_are(moment: str) -> None:
    world = created_anew(moment, "newer", NEXT)
    world.policy = replace(NORMAL, approval=Approval(1))
    waiting = play(world, timedelta(minutes=9))
    assert (waiting.stage, waiting.reason) == (Stage.RECOVER, "DeploymentDeleted")
    assert world.way.weight == WEIGHTS[moment]
    assert waiting.message.startswith("waiting for ready pods of shop behind its Service")
    assert world.changes[NEXT.lower()].state.reason == "AwaitingApproval"
    assert play(world, timedelta(minutes=2)).phase is Phase.SUPERSEDED
    assert world.canary is None


@MOMENTS
def test_once_it_is_approved_neither_change_waits_for_the_other(moment: str) -> None:
    world = created_anew(moment, "newer", NEXT)
    world.policy = replace(NORMAL, approval=Approval(1))
    play(world, timedelta(minutes=5))
    world.policy = NORMAL
    assert play(world, timedelta(minutes=2)).phase is Phase.SUPERSEDED
    go_on(world, 60)
    assert world.changes[NEXT.lower()].state.phase is Phase.COMPLETED


@MOMENTS
def test_a_deletion_ends_the_change_within_half_a_minute(moment: str) -> None:
    world = struck(under_way(moment))
    begin = world.since
    done = play(world)
    assert (done.phase, done.cause, done.rejected) == (Phase.SUPERSEDED, "DeploymentDeleted", False)
    assert 10 <= world.since - begin <= 30, "not at once: it may be created anew"


@MOMENTS
def test_orphaned_pods_get_the_traffic_back(moment: str) -> None:
    world = struck(under_way(moment), orphaned=True)
    begin, lost = world.now, world.lost
    done = play(world)
    assert done.phase is Phase.SUPERSEDED
    assert next(r for r in done.history if r.stage is Stage.RETURN).at - begin < timedelta(seconds=8)
    assert world.lost == lost


def test_a_deletion_after_the_change_has_rolled_it_out_completes_it() -> None:
    world = struck(until(World(NORMAL), lambda w: w.state.stage is Stage.DRAIN))
    assert play(world, timedelta(minutes=1)).phase is Phase.COMPLETED


def test_a_canary_without_ready_pods_is_not_waited_for() -> None:
    world = struck(under_way("10"), never_ready=True)
    done = play(world)
    back, returned = (next(r.at for r in done.history if r.stage is s) for s in (Stage.RECOVER, Stage.RETURN))
    assert returned - back < timedelta(seconds=3)
