"""Another version of the controller in the middle of a change: an older one guesses nothing, a newer one goes on."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.cluster.read import _known
from controller.core.codec import decode, encode
from controller.core.model import Phase, State
from tests.simulation.test_world import policy
from tests.simulation.world import MAIN, World

REQUEST = {"metadata": {"namespace": "demo", "name": MAIN, "uid": "uid", "resourceVersion": "7"}, "spec": {}}
HALF_WAY, LONG = timedelta(minutes=4), timedelta(hours=3)


def half_way() -> World:
    world = World(policy("standard"))
    state = asyncio.run(world.run(HALF_WAY))
    assert (state.phase, *split(world)) == (Phase.PROGRESSING, state.weight)
    return world


def split(world: World) -> list[int]:
    return [way.weight for way in world.ways.values()]


def read(status: Any) -> str:
    return _known({**REQUEST, "status": status}).unreadable


@pytest.mark.parametrize(
    "newer", [{"schema": 2}, {"phase": "Resting"}, {"mood": "good"}], ids=["a number", "a phase", "a field"]
)
def test_a_status_that_a_newer_version_wrote_is_left_as_it_is(newer: dict[str, Any]) -> None:
    world = half_way()
    status = {**encode(world.state), **newer}
    assert read(encode(world.state)) == ""
    assert "UnknownStatus" in read(status)
    world.changes[MAIN] = replace(world.changes[MAIN], unreadable=read(status))
    before = (world.version, world.state, split(world))
    asyncio.run(world.run(HALF_WAY + timedelta(hours=1)))
    assert (world.version, world.state, split(world)) == before
    # The newer one is back.
    world.changes[MAIN] = replace(world.changes[MAIN], unreadable="")
    assert asyncio.run(world.run(LONG)).phase is Phase.COMPLETED


SINCE = ("audit", "told", "comparisons", "window", "jobs", "forwardOnly", "revert", "terms", "requesters", "schema")
"""Fields that came after the first version, and that its status does not have."""


def test_a_status_that_an_older_version_wrote_is_taken_up_under_way() -> None:
    world = half_way()
    older = {key: value for key, value in encode(world.state).items() if key not in SINCE}
    assert read(older) == ""
    state = decode(State, older)
    assert (state.step, state.weight, state.settled_at) == (
        world.state.step,
        world.state.weight,
        world.state.settled_at,
    )
    world.changes[MAIN] = replace(world.changes[MAIN], state=state)
    world.reconciler = world.start_controller()
    done = asyncio.run(world.run(LONG))
    assert done.phase is Phase.COMPLETED
    assert [r.weight for r in done.history if r.phase is Phase.PROGRESSING] == [10, 50, 100]
