"""The Deployment itself goes, comes again or changes its size while its change is under way."""

from dataclasses import replace
from datetime import timedelta

import pytest

from controller.core.model import Autoscaler, Phase, Stage
from controller.core.policy import Approval
from tests.simulation.under_way import MINUTE, NORMAL, SECOND, WEIGHTS, at_stage, go_on, play, under_way, until
from tests.simulation.world import SIZE, Trouble, World

NEXT = "CHG-20261123-002"
MOMENTS = pytest.mark.parametrize("moment", list(WEIGHTS))


def struck(world: World, **trouble: object) -> World:
    """The Deployment is deleted now."""
    world.trouble = Trouble(unowned_at=world.since + 1, **trouble)  # type: ignore[arg-type]
    return world


def created_anew(moment: str, template: str, label: str = "") -> World:
    world = under_way(moment)
    return struck(world, created_at=world.since + 4, created_as=template, created_for=label)


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
    world = struck(at_stage(Stage.DRAIN))
    assert play(world, timedelta(minutes=1)).phase is Phase.COMPLETED


def test_a_canary_without_ready_pods_is_not_waited_for() -> None:
    world = struck(under_way("10"), never_ready=True)
    done = play(world)
    back, returned = (next(r.at for r in done.history if r.stage is s) for s in (Stage.RECOVER, Stage.RETURN))
    assert returned - back < timedelta(seconds=3)


# --- Its size ---


def test_a_deployment_that_is_scaled_to_zero_as_it_rolls_says_so_and_goes_on_when_it_is_scaled_up() -> None:
    world = under_way("roll")
    world.trouble = Trouble(scaled_at=0, scaled_to=0)
    waiting = play(world, 15 * MINUTE)
    assert (waiting.stage, waiting.reason, world.way.weight) == (Stage.ROLL, "ScaledToZero", 100)
    world.trouble = Trouble(scaled_at=0, scaled_to=SIZE)
    assert play(world, timedelta(hours=1)).phase is Phase.COMPLETED


def test_one_that_is_scaled_down_as_it_rolls_is_not_waited_for_beyond_what_its_owner_left() -> None:
    world = under_way("roll")
    world.trouble = Trouble(scaled_at=0, scaled_to=3)
    begin = world.now
    done = play(world, timedelta(hours=1))
    assert done.phase is Phase.COMPLETED
    returned = next(r for r in done.history if r.stage is Stage.RETURN)
    assert timedelta(seconds=30) <= returned.at - begin < 2 * MINUTE, "bounded, but not at once"


def test_a_large_deployment_may_take_longer_than_the_deadline_as_long_as_it_gets_on() -> None:
    world = at_stage(Stage.ROLL)
    world.trouble = Trouble(roll_every=300)
    begin = world.now
    done = play(world)
    assert done.phase is Phase.COMPLETED
    assert next(r for r in done.history if r.stage is Stage.RETURN).at - begin > NORMAL.health.progress_deadline


def test_one_that_gets_no_further_goes_back_at_the_deadline() -> None:
    world = at_stage(Stage.ROLL)
    world.trouble = Trouble(roll_every=300)
    until(world, lambda w: 0 < w.ready("new") < SIZE)
    world.trouble = Trouble(roll_every=100_000)
    begin = world.now
    back = until(world, lambda w: w.state.phase is Phase.ROLLING_BACK).state
    assert back.cause == "ProgressDeadline"
    assert timedelta() <= world.now - begin - NORMAL.health.progress_deadline <= 10 * SECOND


# --- Stable does not come back ---


def test_without_a_ready_stable_pod_the_canary_serves_on_and_it_is_said_why() -> None:
    world = until(at_stage(Stage.ROLL), lambda w: not w.own["old"].ready_at)
    world.own["new"].ready_at.clear()
    world.trouble = Trouble(scaled_at=0, scaled_to=SIZE, roll_every=100_000, stable_never_ready=True)
    back = until(world, lambda w: w.state.phase is Phase.ROLLING_BACK)
    assert back.state.stage is Stage.RECOVER
    world.trouble = Trouble(stable_never_ready=True)
    waiting = play(world, 15 * MINUTE)
    assert (waiting.stage, waiting.reason, world.way.weight) == (Stage.RECOVER, "StableNotReady", 100)
    assert (world.held, world.paused) == ("restoring", False)
    world.change = replace(world.change, deleting=True)
    world.failure = "ProgressDeadlineExceeded: no pods"
    assert play(world, timedelta(minutes=2)).phase is Phase.ROLLED_BACK
    assert (world.held, world.paused) == ("", False), "unlocked, for a template that works"


# --- Its autoscaler ---


@pytest.mark.parametrize("moment", ["10", "50", "100"])
def test_stable_that_grows_does_not_condemn_a_canary_that_grows_slower(moment: str) -> None:
    world = under_way(moment)
    world.trouble = Trouble(scaled_at=0, scaled_to=2 * SIZE, ready_after=4 * MINUTE)
    assert play(world).phase is Phase.COMPLETED
    assert world.lost == 0


def test_a_canary_that_does_not_grow_in_the_time_of_new_pods_goes_back() -> None:
    world = under_way("50")
    world.trouble = Trouble(scaled_at=0, scaled_to=2 * SIZE, ready_after=timedelta(hours=1))
    begin = world.now
    back = until(world, lambda w: w.state.phase is Phase.ROLLING_BACK)
    assert back.state.cause in ("NotReady", "ProgressDeadline")
    assert NORMAL.health.progress_deadline <= world.now - begin < 2 * NORMAL.health.progress_deadline


def test_a_canary_that_loses_pods_while_it_grows_is_judged_by_what_it_had() -> None:
    world = under_way("100")
    world.trouble = Trouble(scaled_at=0, scaled_to=2 * SIZE, ready_after=9 * MINUTE)
    play(world, 5 * SECOND)
    assert world.canary is not None
    for i in range(3):
        world.canary.ready_at[i] = world.now + timedelta(hours=1)
    assert play(world, MINUTE).cause == "NotReady"


@pytest.mark.parametrize(("edited", "left"), [(None, 2), (5, 5), (15, 15)])
@pytest.mark.parametrize("trouble", [Trouble(), Trouble(errors_from=120)], ids=["completed", "rolled back"])
def test_min_replicas_is_put_back_unless_its_owner_wrote_another(
    edited: int | None, left: int, trouble: Trouble
) -> None:
    world = World(NORMAL, trouble)
    world.scaler = Autoscaler("shop", 2, 20)
    under_way("10", world)
    assert world.scaler.min_replicas == SIZE
    if edited:
        world.scaler = Autoscaler("shop", edited, 20)
    play(world, MINUTE)
    assert world.scaler.min_replicas == max(SIZE, edited or 0), "kept while the canary has weight"
    assert play(world).phase.terminal
    assert world.scaler.min_replicas == left
