"""controller.metrics.counters: increments that survive restarts, new series, lost scrapes and nonsense."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.samples import Arm
from controller.metrics.counters import Counter, Heartbeats, by_code, parse, read_arm, slower_than
from controller.metrics.presets import PODS
from tests.metrics.subjects import START, at, matrix, seconds

SINCE = round(at(0) * 1000)
POD = {"pod": "a", "instance": "a:8080"}


def arm(
    *series: dict[str, Any], up: list[dict[str, Any]] | None = None, alive: bool = True, pod_label: str = ""
) -> Arm:
    counters = by_code(parse(series), PODS.codes)
    assert isinstance(counters, list)
    heartbeats = Heartbeats(parse(up or []), must_be_one=True)
    return read_arm(counters, heartbeats, since=SINCE, alive=alive, pod_label=pod_label)


def counted(code: str, *points: tuple[float, Any], labels: Mapping[str, str] = POD) -> dict[str, Any]:
    return matrix({**labels, "code": code}, *points)


def totals(found: Arm) -> list[tuple[float, float, float]]:
    return [((sample.at - START) / seconds(1), sample.bad, sample.total) for sample in found.samples]


ALWAYS_UP = [matrix(POD, *((t, 1) for t in range(-60, 61, 15)))]


def test_increments_are_summed_over_pods_and_codes() -> None:
    other = {"pod": "b", "instance": "b:8080"}
    found = arm(
        counted("200", (-5, 100), (10, 190), (25, 280)),
        counted("500", (-5, 7), (10, 17), (25, 17)),
        counted("200", (-5.5, 50), (10.4, 60), (25.9, 80), labels=other),
    )
    assert totals(found) == [(10, 10, 110), (25, 0, 110)]


def test_each_pods_part_is_kept_where_pods_count_themselves() -> None:
    series = (
        counted("200", (-5, 100), (10, 190)),
        counted("500", (-5, 7), (10, 17)),
        counted("200", (-5, 50), (10.4, 60), labels={"pod": "b", "instance": "b:8080"}),
    )
    assert [sample.pods for sample in arm(*series, pod_label="pod").samples] == [(("a", 10, 100), ("b", 0, 10))]
    assert [sample.pods for sample in arm(*series).samples] == [()]


def test_how_often_it_is_scraped_is_seen_in_the_samples() -> None:
    lost_one = counted("200", (-15, 1), (0, 2), (15, 3), (45, 4), (60, 5))
    assert arm(lost_one).scraped_every == seconds(15)
    assert arm(counted("200", (10, 1))).scraped_every is None


def test_only_samples_later_than_since_are_given() -> None:
    assert totals(arm(counted("200", (-15, 1), (0, 2), (0.5, 4), (15, 8)))) == [(15, 0, 4)]


def test_a_restart_counts_from_zero() -> None:
    assert totals(arm(counted("500", (-5, 1000), (10, 1010), (25, 3)))) == [(10, 10, 10), (25, 3, 3)]


@pytest.mark.parametrize("code", ["500", "503", "5xx", "599", "0", "000"])
def test_codes_that_are_bad(code: str) -> None:
    assert totals(arm(counted(code, (-5, 0), (10, 4)))) == [(10, 4, 4)]


@pytest.mark.parametrize("code", ["200", "301", "404", "429", "2xx", "OK"])
def test_codes_that_are_not_bad(code: str) -> None:
    assert totals(arm(counted(code, (-5, 0), (10, 4)))) == [(10, 0, 4)]


def test_the_label_status_will_do() -> None:
    assert totals(arm(matrix({**POD, "status": "502"}, (-5, 0), (10, 4)))) == [(10, 4, 4)]


def test_a_code_that_begins_with_a_scrape_counts_from_zero() -> None:
    """rate() and increase() lose this first value: exactly where new 5xx begin."""
    assert totals(arm(counted("500", (15, 20), (30, 25)), up=ALWAYS_UP, alive=False)) == [(15, 20, 20), (30, 5, 5)]


def test_a_pod_that_begins_later_counts_from_zero() -> None:
    born = [matrix(POD, (15, 1), (30, 1))]
    assert totals(arm(counted("500", (15, 20), (30, 25)), up=born)) == [(15, 20, 20), (30, 5, 5)]


def test_a_series_that_was_there_all_along_does_not() -> None:
    assert totals(arm(counted("500", (-60, 10**6), (15, 10**6 + 1)), up=ALWAYS_UP)) == [(15, 1, 1)]


@pytest.mark.parametrize("first", [-75, -15, 15, 45])
def test_a_counter_found_again_after_lost_scrapes_is_not_new(first: float) -> None:
    up = [matrix(POD, *((t, 0 if t < first else 1) for t in range(-90, 61, 15)))]
    assert totals(arm(counted("500", (first, 10**6), (60, 10**6 + 1)), up=up)) == [(60, 1, 1)]


def test_nothing_is_known_of_a_series_when_the_metrics_path_is_new_itself() -> None:
    born = [matrix(POD, (15, 1), (30, 1))]
    assert totals(arm(counted("500", (15, 20), (30, 25)), up=born, alive=False)) == [(30, 5, 5)]


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", -1])
def test_what_is_no_number_of_requests_is_no_sample(value: object) -> None:
    assert totals(arm(counted("500", (-5, 10), (10, value), (25, 16)))) == [(25, 6, 6)]
    assert arm(counted("500", (10, value))) == Arm()


def test_an_arm_is_as_fresh_as_its_newest_sample_of_any_kind() -> None:
    assert arm(counted("200", (-5, 1), (10, 1))).fresh_at == START + seconds(10)
    assert arm(counted("200", (-5, 1), (10, 1)), up=ALWAYS_UP).fresh_at == START + seconds(60)
    assert arm(up=[matrix(POD, (10, 1), (25, 0))]).fresh_at == START + seconds(10)
    assert arm().fresh_at is None


# --- Native histograms ---

Buckets = dict[tuple[float, float], float]


def native(*points: tuple[float, float | str, Buckets], labels: Mapping[str, str] = POD) -> dict[str, Any]:
    """As Prometheus writes it: populated buckets alone, every number as text; 0 is "open on the left"."""
    histograms = [
        [
            at(t),
            {"count": str(count), "sum": "1", "buckets": [[0, str(a), str(b), str(n)] for (a, b), n in of.items()]},
        ]
        for t, count, of in points
    ]
    return {"metric": {"__name__": "x", **labels}, "histograms": histograms}


def slow(edge: float, *series: dict[str, Any]) -> list[tuple[float, float, float]]:
    counters = slower_than(parse(series), edge)
    assert isinstance(counters, list)
    return totals(read_arm(counters, Heartbeats(parse(ALWAYS_UP), must_be_one=True), since=SINCE, alive=True))


def test_a_native_histogram_counts_what_is_above_the_edge() -> None:
    found = slow(
        0.5,
        native(
            (-5, 10, {(0.25, 0.5): 8, (0.5, 1): 2}),
            (10, 30, {(0.25, 0.5): 20, (0.5, 1): 5, (1, 2): 5}),
            (25, 31, {(0.25, 0.5): 21, (0.5, 1): 5, (1, 2): 5}),
        ),
    )
    assert found == [(10, 8, 20), (25, 0, 1)]


def test_a_native_histogram_that_restarts_or_begins_counts_from_zero() -> None:
    assert slow(1, native((-5, 100, {(1, 2): 100}), (10, 3, {(1, 2): 2, (0.5, 1): 1}))) == [(10, 2, 3)]
    assert slow(1, native((15, 4, {(1, 2): 4}), (30, 5, {(1, 2): 4, (0.5, 1): 1}))) == [(15, 4, 4), (30, 0, 1)]


def test_the_bucket_around_the_edge_is_not_slow() -> None:
    assert slow(0.6, native((-5, 0, {}), (10, 9, {(0.5, 1): 4, (1, 2): 5}))) == [(10, 5, 9)]


def test_no_request_turns_slow_when_buckets_are_merged() -> None:
    """The client halves its resolution: 30 requests were surely above the edge, and now are in a bucket around it."""
    fine: Buckets = {(0.5, 0.7): 10, (0.7, 1): 30, (1, 2): 1}
    coarse: Buckets = {(0.5, 1): 41, (1, 2): 1}
    later: Buckets = {(0.5, 1): 41, (1, 2): 2}
    assert slow(0.7, native((-5, 41, fine), (10, 42, coarse), (25, 43, later))) == [(10, 0, 1), (25, 1, 1)]


def test_of_a_histogram_that_is_classic_and_native_the_native_one_counts() -> None:
    classic = [matrix({**POD, "le": le}, (-5, 0), (10, 7)) for le in ("0.5", "+Inf")]
    assert slow(0.5, *classic, native((-5, 0, {}), (10, 7, {(0.5, 1): 7}))) == [(10, 7, 7)]


@pytest.mark.parametrize("count", ["NaN", "+Inf", "-1"])
def test_a_native_histogram_without_a_number_of_requests_is_no_sample(count: str) -> None:
    assert slow(1, native((-5, 10, {(1, 2): 1}), (10, count, {(1, 2): 9}), (25, 12, {(1, 2): 2}))) == [(25, 1, 2)]


def test_one_of_no_observation_has_no_buckets() -> None:
    [series] = parse([{"metric": {}, "histogram": [at(0), {"count": "0", "sum": "0"}]}])
    assert [histogram.buckets for _, histogram in series.histograms] == [()]


@pytest.mark.parametrize(
    "nonsense", [None, 7, "text", [None], [7], ["x"], [{}], [{"metric": None}], [{"metric": {}, "values": [[1]]}],
                 [{"metric": {}, "values": [["x", "1"]]}], [{"metric": {}, "values": [[1, "abc"]]}],
                 [{"metric": {}, "histograms": [[1, "5"]]}], [{"metric": {}, "histograms": [[1, {}]]}],
                 [{"metric": {}, "histograms": [[1, {"count": "1", "buckets": [[0, "1"]]}]]}]],
)  # fmt: skip
def test_what_prometheus_never_answers_is_a_value_error(nonsense: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any text)
        parse(nonsense)


VALUES = st.one_of(st.integers(0, 10**6), st.sampled_from([math.nan, math.inf, -math.inf, -1.5]))


@given(
    series=st.lists(
        st.tuples(st.sampled_from(["200", "500", "0"]), st.lists(st.tuples(st.integers(-90, 90), VALUES))), max_size=6
    ),
    alive=st.booleans(),
)
def test_whatever_comes_counts_are_finite_and_in_order(series: list[Any], alive: bool) -> None:
    found = arm(*(counted(code, *points, labels={"n": str(i)}) for i, (code, points) in enumerate(series)), alive=alive)
    assert all(0 <= sample.bad <= sample.total < math.inf for sample in found.samples)
    assert [sample.at for sample in found.samples] == sorted({sample.at for sample in found.samples})


@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20),
    resets=st.sets(st.integers(0, 19)),
)
def test_a_stream_with_restarts_counts_the_same_requests(steps: list[tuple[int, int]], resets: set[int]) -> None:
    """A restart is seen when the counter falls; one that is not seen can only hide requests, never invent them."""
    value, points, truth = 0, [(-1.0, 0)], 0
    for i, (before, after) in enumerate(steps):
        visible = i in resets and value > after
        value = after if visible else value + before
        truth += after if visible else before
        points.append((float(i + 1), value))
    assert sum(sample.total for sample in arm(counted("200", *points)).samples) == truth


@pytest.mark.parametrize(
    ("within", "slow_ones"),
    [
        (80, 10),  # 20 more slow requests than before, of 10
        (108, 0),  # 8 fewer slow ones than before
    ],
)
def test_a_scrape_that_caught_a_histogram_half_written_counts_no_more_than_there_were(
    within: int, slow_ones: int
) -> None:
    found = slow(
        0.5,
        matrix({**POD, "le": "0.5"}, (-5, 90), (10, within)),
        matrix({**POD, "le": "+Inf"}, (-5, 100), (10, 110)),
    )
    assert found == [(10, slow_ones, 10)]


def test_a_counter_without_points_is_nothing() -> None:
    assert read_arm([Counter({}, [])], Heartbeats([], must_be_one=False), since=SINCE, alive=True) == Arm()
