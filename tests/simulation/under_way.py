"""A change that is brought to the moment at which something is to happen."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from controller.core.model import Stage, State
from tests.simulation.test_world import policy
from tests.simulation.world import BEGIN, SIZE, World

NORMAL = policy("normal")
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
WEIGHTS = {"10": 10, "50": 50, "100": 100, "roll": 100}


def play(world: World, time: timedelta = timedelta(hours=3)) -> State:
    return asyncio.run(world.run(world.now - BEGIN + time))


def until(world: World, when: Callable[[World], bool]) -> World:
    while not when(world):
        assert not world.state.phase.terminal
        assert world.now - BEGIN < timedelta(hours=4), world.state
        play(world, SECOND)
    return world


def under_way(moment: str, world: World | None = None) -> World:
    """A healthy change whose canary has carried this share for a moment; `roll`: some pods are replaced."""
    world = world or World(NORMAL)
    if moment == "roll":
        return until(world, lambda w: w.state.stage is Stage.ROLL and 0 < w.ready("new") < SIZE)
    return until(world, lambda w: w.way.weight == WEIGHTS[moment] and w.state.settled_at is not None)


def at_stage(stage: Stage) -> World:
    return until(World(NORMAL), lambda w: w.state.stage is stage)


def go_on(world: World, seconds: int) -> None:
    """What the other changes do after the first one has ended."""
    for _ in range(seconds):
        world.pass_second()
        asyncio.run(world.settle_down())
