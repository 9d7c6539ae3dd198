"""The gateway, and the routes, under way: a wait for them is bounded, and one does not hold up another."""

import pytest

from controller.core.model import Phase, Stage
from controller.errors import ForbiddenError
from tests.simulation.under_way import MINUTE, NORMAL, SECOND, WEIGHTS, play, under_way, until
from tests.simulation.world import ORIGINAL, OTHER_ROUTE, Trouble, Way, World

DEADLINE = NORMAL.health.progress_deadline


@pytest.mark.parametrize("moment", ["10", "50", "100"])
@pytest.mark.parametrize("reason", ["RoutePending", "RouteLost"])
def test_a_route_that_is_not_to_be_had_goes_back_at_the_deadline(moment: str, reason: str) -> None:
    world = under_way(moment)
    play(world, 5 * MINUTE)
    begin = world.now
    if reason == "RoutePending":
        world.trouble = Trouble(unaccepted_from=0, unaccepted_until=world.since + DEADLINE.total_seconds() + 60)
    else:
        world.trouble = Trouble(routes_lost_at=0)
    assert play(world, 5 * SECOND).reason == reason
    done = play(world)
    assert (done.phase, done.cause, done.rejected) == (Phase.ROLLED_BACK, reason, False)
    back = next(r for r in done.history if r.phase is Phase.ROLLING_BACK)
    assert DEADLINE <= back.at - begin <= DEADLINE + 10 * SECOND


def test_a_gateway_that_answers_in_time_costs_no_more_than_the_wait() -> None:
    world = under_way("10")
    world.trouble = Trouble(unaccepted_from=0, unaccepted_until=world.since + 300)
    assert play(world).phase is Phase.COMPLETED


@pytest.mark.parametrize("moment", list(WEIGHTS))
def test_a_gateway_that_does_not_take_the_traffic_back_is_named_and_waited_for(moment: str) -> None:
    world = under_way(moment)
    world.trouble = Trouble(errors_from=0, error_ratio=1, unaccepted_from=world.since + 1)
    until(world, lambda w: w.state.stage is Stage.RETURN)
    waiting = play(world, 15 * MINUTE)
    assert (waiting.stage, waiting.reason) == (Stage.RETURN, "RouteStuck")
    assert "HTTPRoute/demo/shop not accepted without weight for the canary since " in waiting.message
    assert world.canary is not None, "the gateway may still send requests to it"
    world.trouble = Trouble(errors_from=0, error_ratio=1)
    assert play(world, MINUTE).phase is (Phase.COMPLETED if moment == "roll" else Phase.ROLLED_BACK)


def test_whoever_deletes_the_change_of_a_dead_gateway_ends_it() -> None:
    world = under_way("50")
    world.trouble = Trouble(unaccepted_from=0, deleted_at=world.since)
    assert play(world, DEADLINE - MINUTE).stage is Stage.RETURN
    assert play(world, 2 * MINUTE).phase is Phase.SUPERSEDED


FORBIDDEN = ForbiddenError("Forbidden", "no", verb="patch", resource="httproutes", namespace="demo")


@pytest.mark.parametrize("moment", list(WEIGHTS))
@pytest.mark.parametrize("which", [ORIGINAL.key, OTHER_ROUTE.key])
def test_a_route_that_may_not_be_written_does_not_keep_the_traffic_of_another(moment: str, which: str) -> None:
    two = World(NORMAL)
    two.ways[OTHER_ROUTE.key] = Way()
    world = under_way(moment, two)
    (free,) = set(world.ways) - {which}
    world.ways[which].refusal = FORBIDDEN
    world.trouble = Trouble(crash_at=0)
    until(world, lambda w: w.ways[free].weight == 0)
    waiting = play(world, 3 * SECOND)
    assert (waiting.phase, waiting.cause, waiting.reason) == (Phase.ROLLING_BACK, "CrashLoop", "PermissionDenied")
    world.ways[which].refusal = None
    assert play(world, 2 * MINUTE).phase is Phase.ROLLED_BACK
