"""A real Envoy with clusters called as Contour and Envoy Gateway call them, and an upstream that does as it is told."""

import http.server
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed import build
from tests.metrics.waiting import free_port, until

EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"
CLUSTERS = {name: f"default_{name}_80" for name in ("shop", "shop-canary", "empty", "refused")}
CLUSTERS |= {name: f"service/default/{name}/80/http" for name in ("merged", "merged-canary")}


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
                    "alt_stat_name": called,
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": name,
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": address(p)}} for p in endpoints[name]]}
                        ],
                    },
                }
                for name, called in CLUSTERS.items()
            ],
        },
    }


@contextmanager
def running_envoy(directory: Path) -> Iterator[tuple[str, str]]:
    """(where it listens, where its statistics are)."""
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, args=(0.05,), daemon=True).start()
    listen, admin, nobody = free_port(), free_port(), free_port()
    ports = {"empty": [], "refused": [nobody]}
    config = bootstrap(listen, admin, {name: ports.get(name, [upstream.server_port]) for name in CLUSTERS})
    with (directory / "envoy.log").open("w") as log:
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
