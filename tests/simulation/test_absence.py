"""Nobody leads for an hour in the middle of a change: what the data says of that hour is judged on return."""

import asyncio
from datetime import timedelta

import pytest

from controller.core.model import Phase, State
from tests.simulation.test_world import policy, steps
from tests.simulation.world import BEGIN, Trouble, World

LEAVES, RETURNS = 60, 60 + 3600


class Deserted(World):
    """A world without a controller from LEAVES to RETURNS, in seconds; the one that comes is a new process."""

    gone = False

    async def settle_down(self) -> None:
        if LEAVES <= self.since < RETURNS:
            self.gone = True
            return
        if self.gone:
            self.gone, self.reconciler = False, self.start_controller()
        await super().settle_down()


def play(trouble: Trouble) -> State:
    return asyncio.run(Deserted(policy("normal"), trouble).run(timedelta(hours=3)))


def test_a_breach_of_the_absence_is_acted_on_at_once() -> None:
    done = play(Trouble(errors_from=1800))
    assert (done.phase, done.cause, steps(done)) == (Phase.ROLLED_BACK, "ErrorRate", [10])
    verdict = next(r for r in done.history if r.phase is Phase.ROLLING_BACK)
    assert verdict.at - BEGIN <= timedelta(seconds=RETURNS + 15), (
        "its five minutes were over long ago, on the data's clock"
    )


def test_a_breach_that_began_just_before_the_return_has_its_five_minutes() -> None:
    done = play(Trouble(errors_from=RETURNS - 120))
    verdict = next(r for r in done.history if r.phase is Phase.ROLLING_BACK)
    since = verdict.at - BEGIN - timedelta(seconds=RETURNS - 120)
    assert timedelta(minutes=5) <= since <= timedelta(minutes=6, seconds=30)


@pytest.mark.parametrize("trouble", [Trouble(), Trouble(errors_from=900, errors_until=900 + 225)])
def test_an_hour_without_a_breach_costs_no_more_than_the_hour(trouble: Trouble) -> None:
    done = play(trouble)
    assert (done.phase, steps(done)) == (Phase.COMPLETED, [10, 50, 100])
    second = next(r for r in done.history if r.step == 2)
    assert second.at - BEGIN >= timedelta(seconds=RETURNS), "nothing moved while nobody led"
