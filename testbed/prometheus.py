"""A real Prometheus: it scrapes Envoy, itself and every target in a directory of file-discovery JSON."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from testbed import build, gateway
from testbed.errors import BedError
from testbed.process import Process
from testbed.waiting import answers

PORT = 9090


def process(directory: Path, host: str, scrape_interval: timedelta) -> Process:
    """Prometheus, not started. It reads targets from `targets/*.json` of `directory`, rules from `rules/*.json`."""
    for name in ("targets", "rules"):
        (directory / name).mkdir(exist_ok=True)
    config = directory / "prometheus.json"
    config.write_text(json.dumps(_config(directory, host, scrape_interval), indent=1))
    return Process(
        "prometheus",
        [
            str(build.find("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory}/prometheus",
            f"--web.listen-address={host}:{PORT}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ],
        directory / "prometheus.log",
        ready=lambda: answers(f"http://{host}:{PORT}/-/ready"),
    )


def write_targets(directory: Path, job: str, addresses: Sequence[str]) -> None:
    _replace(directory / "targets" / f"job-{job}.json", [{"targets": list(addresses), "labels": {"job": job}}])


def write_rules(directory: Path, host: str, name: str, rules: Sequence[Mapping[str, Any]]) -> None:
    """Write a rule group and have it loaded. Raises BedError with Prometheus's words when it refuses the rules."""
    path = directory / "rules" / f"{name}.json"
    _replace(path, {"groups": [{"name": name, "rules": list(rules)}]})
    request = urllib.request.Request(f"http://{host}:{PORT}/-/reload", method="POST")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        path.unlink()
        with error:
            raise BedError(f"rules {name}: {error.read().decode()}") from error


def _replace(path: Path, content: object) -> None:
    """Write as a whole, for Prometheus reads these files whenever they change."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.rename(path)


def _config(directory: Path, host: str, scrape_interval: timedelta) -> dict[str, Any]:
    interval = f"{round(scrape_interval.total_seconds() * 1000)}ms"
    envoy = {"targets": [f"{host}:{gateway.STATS_PORT}"], "labels": {"namespace": gateway.NAMESPACE, "pod": "envoy-0"}}
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [f"{directory}/rules/*.json"],
        "scrape_configs": [
            {"job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": [envoy]},
            {"job_name": "prometheus", "static_configs": [{"targets": [f"{host}:{PORT}"]}]},
            {
                "job_name": "pods",
                "file_sd_configs": [{"files": [f"{directory}/targets/*.json"], "refresh_interval": "5s"}],
            },
        ],
    }
