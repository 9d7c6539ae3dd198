"""controller.core.reach: what `serin plan` promises of an analysis."""

from datetime import timedelta

from controller.core.blocks import Counts, Dispersion, History
from controller.core.policy import Step
from controller.core.reach import smallest_caught

BAKE, SCRAPE = timedelta(minutes=10), timedelta(seconds=15)
STEPS = [Step(10, BAKE), Step(50, BAKE), Step(100, BAKE)]
HISTORY = History(Counts(900, 900_000), dispersion=Dispersion(30.0, 30))


def caught(rate: float, history: History = HISTORY) -> float | None:
    return smallest_caught(STEPS, rate, history, SCRAPE)


def test_more_requests_catch_smaller_regressions() -> None:
    found = [caught(rate) or 1 for rate in (0.5, 5, 50, 500)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.05
    assert 0.01 < found[1] < 0.02
    assert found[3] < 0.003


def test_what_is_tolerated_is_not_caught() -> None:
    assert (caught(1e6) or 0) > 1.2 * (0.001 + 0.0002)


def test_nothing_is_caught_where_nothing_can_be() -> None:
    assert caught(0) is None
    assert caught(50, History(Counts(90, 100))) is None
