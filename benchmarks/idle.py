"""What Serin costs while nothing changes, and how soon it notices that something does.

    uv run python -m benchmarks.idle [--quick]

Workloads of one pod each (kwok), with a Service and an HTTPRoute, 20 to a namespace. About 15 minutes; with --quick
200 workloads and short stretches, under 5.
"""

import argparse
import json
import time
import urllib.request
from datetime import UTC, datetime, timedelta

from benchmarks.meter import (
    Meter,
    Usage,
    header,
    heading,
    logged,
    machine,
    milliseconds,
    quantile,
    row,
    say,
    seconds,
)
from testbed import kwok, namespace, stage
from testbed.bed import Bed, Options
from testbed.control_plane import Manifest
from testbed.errors import BedError
from testbed.process import Process
from testbed.waiting import eventually

A_NAMESPACE = 20
COMPONENTS = frozenset({"kwok", "gateway", "prometheus"})
READY_MAX = timedelta(minutes=5)
SETTLED = timedelta(seconds=5)


class Fleet:
    """Workloads `app-0`, `app-1`, … in namespaces `fleet-0`, `fleet-1`, …"""

    def __init__(self, bed: Bed, size: int) -> None:
        self._bed = bed
        self._apps = [stage.App(bed, f"fleet-{i // A_NAMESPACE}", f"app-{i}", replicas=1) for i in range(size)]
        self._namespaces = sorted({app.namespace for app in self._apps})

    def create(self) -> None:
        """As they were before Serin came; returns when every pod is ready."""
        for name in self._namespaces:
            self._bed.kubectl("create", "namespace", name)
            of_it = [app for app in self._apps if app.namespace == name]
            manifests = [m for app in of_it for m in (self._deployment(app, "v0", ""), *app.surroundings())]
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
            self._bed.kubectl("apply", "-f", "-", stdin=text)
        eventually(self._all_ready, within=READY_MAX)

    def adopt(self) -> None:
        """All there is to it: one label."""
        for name in self._namespaces:
            self._bed.kubectl("label", "deployments", "--all", "-n", name, "serin.dev/change=auto")

    def change(self, number: int) -> tuple[stage.App, datetime, datetime]:
        """`kubectl apply` of a new template of one workload, that waits for an approval; when it began and ended."""
        app = self._apps[number * 7919 % len(self._apps)]  # a prime: spread over the namespaces, each one once
        text = json.dumps(self._deployment(app, "v1", "auto"))
        began_at = datetime.now(UTC)
        self._bed.kubectl("apply", "-f", "-", stdin=text, user="alice")
        return app, began_at, datetime.now(UTC)

    def _deployment(self, app: stage.App, version: str, change: str) -> Manifest:
        manifest = app.deployment(version, change, kind="normal")
        manifest["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": kwok.NODE}
        return manifest

    def _all_ready(self) -> bool:
        ready = self._bed.kubectl("get", "deployments", "-A", "-o", "jsonpath={.items[*].status.readyReplicas}")
        return len(ready.split()) == len(self._apps)


def measure(size: int, *, idle: timedelta, changes: int, waiting: timedelta) -> None:
    """Everything about a fleet of this size, on a bed of its own, as one table."""
    heading(f"{size:,} workloads")
    with Bed(Options(components=COMPONENTS)) as bed:
        machine(bed)
        say("")
        stage.install(bed)
        fleet = Fleet(bed, size)
        fleet.create()
        controller = stage.controller(bed, SERIN_MEASURE_INTERVAL="5s")  # as the product does it
        meter = Meter(bed, controller)
        header("stretch", "took", "CPU", "API requests", "a minute", "peak memory")

        _start(bed, controller)
        used = meter.read()
        began = used
        _usage_row("started beside them: caches filled, leading", used, took=False)

        fleet.adopt()
        time.sleep(SETTLED.total_seconds())
        used = _stretch(meter, began, "all of them adopted, by `kubectl label`, and 5 s")

        time.sleep(idle.total_seconds())
        used = _stretch(meter, used, "idle")

        applied = []
        for number in range(changes):
            applied.append(fleet.change(number))
            time.sleep(0.1)
        time.sleep(SETTLED.total_seconds())
        used = _stretch(meter, used, f"{changes} changes applied, one after the other, and 5 s")

        time.sleep(waiting.total_seconds())
        _stretch(meter, used, f"{changes} changes wait for their approval")

        _noticed(controller, applied)
        controller.stop()


def _start(bed: Bed, controller: Process) -> None:
    def leads() -> bool:
        with urllib.request.urlopen(f"http://{bed.host}:{stage.LISTEN_PORT}/readyz", timeout=2) as answer:
            return b"leading" in answer.read()

    controller.start()
    controller.wait_until("leadership", leads, timedelta(minutes=1))
    time.sleep(SETTLED.total_seconds())


def _stretch(meter: Meter, since: Usage, what: str) -> Usage:
    now = meter.read()
    _usage_row(what, now - since)
    return now


def _usage_row(what: str, used: Usage, *, took: bool = True) -> None:
    duration, pace = (seconds(used.took, 0), f"{used.requests_per_minute:.0f}") if took else ("–", "–")
    row(what, duration, seconds(used.cpu, 2), used.requests, pace, f"{used.peak_rss / 1e6:.0f} MB")


def _noticed(controller: Process, applied: list[tuple[stage.App, datetime, datetime]]) -> None:
    """How long after `kubectl apply` the change was on record. Raises BedError when one is not."""
    recorded = {(e["namespace"], e["workload"]): e["at"] for e in logged(controller, "change_recorded")}
    missing = [app.host for app, *_ in applied if (app.namespace, app.name) not in recorded]
    if missing:
        raise BedError(f"{len(missing)} changes were not noticed: {', '.join(missing[:5])}")
    waits = [recorded[app.namespace, app.name] - began_at for app, began_at, _ in applied]
    typing = [ended_at - began_at for _, began_at, ended_at in applied]
    say("")
    header("from the start of `kubectl apply`", "p50", "p99", "longest")
    for what, values in (("the change is on record", waits), ("kubectl itself has ended", typing)):
        row(what, milliseconds(quantile(values, 0.5)), milliseconds(quantile(values, 0.99)), milliseconds(max(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 workloads and short stretches: under 5 minutes")
    quick = parser.parse_args().quick
    namespace.enter()
    say("# Idle")
    if quick:
        measure(200, idle=timedelta(seconds=60), changes=30, waiting=timedelta(seconds=20))
    else:
        measure(200, idle=timedelta(seconds=180), changes=100, waiting=timedelta(seconds=60))
        measure(1000, idle=timedelta(seconds=180), changes=100, waiting=timedelta(seconds=60))


if __name__ == "__main__":
    main()
