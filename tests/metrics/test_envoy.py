"""What the presets `envoy` and `envoy-gateway` take for granted, on a real Envoy with clusters called like theirs."""

import asyncio
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller.core.model import Measurements, ServicePair
from controller.core.slo import counts, fresh
from controller.metrics.arms import Subject
from controller.metrics.presets import PRESETS
from controller.metrics.source import Prometheus
from tests.metrics.conftest import Server
from tests.metrics.subjects import latency_slo, seconds, subject


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def send(envoy: tuple[str, str], *paths: str) -> list[int]:
    return [status(envoy[0] + path) for path in paths]


def workload(canary: str, stable: str, since: datetime) -> Subject:
    one = subject(since=since, slos=[latency_slo(slower_than=timedelta(milliseconds=250))])
    return Subject(**{**vars(one), "services": (ServicePair(stable, canary, (80,)),)})


async def measure(prometheus: Prometheus, canary: str, stable: str, since: datetime) -> Measurements:
    [measured] = (await prometheus.measure([workload(canary, stable, since)], datetime.now(UTC))).values()
    assert measured.problem == ""
    return measured


async def test_without_requests_the_path_is_seen_to_work(prometheus: Prometheus, server: Server) -> None:
    await asyncio.to_thread(server.wait_for, 'envoy_cluster_upstream_rq_total{envoy_cluster_name="default_empty_80"}')
    now = datetime.now(UTC)
    measured = await measure(prometheus, "shop-canary", "shop", now - seconds(30))
    for arm in measured.arms.values():
        assert arm.samples == ()
        assert fresh(arm, now, seconds(5))


async def test_every_request_counts_once_and_what_failed_is_bad(
    envoy: tuple[str, str], prometheus: Prometheus, server: Server
) -> None:
    since = datetime.now(UTC)
    await asyncio.sleep(1)  # samples are told apart by the second
    canary = ["/shop-canary/200/0"] * 5 + ["/shop-canary/200/0.4"] * 2
    failing = ["/shop-canary/500/0", "/shop-canary/503/0", "/shop-canary/404/0", "/shop-canary/200/1"]
    sent = await asyncio.to_thread(send, envoy, *canary, *failing, "/shop/200/0")
    assert sent == [200] * 7 + [500, 503, 404, 504, 200]
    assert await asyncio.to_thread(send, envoy, "/refused/200/0", "/empty/200/0", "/empty/200/0") == [503] * 3
    await asyncio.to_thread(server.wait_for, 'sum(envoy_cluster_upstream_rq{envoy_cluster_name=~"default_.*"}) == 15')
    await asyncio.to_thread(server.wait_for, 'envoy_cluster_upstream_rq_time_bucket{le="+Inf"} == 10')

    measured = await measure(prometheus, "shop-canary", "shop", since)
    assert counts(measured.arms["shop", "error-rate", "canary"], since) == (3, 11)
    assert counts(measured.arms["shop", "error-rate", "stable"], since) == (0, 1)
    assert counts(measured.arms["shop", "latency", "canary"], since) == (2, 10), (
        "Envoy's own 504 is not in its histogram"
    )
    nobody = await measure(prometheus, "empty", "refused", since)
    assert counts(nobody.arms["shop", "error-rate", "canary"], since) == (2, 2), "no endpoints"
    assert counts(nobody.arms["shop", "error-rate", "stable"], since) == (1, 1), "connection refused"


async def test_the_clusters_of_envoy_gateway(envoy: tuple[str, str], prometheus: Prometheus, server: Server) -> None:
    since = datetime.now(UTC)
    await asyncio.sleep(1)
    await asyncio.to_thread(send, envoy, *["/merged/200/0"] * 9, "/merged-canary/200/0", "/merged-canary/500/0")
    await asyncio.to_thread(server.wait_for, 'sum(envoy_cluster_upstream_rq{envoy_cluster_name=~"service/.*"}) == 11')
    one = replace(workload("merged-canary", "merged", since), source=PRESETS["envoy-gateway"])
    [measured] = (await prometheus.measure([one], datetime.now(UTC))).values()
    assert measured.problem == ""
    assert counts(measured.arms["shop", "error-rate", "canary"], since) == (1, 2)
    assert counts(measured.arms["shop", "error-rate", "stable"], since) == (0, 9)
