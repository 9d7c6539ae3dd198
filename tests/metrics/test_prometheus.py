"""The whole way through a real Prometheus: scrapes, its timestamps, its labels, its alerts."""

import asyncio
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from controller.core.slo import counts, fresh
from controller.metrics.arms import Subject
from controller.metrics.source import Prometheus
from tests.metrics.conftest import Exporter, Server, running_prometheus
from tests.metrics.subjects import latency_slo, seconds, subject


def shop(since: datetime) -> Subject:
    return subject(preset="pods", since=since, slos=[latency_slo()])


def exposition(good: int, bad: int, slow: int, incident: int = 0) -> str:
    total = good + bad
    return f"""
http_requests_total{{code="200"}} {good}
{f'http_requests_total{{code="500"}} {bad}' if bad else ""}
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{{le="0.5"}} {total - slow}
http_request_duration_seconds_bucket{{le="+Inf"}} {total}
http_request_duration_seconds_sum 1
http_request_duration_seconds_count {total}
incident {incident}
"""


async def scraped(server: Server, query: str) -> None:
    await asyncio.to_thread(server.wait_for, query)


async def test_counts_births_restarts_and_incidents(exporter: Exporter, server: Server, prometheus: Prometheus) -> None:
    exporter.text = exposition(good=1000, bad=0, slow=100)
    await scraped(server, "sum(http_requests_total) == 2000")
    since = datetime.now(UTC)
    await asyncio.sleep(1)  # samples are told apart by the second
    exporter.text = exposition(good=1090, bad=10, slow=130)
    await scraped(server, 'sum(http_requests_total{code="500"}) == 20')
    exporter.text = exposition(good=5, bad=2, slow=1, incident=1)
    await scraped(server, 'sum(http_requests_total) == 14 and on() ALERTS{alertstate="firing"}')

    now = datetime.now(UTC)
    [measured] = (await prometheus.measure([shop(since)], now)).values()
    assert measured.problem == ""
    for arm in ("canary", "stable"):
        errors, latency = (measured.arms["shop", rule, arm] for rule in ("error-rate", "latency"))
        assert counts(errors, since) == (10 + 2, 100 + 7), "the first value of a new code counts, and so does a restart"
        assert counts(latency, since) == (30 + 1, 100 + 7)
        assert fresh(errors, now, seconds(3))
        assert all(since - seconds(1) < sample.at <= now for sample in errors.samples)
    [incident] = measured.incidents
    assert incident.name == "ShopDown"
    assert timedelta() < now - incident.began_at < seconds(15)

    later = (await prometheus.measure([shop(now)], now))["default", "chg-shop"]
    assert counts(later.arms["shop", "error-rate", "canary"], now)[0] == 0


async def test_the_bucket_that_is_missing_is_named(exporter: Exporter, server: Server, prometheus: Prometheus) -> None:
    exporter.text = exposition(good=10, bad=1, slow=1)
    await scraped(server, "http_request_duration_seconds_count == 11")
    now = datetime.now(UTC)
    one = subject(preset="pods", since=now, slos=[latency_slo(slower_than=seconds(0.3))])
    [measured] = (await prometheus.measure([one], now)).values()
    assert measured.problem.startswith(
        "NoSuchBucket: http_request_duration_seconds_bucket has no bucket that ends at 300ms"
    )
    assert measured.problem.endswith("as one of 0.5 s")


def field(number: int, value: int | bytes, *, double: bool = False) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 1) + value if double else varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def native(fast: int, slow: int) -> bytes:
    """A native histogram of schema 0, delimited: `fast` requests in (0.25, 0.5], `slow` ones in (0.5, 1]."""
    span = field(1, zigzag(-1)) + field(2, 2)
    deltas = b"".join(field(13, zigzag(delta)) for delta in (fast, slow - fast))
    histogram = field(1, fast + slow) + field(2, struct.pack("<d", 1.0), double=True) + field(5, zigzag(0))
    histogram += field(6, struct.pack("<d", 1e-128), double=True) + field(12, span) + deltas
    family = field(1, b"http_request_duration_seconds") + field(3, 4) + field(4, field(7, histogram))
    return varint(len(family)) + family


async def test_native_histograms_as_prometheus_answers_them(tmp_path: Path) -> None:
    with Exporter() as exporter:
        exporter.protobuf = native(fast=90, slow=10)
        labels = {"namespace": "default", "pod": "shop-canary-6d4c-x7k2p"}
        job = {
            "job_name": "pods",
            "scrape_native_histograms": True,
            "scrape_protocols": ["PrometheusProto"],
            "static_configs": [{"targets": [exporter.address], "labels": labels}],
        }
        with running_prometheus(tmp_path, [job], {}) as server:
            await scraped(server, "histogram_count(http_request_duration_seconds) == 100")
            since = datetime.now(UTC)
            await asyncio.sleep(1)
            exporter.protobuf = native(fast=170, slow=13)
            await scraped(server, "histogram_count(http_request_duration_seconds) == 183")
            client = Prometheus(server.url, timeout=seconds(5))
            [measured] = (await client.measure([shop(since)], datetime.now(UTC))).values()
            await client.close()
    assert measured.problem == ""
    assert counts(measured.arms["shop", "latency", "canary"], since) == (3, 83)


async def test_without_the_exporter_the_data_grows_old(
    exporter: Exporter, server: Server, prometheus: Prometheus
) -> None:
    exporter.text = "nonsense{"
    await scraped(server, 'max(up{job="pods"}) == 0')
    now = datetime.now(UTC)
    [measured] = (await prometheus.measure([shop(now - seconds(60))], now)).values()
    arm = measured.arms["shop", "error-rate", "canary"]
    assert arm.fresh_at is not None
    last = arm.fresh_at
    await asyncio.sleep(1.5)
    [measured] = (await prometheus.measure([shop(now - seconds(60))], now)).values()
    assert measured.arms["shop", "error-rate", "canary"].fresh_at == last


async def test_a_thousand_changes_in_one_question(exporter: Exporter, server: Server, prometheus: Prometheus) -> None:
    exporter.text = exposition(good=10, bad=1, slow=1)
    await scraped(server, "http_request_duration_seconds_count == 11")
    now = datetime.now(UTC)
    presets = ("envoy", "pods")
    subjects = [
        subject(f"shop-number-{i}", since=now, preset=presets[i % 2], slos=[latency_slo()]) for i in range(1000)
    ]
    began = time.monotonic()
    measured = await prometheus.measure([*subjects, shop(now - seconds(5))], now)
    assert time.monotonic() - began < 4
    assert len(measured) == 1001
    assert {one.problem for one in measured.values()} == {""}
    assert measured["default", "chg-shop"].arms["shop", "error-rate", "canary"].fresh_at


async def test_what_prometheus_refuses_is_an_invalid_query(server: Server) -> None:
    client = Prometheus(server.url, timeout=seconds(5))
    assert await client.ping() == ""
    bad = await client._query("up{")
    assert str(bad).startswith(f"InvalidQuery: {server.url} refuses the query (HTTP 400: invalid parameter")
    await client.close()
