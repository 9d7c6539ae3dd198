"""controller.metrics.counters: increments that survive restarts, new series, lost scrapes and nonsense."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.samples import Arm
from controller.metrics.counters import Counter, Heartbeats, by_code, parse, read_arm
from controller.metrics.presets import SERVER_ERROR
from tests.metrics.subjects import START, at, matrix, seconds

SINCE = round(at(0) * 1000)
POD = {"pod": "a", "instance": "a:8080"}


def arm(
    *series: dict[str, Any], up: list[dict[str, Any]] | None = None, alive: bool = True, pod_label: str = ""
) -> Arm:
    counters = by_code(parse(series), ("code", "status"), SERVER_ERROR)
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


def test_native_histograms_are_no_sample_and_no_crash() -> None:
    native = {"metric": {"__name__": "x"}, "histograms": [[at(0), {"count": "5", "sum": "1", "buckets": []}]]}
    assert [series.points for series in parse([native])] == [[]]
    assert [series.points for series in parse([{"metric": {}, "histogram": [at(0), {"count": "5"}]}])] == [[]]


@pytest.mark.parametrize(
    "nonsense", [None, 7, "text", [None], [7], ["x"], [{}], [{"metric": None}], [{"metric": {}, "values": [[1]]}],
                 [{"metric": {}, "values": [["x", "1"]]}], [{"metric": {}, "values": [[1, "abc"]]}]],
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


def test_a_counter_without_points_is_nothing() -> None:
    assert read_arm([Counter({}, [])], Heartbeats([], must_be_one=False), since=SINCE, alive=True) == Arm()
