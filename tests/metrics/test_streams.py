"""From what Prometheus answers to the evidence: nonsense, restarts and lost scrapes change nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from controller.core.blocks import Block, History, form
from controller.core.samples import Arm
from controller.core.sequential import Monitor, begin, observe
from controller.metrics.counters import Heartbeats, by_code, parse, read_arm
from controller.metrics.presets import SERVER_ERROR
from tests.metrics.subjects import START, at, matrix, seconds

SCRAPES = range(0, 301, 15)
Mangle = Callable[[list[tuple[float, Any]]], list[tuple[float, Any]]]


def same(points: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    return points


def arm(pods: Sequence[str], bad: int, mangle: Mangle) -> Arm:
    """Each pod answers 20 requests a scrape, `bad` of them with 500."""
    series = [
        matrix({"pod": pod, "code": code}, *mangle([(second, 1000 + n * each) for n, second in enumerate(SCRAPES)]))
        for pod in pods
        for code, each in (("200", 20 - bad), ("500", bad))
    ]
    counters = by_code(parse(series), (("code", SERVER_ERROR),))
    assert isinstance(counters, list)
    beats = Heartbeats([], must_be_one=True)
    return read_arm(counters, beats, since=round(at(0) * 1000), alive=True, pod_label="pod")


def both(mangle_canary: Mangle = same, mangle_stable: Mangle = same) -> tuple[Arm, Arm]:
    return arm(["c-1"], 2, mangle_canary), arm(["s-1", "s-2", "s-3"], 1, mangle_stable)


def judged(arms: tuple[Arm, Arm]) -> Monitor:
    return observe(begin(History(), START), *arms, START)


def restarted(points: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    """It counts from 0 again just after the eighth scrape."""
    lost = points[7][1]
    return [*points[:8], *((second, value - lost) for second, value in points[8:])]


def nonsense(points: list[tuple[float, Any]]) -> list[tuple[float, Any]]:
    """Between all that can be used, something that cannot."""
    useless = ["NaN", "+Inf", "-Inf", -1]
    between = [(second + 7, useless[n % 4]) for n, (second, _) in enumerate(points)]
    return sorted([*points, *between], key=lambda point: point[0])


def lost(*which: int) -> Mangle:
    return lambda points: [point for n, point in enumerate(points) if n not in which]


@pytest.mark.parametrize("mangle", [nonsense, restarted], ids=["nonsense", "restarts"])
def test_the_evidence_is_that_of_a_clean_stream(mangle: Mangle) -> None:
    assert judged(both(mangle, mangle)).e_value == pytest.approx(judged(both()).e_value, rel=1e-12)
    assert judged(both()).canary.total == 20 * (len(SCRAPES) - 1)


def test_a_lost_scrape_of_one_arm_is_a_longer_block_of_both() -> None:
    """As if neither had been scraped then."""
    for of_canary, of_stable in ((lost(4, 5, 9), same), (same, lost(4, 5, 9))):
        assert blocks(both(of_canary, of_stable)) == blocks(both(lost(4, 5, 9), lost(4, 5, 9)))
    assert judged(both(lost(4, 5, 9))).canary == judged(both()).canary


def blocks(arms: tuple[Arm, Arm]) -> list[Block]:
    return list(form(*arms, begin(History(), START).cursor))


def test_without_data_nothing_is_learnt() -> None:
    monitor = judged(both())
    assert observe(monitor, Arm(), Arm(), START) == monitor
    assert observe(monitor, Arm(fresh_at=START + seconds(999)), Arm(), START) == monitor
