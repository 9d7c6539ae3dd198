"""controller.core.reach: what `serin plan` promises of an analysis."""

from datetime import timedelta

import pytest

from controller.core.blocks import Counts, Dispersion, History
from controller.core.policy import Step
from controller.core.reach import expected_dwell, smallest_caught

BAKE, SCRAPE = timedelta(minutes=10), timedelta(seconds=15)
STEPS = [Step(10, BAKE), Step(50, BAKE), Step(100, BAKE)]
HISTORY = History(Counts(900, 900_000), dispersion=Dispersion(30.0, 30))


def caught(rate: float, history: History = HISTORY) -> float | None:
    return smallest_caught(STEPS, rate, history, SCRAPE)


@pytest.mark.parametrize(("rate", "dwell"), [(50, 10), (1.25, 10), (1, 12.5), (0.5, 20), (0, 20)])
def test_a_step_takes_its_bake_and_up_to_twice_that(rate: float, dwell: float) -> None:
    assert expected_dwell(STEPS[0], rate, HISTORY) / timedelta(minutes=1) == pytest.approx(dwell, abs=0.05)


def test_clusters_need_more_requests() -> None:
    clustered = History(Counts(900, 900_000), dispersion=Dispersion(2000.0, 1000))
    assert expected_dwell(STEPS[0], 1, clustered) > expected_dwell(STEPS[0], 1, HISTORY)


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
