"""Real parts for the metrics tests: an exporter that says what a test wants, and a Prometheus that scrapes it."""

import asyncio
import http.server
import json
import subprocess
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from controller.metrics.source import Prometheus
from testbed import build
from tests.metrics.envoy import running_envoy
from tests.metrics.subjects import seconds
from tests.metrics.waiting import free_port, until

asyncio.set_event_loop(None)  # or pytest-asyncio makes one to put back, and never closes it

RULES = {
    "groups": [
        {
            "name": "p0",
            "rules": [
                {
                    "alert": "ShopDown",
                    "expr": "max(incident) > 0",
                    "for": "1s",
                    "labels": {"severity": "P0", "deployment": "shop"},
                }
            ],
        }
    ]
}


PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


class Exporter:
    """Answers every GET with `text`, which a test changes as it likes; with `protobuf` where that is set."""

    def __init__(self) -> None:
        self.text = ""
        self.protobuf = b""
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.protobuf or exporter.text.encode()
                self.send_response(200)
                self.send_header("Content-Type", PROTOBUF if exporter.protobuf else "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Exporter":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Server:
    """A running Prometheus at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, query: str) -> list[Any]:
        with urllib.request.urlopen(f"{self.url}/api/v1/query?query={quote(query)}", timeout=5) as response:
            result: list[Any] = json.load(response)["data"]["result"]
            return result

    def wait_for(self, query: str, seconds: float = 20) -> None:
        """Until `query` has an answer."""
        until(lambda: bool(self.query(query)), seconds, query)


@contextmanager
def running_prometheus(directory: Path, scrapes: list[Mapping[str, Any]], rules: Mapping[str, Any]) -> Iterator[Server]:
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": scrapes,
        "rule_files": ["rules.json"],
    }
    (directory / "prometheus.json").write_text(json.dumps(config))
    (directory / "rules.json").write_text(json.dumps(rules))
    address = f"127.0.0.1:{free_port()}"
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                build.find("prometheus"),
                f"--config.file={directory / 'prometheus.json'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        server = Server(f"http://{address}")
        until(lambda: bool(server.query("vector(1)")), 20, "Prometheus is up")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="session")
def exporter() -> Iterator[Exporter]:
    with Exporter() as running:
        yield running


@pytest.fixture(scope="session")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(where it listens, where its statistics are)."""
    with running_envoy(tmp_path_factory.mktemp("envoy")) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def server(exporter: Exporter, envoy: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Scrapes Envoy, and the exporter as two pods of `shop`, each under the labels that a PodMonitor gives."""
    pods = [
        {"targets": [exporter.address], "labels": {"namespace": "default", "pod": name, "__metrics_path__": f"/{name}"}}
        for name in ("shop-canary-6d4c-x7k2p", "shop-6d4c-x7k2p")
    ]
    scrapes: list[Mapping[str, Any]] = [
        {"job_name": "pods", "static_configs": pods},
        {"job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": [{"targets": [envoy[1]]}]},
    ]
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), scrapes, RULES) as running:
        yield running


@pytest.fixture
async def prometheus(server: Server) -> AsyncIterator[Prometheus]:
    client = Prometheus(server.url, timeout=seconds(5))
    yield client
    await client.close()
