"""What the preset `envoy` takes for granted, on a real Envoy whose clusters are called as Contour calls them."""

import asyncio
import http.server
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.core.model import Measurements, ServicePair
from controller.core.slo import counts, fresh
from controller.metrics.arms import Subject
from controller.metrics.source import Prometheus
from testbed import build
from tests.metrics.conftest import Server, free_port, running_prometheus, until
from tests.metrics.subjects import latency_slo, seconds, subject

EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
CLUSTERS = ("shop", "shop-canary", "empty", "refused")


class Upstream(http.server.BaseHTTPRequestHandler):
    """/shop/STATUS/SECONDS: answers STATUS after SECONDS."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, _, status, wait = self.path.split("/")
        time.sleep(float(wait))
        self.send_response(int(status))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def bootstrap(listen: int, admin: int, endpoints: dict[str, list[int]]) -> dict[str, Any]:
    routes = [
        {"match": {"path_separated_prefix": f"/{name}"}, "route": {"cluster": name, "timeout": "0.8s"}}
        for name in CLUSTERS
    ]
    filters = {
        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress_http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"},
            }
        ],
    }
    return {
        "stats_flush_interval": "1s",
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [
                {
                    "address": address(listen),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": filters}]}],
                }
            ],
            "clusters": [
                {
                    "name": name,
                    "alt_stat_name": f"default_{name}_80",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": name,
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": address(p)}} for p in endpoints[name]]}
                        ],
                    },
                }
                for name in CLUSTERS
            ],
        },
    }


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(where it listens, where its statistics are)."""
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, args=(0.05,), daemon=True).start()
    listen, admin, nobody = free_port(), free_port(), free_port()
    ports = {"empty": [], "refused": [nobody]}
    config = bootstrap(listen, admin, {name: ports.get(name, [upstream.server_port]) for name in CLUSTERS})
    with (tmp_path_factory.mktemp("envoy") / "log").open("w") as log:
        process = subprocess.Popen(
            [build.find("envoy"), "--config-yaml", json.dumps(config), "--concurrency", "1", "--use-dynamic-base-id"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: bool(urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=1)), 20, "Envoy is up")
        yield f"http://127.0.0.1:{listen}", f"127.0.0.1:{admin}"
    finally:
        process.terminate()
        process.wait(timeout=20)
        upstream.shutdown()
        upstream.server_close()


@pytest.fixture(scope="module")
def server(envoy: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scrape = {"job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": [{"targets": [envoy[1]]}]}
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), [scrape], {"groups": []}) as server:
        yield server


@pytest.fixture
async def prometheus(server: Server) -> AsyncIterator[Prometheus]:
    client = Prometheus(server.url, timeout=seconds(5))
    yield client
    await client.close()


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
    await asyncio.to_thread(server.wait_for, "sum(envoy_cluster_upstream_rq) == 15")
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
