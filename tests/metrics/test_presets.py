"""controller.metrics.presets: each on an exposition of its proxy, scraped by a real Prometheus; and its queries.

expositions/ has what each proxy documents, or was seen to write: docs/metrics.md says which was which. The decoys in
them, with 1000 failures each, belong to nobody.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.core.model import ServicePair
from controller.core.policy import ArmLabel, Codes, CustomSource, FixedLabel, LatencyUnit, Source
from controller.core.slo import counts, fresh
from controller.metrics.arms import Selection, Subject
from controller.metrics.batch import Answers, Batch
from controller.metrics.counters import Series, parse
from controller.metrics.presets import PRESETS, Preset, preset_of
from controller.metrics.source import Prometheus
from tests.metrics.conftest import Exporter, Server, running_prometheus
from tests.metrics.subjects import START, latency_slo, matrix, seconds, subject

CUSTOM = CustomSource(
    requests="edge_responses",
    codes=(Codes("class", ("5*", "timeout")),),
    selected_by=(ArmLabel("backend", "{namespace}.{stable}"), ArmLabel("revision", "{workload}")),
    where=(FixedLabel("direction", "in"),),
    latency="edge_latency",
    latency_unit=LatencyUnit.MILLISECONDS,
    heartbeat="edge_up",
    heartbeat_where=(FixedLabel("zone", "a"),),
)
EVERY: Mapping[str, Preset] = {**PRESETS, "custom": preset_of(Source("custom", custom=CUSTOM))}

POD = {"namespace": "default", "pod": "shop-canary-6d4c-x7k2p"}
GATEWAY = {"namespace": "gateways", "pod": "gateway-5f77-abcde", "service": "gateway-metrics"}
TARGETS: Mapping[str, Mapping[str, str]] = {
    "istio": GATEWAY,
    "nginx": GATEWAY,
    "traefik": GATEWAY,
    "linkerd": POD,
    "nginx-gateway": GATEWAY,
    "envoy-gateway": GATEWAY,
    "custom": GATEWAY,
}
HEARTBEAT_LABELS = re.compile(r"(istio_build|_success|_successful|proxy_build_info|count_peers|edge_up)\b")
SEEN: Mapping[str, tuple[int, int, int, int]] = {  # canary: bad, total; stable: bad, total
    "istio": (19, 100, 0, 900),
    "nginx": (12, 100, 3, 903),
    "traefik": (12, 100, 0, 900),
    "linkerd": (12, 100, 0, 0),  # the exposition is that of one pod
    "nginx-gateway": (12, 100, 0, 900),
    "envoy-gateway": (12, 100, 0, 900),
    "custom": (12, 100, 0, 900),
}
SLOW: Mapping[str, tuple[float, int, int]] = {  # slower than (s): bad, total of the canary
    "istio": (0.5, 6, 70),
    "nginx": (0.5, 6, 80),
    "traefik": (0.3, 6, 80),
    "linkerd": (0.5, 6, 80),
    "envoy-gateway": (0.5, 6, 88),
    "custom": (0.5, 6, 80),
}


def exposition(name: str) -> str:
    return (Path(__file__).parent / f"expositions/{name}.txt").read_text()


def before_any_request(text: str) -> str:
    """The same series, none of which has counted anything."""
    return "".join(
        line if line.startswith("#") or HEARTBEAT_LABELS.search(line) else re.sub(r" \S+\n$", " 0\n", line)
        for line in text.splitlines(keepends=True)
    )


@pytest.fixture(scope="module")
def proxies() -> Iterator[Mapping[str, Exporter]]:
    running = {name: Exporter() for name in TARGETS}
    for exporter in running.values():
        exporter.__enter__()
    yield running
    for exporter in running.values():
        exporter.__exit__()


@pytest.fixture(scope="module")
def scraping(proxies: Mapping[str, Exporter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each proxy with the labels that a ServiceMonitor gives, and `honorLabels: true` where the preset asks for it."""
    scrapes: list[Mapping[str, Any]] = [
        {
            "job_name": name,
            "honor_labels": name in ("nginx", "traefik"),
            "static_configs": [{"targets": [proxies[name].address], "labels": dict(labels)}],
        }
        for name, labels in TARGETS.items()
    ]
    with running_prometheus(tmp_path_factory.mktemp("presets"), scrapes, {}) as running:
        yield running


@pytest.fixture
async def client(scraping: Server) -> AsyncIterator[Prometheus]:
    prometheus = Prometheus(scraping.url, timeout=seconds(5))
    yield prometheus
    await prometheus.close()


def shop(preset: str, since: datetime) -> Subject:
    slos = [latency_slo(slower_than=seconds(SLOW[preset][0]))] if preset in SLOW else []
    return replace(subject(since=since, slos=slos), source=EVERY[preset])


async def test_every_proxy_is_read_to_the_last_request(
    proxies: Mapping[str, Exporter], scraping: Server, client: Prometheus
) -> None:
    for name, exporter in proxies.items():
        exporter.text = before_any_request(exposition(name))
    await asyncio.to_thread(scraping.wait_for, f"count(up == 1) == {len(proxies)} and sum(edge_responses) == 0")
    since = datetime.now(UTC)
    await asyncio.sleep(1)  # samples are told apart by the second
    for name, exporter in proxies.items():
        exporter.text = exposition(name)
    last = "sum(edge_responses) > 0 and " + " and ".join(
        f'sum({{job="{name}",__name__="{EVERY[name].requests}"}}) > 0' for name in proxies
    )
    await asyncio.to_thread(scraping.wait_for, last)

    now = datetime.now(UTC)
    for name in proxies:
        [measured] = (await client.measure([shop(name, since)], now)).values()
        assert measured.problem == "", name
        arms = [measured.arms["shop", "error-rate", arm] for arm in ("canary", "stable")]
        assert (*counts(arms[0], since), *counts(arms[1], since)) == SEEN[name], name
        assert fresh(arms[0], now, seconds(5)), name
        if name in SLOW:
            assert counts(measured.arms["shop", "latency", "canary"], since) == SLOW[name][1:], name


@pytest.mark.parametrize("preset", EVERY)
@given(name=st.text(min_size=1), namespace=st.text(min_size=1), pods=st.text(min_size=1), port=st.integers(1, 65535))
@example(name='"} or vector(1) or up{a="', namespace="\\", pods="{pod}", port=1)
@example(name="{namespace}", namespace="{port}", pods="}{", port=1)
def test_whatever_the_names_the_queries_are_promql(
    preset: str, name: str, namespace: str, pods: str, port: int
) -> None:
    slos = [latency_slo()] if EVERY[preset].latency else []
    one = subject(name, namespace=namespace, slos=slos, canary_pods=f"{pods}-canary-", stable_pods=f"{pods}-6d4c-")
    one = replace(one, source=EVERY[preset], services=(ServicePair(name, f"{name}-canary", (port,)),))
    batch = Batch([one], START)
    assert batch
    queries = [batch.heartbeat_query(), batch.requests_query(), *filter(None, [batch.latency_query()])]
    for query in queries:
        assert isinstance(promql_parser.parse(query), promql_parser.MatrixSelector)
    assert bool(batch.latency_query()) == bool(slos)
    assert isinstance(promql_parser.parse(batch.edges_query()), promql_parser.AggregateExpr)


@pytest.mark.parametrize("preset", EVERY)
def test_what_is_asked_for_is_known_again(preset: str) -> None:
    """The expressions that Prometheus goes by, and the keys that answers are split by, are of one mind."""
    one = replace(subject(), source=EVERY[preset])
    selection = Selection(EVERY[preset], [one])
    asked = promql_parser.parse(f"{EVERY[preset].requests}{{{selection.matchers()}}}")
    assert isinstance(asked, promql_parser.VectorSelector)
    wanted = {matcher.name: matcher.value for matcher in asked.matchers.matchers}
    series = [s.labels for s in of_exposition(preset)] if preset in TARGETS else []
    for labels in series:
        answered = all(re.fullmatch(value, labels.get(name, "")) for name, value in wanted.items())
        if answered:
            assert selection.owners(labels) is not None, labels
    if preset not in ("envoy", "pods"):
        assert any(selection.owners(labels) for labels in series)


def of_exposition(preset: str) -> list[Series]:
    lines = re.findall(r"^(\w+)\{(.*)\} \S+$", exposition(preset), re.MULTILINE)
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', text)) for name, text in lines if name == EVERY[preset].requests]
    return [Series({**TARGETS[preset], **each}, []) for each in labels]


# --- A heartbeat of the proxy ---

PROXY = {"instance": "10.0.0.1:15020", "job": "istio", "pod": "gateway-5f77-abcde"}
BUILD = {**PROXY, "component": "proxy", "tag": "1.27.1"}
UP = [(t, 1) for t in range(-60, 61, 15)]


def istio(arm: str, code: str, *points: tuple[float, float], **more: str) -> dict[str, Any]:
    service = "shop-canary" if arm == "canary" else "shop"
    labels = {"destination_service_namespace": "default", "destination_service_name": service, "response_code": code}
    return matrix({**PROXY, **labels, "reporter": "source", **more}, *points)


def read(heartbeat: list[Any], requests: list[Any], *subjects: Subject) -> Mapping[tuple[str, str], Any]:
    batch = Batch(subjects or [replace(subject(), source=PRESETS["istio"])], START + seconds(60))
    reading = batch.read(Answers(parse(heartbeat), parse(requests)))[0]
    assert not reading.problems
    return reading.arms


def test_the_proxy_that_counts_stable_proves_that_the_canary_is_idle() -> None:
    arms = read([matrix(BUILD, *UP)], [istio("stable", "200", (-60, 9), (0, 9))])
    assert arms["error-rate", "canary"].samples == ()
    assert arms["error-rate", "canary"].fresh_at == START + seconds(60)


def test_a_proxy_that_never_counted_the_workload_proves_nothing() -> None:
    """Others are scraped; whether the one in front of this workload is, nobody knows."""
    elsewhere = istio("stable", "200", (-60, 9), (60, 9), instance="10.0.0.2:15020")
    arms = read([matrix(BUILD, *UP)], [])
    assert {arm.fresh_at for arm in arms.values()} == {None}
    arms = read([matrix(BUILD, *UP)], [elsewhere])
    assert arms["error-rate", "canary"].fresh_at is None


def test_the_first_failures_of_a_canary_count_though_the_heartbeat_has_labels_of_its_own() -> None:
    arms = read([matrix(BUILD, *UP)], [istio("stable", "200", *UP), istio("canary", "503", (15, 20), (30, 25))])
    assert [(s.bad, s.total) for s in arms["error-rate", "canary"].samples] == [(20, 20), (5, 5)]


@pytest.mark.parametrize("others", [0, 3000])
def test_what_others_ask_for_proves_nothing_new_of_a_proxy(others: float) -> None:
    """Nothing is known of the time before the canary's first sample but what is older than this workload asked for."""
    crowd = replace(subject("cart", since=START - seconds(others)), source=PRESETS["istio"])
    beats = [*([(-2000, 1)] if others else []), (30, 1)]
    stable, canary = istio("stable", "200", (30, 9)), istio("canary", "503", (30, 500), (45, 501))
    arms = read([matrix(BUILD, *beats)], [stable, canary], replace(subject(), source=PRESETS["istio"]), crowd)
    assert [(s.bad, s.total) for s in arms["error-rate", "canary"].samples] == [(1, 1)]


def test_without_heartbeats_there_is_no_data() -> None:
    arms = read([], [istio("stable", "200", (-60, 9), (15, 10))])
    assert arms["error-rate", "canary"].fresh_at is None


# --- Without what a preset needs ---


def test_a_preset_without_a_histogram_says_so() -> None:
    one = replace(subject(slos=[latency_slo()]), source=PRESETS["nginx-gateway"])
    batch = Batch([one], START)
    assert batch.latency_query() == ""
    [reading] = batch.read(Answers([], []))
    assert [problem.reason for problem in reading.problems] == ["NoHistogram"]
    assert {rule for rule, _ in reading.arms} == {"error-rate"}


@pytest.mark.parametrize(
    ("service", "owner"),
    [
        ("default-shop-http@kubernetesgateway", "stable"),
        ("default-shop-canary-http@kubernetesgateway", "canary"),
        ("httproute-default-r-gw-default-g-ep-web-0-svc-default-shop-0@kubernetesgateway", "stable"),
        ("grpcroute-default-r-gw-default-g-ep-web-0-svc-default-shop-canary-12@kubernetesgateway", "canary"),
        ("httproute-default-r-gw-default-g-ep-web-0-svc-other-shop-0@kubernetesgateway", None),
        ("default-shop-http@file", None),
        ("default-shop@kubernetesgateway", None),
    ],
)
def test_services_of_traefik(service: str, owner: str | None) -> None:
    selection = Selection(PRESETS["traefik"], [replace(subject(), source=PRESETS["traefik"])])
    assert [arm for _, arm in selection.owners({"service": service}) or ()] == ([owner] if owner else [])
