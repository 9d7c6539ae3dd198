"""controller.metrics.batch and .arms: queries that nothing breaks out of, and answers that reach their owner alone."""

import math
import re
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import promql_parser
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.core.change import Problem
from controller.core.model import ServicePair
from controller.core.policy import LogErrors
from controller.core.samples import Arm, Sample
from controller.metrics.arms import Subject, one_of, quote
from controller.metrics.batch import LOOKBACK_MAX, Answers, Batch, Reading, lacks_bucket
from controller.metrics.counters import parse, spellings
from controller.metrics.presets import of_logs
from tests.metrics.subjects import START, cluster, latency_slo, matrix, seconds, subject

NOW = START + seconds(60)
HEARTBEATS = [
    matrix(cluster(arm), *((t, t + 60) for t in range(-60, 61, 15)), name="envoy_cluster_upstream_rq_total")
    for arm in ("canary", "stable")
]


def read(
    *subjects: Subject, requests: list[Any], heartbeat: list[Any] | None = None, **more: list[Any]
) -> list[Reading]:
    answers = Answers(
        parse(HEARTBEATS if heartbeat is None else heartbeat),
        parse(requests),
        **{name: parse(result) for name, result in more.items()},
    )
    return Batch(subjects, NOW).read(answers)


def samples(*expected: tuple[float, float, float], of_pod: str = "") -> tuple[Sample, ...]:
    def pods(bad: float, total: float) -> tuple[tuple[str, float, float], ...]:
        return ((of_pod, bad, total),) if of_pod else ()

    return tuple(Sample(START + seconds(moment), bad, total, pods(bad, total)) for moment, bad, total in expected)


# --- Queries ---


@given(text=st.text())
@example(text='"} or vector(1) or up{a="')
@example(text="\\")
@example(text="\x00\n\u2028\x7f")
def test_no_text_breaks_out_of_its_quotes(text: str) -> None:
    parsed = promql_parser.parse(f"up{{a={quote(text)},b=~{one_of([text])}}}[5s]")
    assert isinstance(parsed, promql_parser.MatrixSelector)
    matchers = {matcher.name: matcher.value for matcher in parsed.vector_selector.matchers.matchers}
    assert matchers["a"] == text
    assert re.fullmatch(matchers["b"], text)
    assert not re.fullmatch(matchers["b"], f"{text}!")


@given(name=st.text(min_size=1), namespace=st.text(min_size=1), preset=st.sampled_from(["envoy", "pods"]))
def test_whatever_the_names_the_queries_are_promql(name: str, namespace: str, preset: str) -> None:
    batch = Batch([subject(name, namespace=namespace, preset=preset, slos=[latency_slo()])], NOW)
    for query in (batch.heartbeat_query(), batch.requests_query(), batch.latency_query()):
        parsed = promql_parser.parse(query)
        assert isinstance(parsed, promql_parser.MatrixSelector)
        assert parsed.range == timedelta(seconds=150)
    assert isinstance(promql_parser.parse(batch.edges_query()), promql_parser.AggregateExpr)


def test_one_query_names_every_subject() -> None:
    subjects = [subject(f"app-{i}") for i in range(1000)]
    query = Batch(subjects, NOW).requests_query()
    assert all(rf"default_app\-{i}\-canary_80" in query.replace(r"\\", "\\") for i in range(1000))


def test_the_lookback_is_that_of_the_oldest_subject_and_bounded() -> None:
    assert Batch([subject(), subject(since=START - seconds(60))], NOW).requests_query().endswith("[210s]")
    bounded = Batch([subject(since=START - timedelta(days=3))], NOW).requests_query()
    assert bounded.endswith(f"[{LOOKBACK_MAX.seconds + 90}s]")


def test_latency_is_asked_for_only_by_the_policies_that_judge_it() -> None:
    assert Batch([subject()], NOW).latency_query() == ""
    query = Batch([subject(slos=[latency_slo()])], NOW).latency_query()
    parsed = promql_parser.parse(query)
    assert isinstance(parsed, promql_parser.MatrixSelector)
    le = parsed.vector_selector.matchers.matchers[-1].value
    assert [re.fullmatch(le, text) is not None for text in ("500", "500.0", "5e+02", "+Inf")] == [True] * 4
    assert [re.fullmatch(le, text) is not None for text in ("5000", "50", "0.5", "1500")] == [False] * 4


@given(edge=st.floats(1e-9, 1e9))
def test_a_number_is_found_however_it_is_written(edge: float) -> None:
    pattern = re.compile(spellings(edge))
    mantissa, exponent = f"{Decimal(repr(edge)):e}".split("e")
    for text in (repr(edge), f"{Decimal(repr(edge)):f}", f"{mantissa}E{exponent}", f"{mantissa}e{int(exponent):+03}"):
        assert pattern.fullmatch(text), (pattern, text)


@pytest.mark.parametrize(
    ("edge", "text"), [(0.5, "0.5"), (0.5, "5e-01"), (2.5, "2.50"), (1000, "1e+03"), (3.6e6, "3.6e+06")]
)
def test_the_usual_ways_to_write_a_bucket(edge: float, text: str) -> None:
    assert re.fullmatch(spellings(edge), text)


# --- Whose a series is ---


def test_an_answer_is_split_by_change_and_arm() -> None:
    other = subject("cart")
    beats = [*HEARTBEATS, matrix(cluster("canary", name="cart"), (-15, 0), (0, 0), (15, 0))]
    readings = read(
        subject(),
        other,
        heartbeat=beats,
        requests=[
            matrix(cluster("canary", "200"), (0, 100), (15, 190)),
            matrix(cluster("canary", "503"), (0, 5), (15, 15)),
            matrix(cluster("stable", "200"), (0, 1000), (15, 1900)),
        ],
    )
    assert readings[0].arms["error-rate", "canary"].samples == samples((15, 10, 100))
    assert readings[0].arms["error-rate", "stable"].samples == samples((15, 0, 900))
    assert readings[1].arms["error-rate", "canary"] == Arm((), START + seconds(15))
    assert readings[1].arms["error-rate", "stable"] == Arm()
    assert not readings[0].problems
    assert not readings[1].problems


def pod(name: str, namespace: str = "default", **more: str) -> dict[str, str]:
    return {"namespace": namespace, "pod": name, "instance": f"{name}:8080", "job": "pods", **more}


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("shop-canary-6d4c-x7k2p", "canary"),
        ("shop-6d4c-x7k2p", "stable"),
        ("shop-5f77-x7k2p", None),
        ("shop-canary-extra-6d4c-x7k2p", None),
        ("shop-6d4c-other-77fd-x7k2p", None),
    ],
)
def test_pods_are_told_apart_by_the_names_that_kubernetes_gives(name: str, arm: str | None) -> None:
    up = [matrix(pod(name), *((t, 1) for t in range(-60, 61, 15)), name="up")]
    requests = [matrix(pod(name, code="500"), (0, 1), (15, 3))]
    [reading] = read(subject(preset="pods"), heartbeat=up, requests=requests)
    assert not reading.problems
    for one in ("canary", "stable"):
        assert reading.arms["error-rate", one].samples == (samples((15, 2, 2), of_pod=name) if one == arm else ())


def test_pods_of_a_long_name_are_found_by_what_kubernetes_leaves_of_it() -> None:
    name = "a" * 63
    one = subject(name, preset="pods", canary_pods=f"{name[:56]}-canary-", stable_pods=f"{name}-6d4c-")
    pods = {"canary": f"{name[:56]}-cx7k2p", "stable": f"{name[:58]}x7k2p"}
    up = [matrix(pod(p), (-15, 1), (0, 1), name="up") for p in pods.values()]
    [reading] = read(one, heartbeat=up, requests=[matrix(pod(p, code="200"), (0, 1), (15, 3)) for p in pods.values()])
    assert {arm: reading.arms["error-rate", arm].samples for arm in pods} == {
        arm: samples((15, 0, 2), of_pod=p) for arm, p in pods.items()
    }


def test_arms_that_nothing_tells_apart_are_a_problem() -> None:
    name = "a" * 60
    [reading] = read(
        subject(preset="pods", canary_pods=f"{name}1-", stable_pods=f"{name}2-"), heartbeat=[], requests=[]
    )
    assert [p.reason for p in reading.problems] == ["IndistinguishablePods"]
    assert not reading.arms


def test_no_prefix_selects_no_pod() -> None:
    assert not Batch([subject(preset="pods", canary_pods="", stable_pods="")], NOW)
    query = Batch([subject(preset="pods", stable_pods="")], NOW).requests_query()
    assert query == 'http_requests_total{namespace=~"(?:default)",pod=~"(?:shop\\\\-canary\\\\-).+"}[150s]'


def test_a_pod_of_another_namespace_counts_for_nobody() -> None:
    subjects = [subject("a", preset="pods"), subject("b", namespace="other", preset="pods")]
    [a, b] = read(*subjects, heartbeat=[], requests=[matrix(pod("a-6d4c-x7k2p", "other", code="500"), (0, 1), (15, 3))])
    assert not a.problems
    assert not b.problems
    assert not any(arm.samples for arm in (*a.arms.values(), *b.arms.values()))


def test_an_availability_slo_shares_the_counters_of_the_error_rate() -> None:
    one = subject(slos=[latency_slo("availability", timedelta())])
    [reading] = read(one, requests=[matrix(cluster("canary", "500"), (0, 0), (15, 1))])
    assert reading.arms["availability", "canary"] == reading.arms["error-rate", "canary"]


# --- What is refused ---


def test_a_series_without_a_code_is_a_problem_of_its_owner_alone() -> None:
    [shop, cart] = read(
        subject(),
        subject("cart"),
        requests=[
            matrix(cluster("canary"), (0, 1), (15, 3)),
            matrix(cluster("canary", "500", name="cart"), (0, 1), (15, 3)),
        ],
    )
    assert [p.reason for p in shop.problems] == ["UnexpectedSeries"]
    assert not shop.arms
    assert cart.arms["error-rate", "canary"].samples == samples((15, 2, 2))
    assert not cart.problems


@pytest.mark.parametrize("labels", [{}, {"envoy_cluster_name": "default_other_80", "envoy_response_code": "200"}])
def test_a_series_that_was_not_asked_for_makes_the_answer_useless(labels: dict[str, str]) -> None:
    readings = read(subject(), subject("cart"), requests=[matrix(labels, (0, 1), (15, 3))])
    assert [[p.reason for p in reading.problems] for reading in readings] == [["UnexpectedSeries"]] * 2


def test_a_failed_query_leaves_the_rules_that_do_not_need_it() -> None:
    failed = Problem("PrometheusError", "503")
    requests = parse([matrix(cluster("canary", "500"), (0, 0), (15, 1))])
    batch = Batch([subject(slos=[latency_slo()])], NOW)
    [no_latency] = batch.read(Answers(parse(HEARTBEATS), requests, latency=failed))
    assert {rule for rule, _ in no_latency.arms} == {"error-rate"}
    assert no_latency.problems == (failed,)
    [no_heartbeat] = batch.read(Answers(failed, requests))
    assert no_heartbeat == Reading({}, (failed,))


# --- Latency ---


def buckets(arm: str, **points: Any) -> list[Any]:
    return [matrix({**cluster(arm), "le": le.replace("inf", "+Inf")}, *of) for le, of in points.items()]


def test_requests_above_the_edge_are_bad() -> None:
    [reading] = read(
        subject(slos=[latency_slo()]),
        requests=[],
        latency=buckets("canary", **{"500.0": [(0, 90), (15, 170)], "inf": [(0, 100), (15, 200)]}),
    )
    assert reading.arms["latency", "canary"].samples == samples((15, 20, 100))
    assert reading.arms["latency", "stable"].samples == ()


def test_a_sample_lost_in_one_bucket_does_not_make_requests_slow() -> None:
    [reading] = read(
        subject(slos=[latency_slo()]),
        requests=[],
        latency=buckets(
            "canary", **{"500": [(0, 100), (15, math.nan), (30, 300)], "inf": [(0, 100), (15, 200), (30, 300)]}
        ),
    )
    assert reading.arms["latency", "canary"].samples == samples((30, 0, 200))


def test_a_missing_bucket_is_named_with_those_that_there_are() -> None:
    one = subject(slos=[latency_slo(slower_than=timedelta(milliseconds=300))])
    other = subject("cart", slos=[latency_slo(slower_than=timedelta(milliseconds=500))])
    answers: dict[str, Any] = {
        "requests": [matrix(cluster("canary", "200"), (0, 0), (15, 9))],
        "latency": [
            *buckets("canary", inf=[(0, 100), (15, 200)]),
            matrix({**cluster("canary", name="cart"), "le": "500"}, (0, 1), (15, 2)),
            matrix({**cluster("canary", name="cart"), "le": "+Inf"}, (0, 1), (15, 3)),
        ],
    }
    [shop, cart] = readings = read(one, other, **answers)
    assert lacks_bucket(readings)
    assert cart.arms["latency", "canary"].samples == samples((15, 1, 2))
    edges = [matrix({**cluster("canary"), "le": le}, (60, 1)) for le in ("0.5", "250", "5e+02", "+Inf")]
    [shop, _] = read(one, other, **answers, edges=edges)
    assert {rule for rule, _ in shop.arms} == {"error-rate"}
    assert str(shop.problems[0]) == (
        "NoSuchBucket: envoy_cluster_upstream_rq_time_bucket has no bucket that ends at 300ms: "
        "write slowerThan in the ChangePolicy as one of 0.5, 250, 500 ms"
    )


# --- Others do not matter ---


@given(others=st.lists(st.tuples(st.integers(0, 3000), st.sampled_from(["shop", "cart"])), max_size=4))
def test_what_is_said_of_a_subject_does_not_depend_on_the_others(others: list[tuple[int, str]]) -> None:
    requests = {"200": [(-2000, 5), (-91, 8), (-80, 10), (-20, 30), (20, 70)], "500": [(-3000, 50), (20, 60)]}
    asked_alone = [matrix(cluster("canary", code), *(p for p in of if p[0] > -90)) for code, of in requests.items()]
    [alone] = read(subject(), requests=asked_alone)
    crowd = [subject(name, since=START - seconds(before)) for before, name in others]
    asked_together = [matrix(cluster("canary", code), *of) for code, of in requests.items()]
    assert read(subject(), *crowd, requests=asked_together)[0] == alone


def test_a_service_without_ports_selects_nothing() -> None:
    one = subject()
    without = Subject(**{**vars(one), "services": (ServicePair("shop", "shop-canary"),)})
    assert not Batch([without], NOW)


def test_log_lines_are_counted_by_level_whatever_its_case() -> None:
    rule = LogErrors(counter="app_log_lines_total", level_label="severity", levels=("error", "c++"))
    one = replace(subject(preset="pods"), rules=(rule,), source=of_logs(rule))
    batch = Batch([one], NOW)
    assert batch.requests_query().startswith("app_log_lines_total{namespace=~")
    assert batch.latency_query() == ""
    pod = {"namespace": "default", "pod": "shop-canary-7f9c-abcde"}
    lines = [
        matrix({**pod, "severity": level}, (0, 0), (20, count))
        for level, count in (("ERROR", 3), ("C++", 4), ("c", 5), ("Info", 90))
    ]
    (reading,) = batch.read(Answers(parse([matrix(pod, (0, 1), (20, 1))]), parse(lines)))
    (sample,) = reading.arms["log-errors", "canary"].samples
    assert (sample.bad, sample.total) == (7, 102)


# --- How slow stable is ---


def test_stables_own_buckets_say_where_a_slower_canary_would_show() -> None:
    wanted = replace(subject(), profile=True)
    batch = Batch([wanted, subject("cart")], NOW)
    query = batch.profile_query()
    promql_parser.parse(query)
    assert query.startswith("sum by (envoy_cluster_name,le) (increase(envoy_cluster_upstream_rq_time_bucket{")
    counted = {"0.5": 0, "1": 5, "5": 480, "10": 880, "25": 905, "50": 985, "100": 999, "+Inf": 1000}
    profile = [
        matrix({**cluster(arm), "le": le}, (60, count * (1 if arm == "stable" else 7)))
        for arm in ("stable", "canary")
        for le, count in counted.items()
    ]
    mine, other = batch.read(Answers(parse(HEARTBEATS), (), profile=parse(profile)))
    assert mine.profile == tuple(timedelta(milliseconds=edge) for edge in (5, 25, 50)), "p50, p90 and p99"
    assert other.profile == ()


def test_nobody_is_asked_who_did_not_want_to_know() -> None:
    assert Batch([subject()], NOW).profile_query() == ""


def test_an_edge_below_a_millisecond_is_passed_over() -> None:
    profile = [matrix({**cluster("stable"), "le": le}, (60, n)) for le, n in (("0.5", 99), ("1", 100), ("+Inf", 100))]
    (reading,) = Batch([replace(subject(), profile=True)], NOW).read(
        Answers(parse(HEARTBEATS), (), profile=parse(profile))
    )
    assert set(reading.profile) == {timedelta(milliseconds=1)}
