"""controller.core.blocks: what both arms answered in the same stretch of time."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core import blocks
from controller.core.blocks import (
    BY_CHANCE,
    Block,
    Counts,
    Cursor,
    Dispersion,
    History,
    form,
    latency_edges,
    recall,
    spread,
)
from controller.core.samples import Arm, Sample

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
SPACING = timedelta(seconds=10)
BEGIN = Cursor(START, SPACING)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def arm(*samples: tuple[float, float, float]) -> Arm:
    return Arm(tuple(Sample(at(second), bad, total) for second, bad, total in samples))


def later(side: Arm, since: datetime, until: datetime) -> Arm:
    return Arm(tuple(sample for sample in side.samples if since < sample.at <= until))


def shape(blocks: Sequence[Block]) -> list[tuple[float, float, float]]:
    return [((b.at - START).total_seconds(), b.canary.total, b.stable.total) for b in blocks]


def test_a_block_ends_when_both_arms_have_been_scraped() -> None:
    blocks = form(arm((5, 1, 10), (20, 0, 10)), arm((7, 2, 90), (21, 0, 80), (36, 0, 70)), BEGIN)
    assert list(blocks) == [
        Block(at(7), Counts(1, 10), Counts(2, 90)),
        Block(at(21), Counts(0, 10), Counts(0, 80)),
    ]


def test_a_lost_scrape_makes_a_longer_block() -> None:
    blocks = form(arm((5, 0, 10), (35, 1, 20)), arm((5, 0, 90), (20, 0, 90), (35, 0, 90)), BEGIN)
    assert shape(list(blocks)) == [(5, 10, 90), (35, 20, 180)]


def test_pods_that_are_scraped_one_after_another_share_a_block() -> None:
    """Fifteen pods, one a second, each every 15 s: a block a second would let one burst count fifteen times."""
    steady = arm(*((second, 0, 1) for second in range(1, 61)))
    assert shape(list(form(steady, steady, BEGIN))) == [(1, 1, 1), *((1 + 10 * n, 10, 10) for n in range(1, 6))]


def test_what_was_before_is_not_counted() -> None:
    assert shape(list(form(arm((-1, 5, 5), (0, 5, 5), (1, 0, 3)), arm((-1, 0, 9), (2, 0, 8)), BEGIN))) == [(2, 3, 8)]


def test_without_stable_the_canary_is_alone_after_a_minute() -> None:
    canary = arm(*((15 * n, 0, 10) for n in range(1, 9)))
    blocks = list(form(canary, arm((15, 0, 90), (120, 0, 90)), BEGIN))
    assert shape(blocks) == [(15, 10, 90), (75, 40, 0), (90, 10, 0), (105, 10, 0), (120, 10, 90)]
    assert [b.alone for b in blocks] == [False, True, True, True, False]


def test_without_the_canary_there_is_no_block() -> None:
    assert list(form(Arm(), arm(*((15 * n, 0, 90) for n in range(99))), BEGIN)) == []


SCRAPES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5), st.integers(5, 50)), max_size=40).map(
    lambda gaps: arm(*((sum(gap for gap, *_ in gaps[: n + 1]), bad, total) for n, (_, bad, total) in enumerate(gaps)))
)


@given(canary=SCRAPES, stable=SCRAPES, cuts=st.lists(st.integers(0, 900), max_size=12))
def test_any_cut_of_the_stream_gives_the_same_blocks(canary: Arm, stable: Arm, cuts: list[int]) -> None:
    cursor, pieces = BEGIN, list[Block]()
    for until in [*sorted(cuts), 10_000]:
        for block in form(later(canary, cursor.at, at(until)), later(stable, cursor.at, at(until)), cursor):
            pieces.append(block)
            cursor = Cursor(block.at, SPACING, first=False, alone=block.alone)
    assert pieces == list(form(canary, stable, BEGIN))


@given(canary=SCRAPES, stable=SCRAPES)
def test_every_request_is_counted_once(canary: Arm, stable: Arm) -> None:
    blocks = list(form(canary, stable, BEGIN))
    if blocks:
        ended = blocks[-1].at
        for side, counts in ((canary, [b.canary for b in blocks]), (stable, [b.stable for b in blocks])):
            assert sum(c.total for c in counts) == sum(s.total for s in side.samples if s.at <= ended)


# --- Dispersion and history ---


def pods(second: float, *counts: tuple[float, float]) -> Sample:
    named = tuple((f"pod-{n}", bad, total) for n, (bad, total) in enumerate(counts))
    return Sample(at(second), sum(bad for bad, _ in counts), sum(total for _, total in counts), named)


def test_two_pods_spread_as_the_formula_says() -> None:
    x, a, b = 9.0, 100.0, 300.0
    every, f = 9.0 + 3.0, a / (a + b)
    assert spread([pods(1, (x, a), (3, b))]) == pytest.approx((x - f * every) ** 2 / (every * f * (1 - f)))


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(pods(1, (1, 100), (0, 100)), id="one bad request"),
        pytest.param(pods(1, (9, 100)), id="one pod"),
        pytest.param(pods(1, (9, 100), (0, 0)), id="one pod that serves"),
        pytest.param(Sample(START, 9, 100), id="a proxy counts for the pods"),
    ],
)
def test_what_cannot_tell_is_not_counted(sample: Sample) -> None:
    assert spread([sample]) is None


def test_the_history_counts_rounds_of_pods() -> None:
    samples = [pods(second, (1, 100), (0, 100)) for second in range(0, 151, 5)]
    history = recall(Arm(tuple(samples), scraped_every=timedelta(seconds=15)))
    assert history.stable == Counts(31, 200 * 31)
    assert history.spacing == SPACING
    assert history.dispersion == Dispersion(3 + 14 * 2, 15)  # three scrapes in the first round, two in each other


def test_where_pods_cannot_be_told_apart_clusters_show_in_time() -> None:
    def behind_a_proxy(*bad: float) -> History:
        samples = tuple(Sample(at(15 * n), each, 100) for n, each in enumerate(bad))
        return recall(Arm(samples, scraped_every=timedelta(seconds=15)))

    assert behind_a_proxy(*[0, 0, 0, 8] * 30).dispersion.phi > 4
    assert behind_a_proxy(*[2, 2, 2, 2] * 30).dispersion.phi == 1
    shock = behind_a_proxy(*[2] * 40, *[90] * 3, *[2] * 77)
    assert shock.dispersion.phi < 1.2


def test_what_is_usual_is_known_and_what_happens_once_is_not() -> None:
    """A moment in which all of stable fails, seen by one scrape and not by another, says nothing of clusters."""
    calm = Dispersion(30.0, 30)
    assert calm.after(300.0).phi < 1.2
    assert calm.after(None) == calm
    clustered = BY_CHANCE
    for _ in range(60):
        clustered = clustered.after(8.0)
    assert 6 < clustered.phi < 8
    for _ in range(1000):
        clustered = clustered.after(1e6)
    assert clustered.phi == 50


def test_an_incident_of_all_pods_says_nothing_of_how_they_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two pods, scraped five seconds apart, one has seen it and one has not when it begins or ends."""

    def half_an_hour(begins: int) -> History:
        samples = []
        for n in range(120):
            bad = 1.0 + 40 * (begins <= n < begins + 3)
            samples += [
                pods(15 * n, (bad, 500)),
                replace(pods(15 * n + 5, (bad, 500)), pods=(("other", bad, 500),)),
            ]
        return recall(Arm(tuple(samples), scraped_every=timedelta(seconds=15)))

    assert half_an_hour(60).dispersion.spread == 0
    assert half_an_hour(60).stable.bad > 240, "it is part of what is usual all the same"
    monkeypatch.setattr(blocks, "_together", lambda *_: False)
    assert half_an_hour(60).dispersion.spread > 10, "the control"


def test_what_one_pod_has_alone_is_no_incident() -> None:
    """Clusters are as large, but they are of one pod."""
    samples = [pods(15 * n, (30.0 * (n % 10 == 0), 500), (0.0, 500)) for n in range(120)]
    assert recall(Arm(tuple(samples), scraped_every=timedelta(seconds=15))).dispersion.phi > 2


def test_no_history_is_an_empty_one() -> None:
    assert recall(Arm()) == History()


def test_the_edges_nearest_to_the_quantiles() -> None:
    buckets = {0.05: 300, 0.1: 520, 0.2: 890, 0.5: 980, 1.0: 997, math.inf: 1000}
    assert latency_edges(buckets) == (0.1, 0.2, 0.5)
    assert latency_edges({0.5: 1000, math.inf: 1000}) == (0.5, 0.5, 0.5)
    assert latency_edges({0.5: 0, math.inf: 0}) == ()
    assert latency_edges({}) == ()
