"""Serin on a bed, with an application that users send requests to: what demo, tests and benchmarks play on."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from testbed.api import Api
from testbed.bed import Bed
from testbed.control_plane import Manifest
from testbed.errors import BedError
from testbed.process import Process
from testbed.waiting import answers, eventually

ROOT = Path(__file__).resolve().parent.parent
LISTEN_PORT = 9810
GATEWAY = {"name": "contour", "namespace": "projectcontour"}
TERMINAL = ("Completed", "RolledBack", "Superseded", "Denied")
ROLES = (
    ("alice", "requester"),
    ("alice", "on-call"),
    ("bob", "approver-normal"),
    ("carol", "reviewer"),
    ("cto", "approver-emergency"),
)
"""Who is what in the demo and the tests; mallory is nothing."""
IN_THE_IMAGE = {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1"}
"""What is said about memory where the controller runs as it is shipped."""
LIMITS: Mapping[str, Any] = {
    "errorRate": {"max": "1%", "window": "10s", "sustained": "8s"},
    "slos": [
        {"name": "availability", "objective": "99.9%", "burnMax": 14.4, "window": "10s", "sustained": "8s"},
        {
            "name": "latency",
            "objective": "99%",
            "slowerThan": "1s",
            "burnMax": 14.4,
            "window": "10s",
            "sustained": "8s",
        },
    ],
}
"""The process's own, with seconds for its minutes: fields of a ChangePolicy's spec."""

_PROBE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: probe, namespace: default, labels: {serin.dev/change: auto}}
spec:
  selector: {matchLabels: {app: probe}}
  template: {metadata: {labels: {app: probe}}, spec: {containers: [{name: probe, image: probe}]}}
"""
_ASKED = {
    "apiVersion": "serin.dev/v1alpha1",
    "kind": "ChangeRequest",
    "metadata": {"name": "chg-20260101-001"},
    "spec": {"changeId": "CHG-20260101-001", "type": "standard"},
}


def install(bed: Bed) -> None:
    """What the README tells people to install, and wait until the admission policies act (about two seconds).

    alice asks for changes and may declare emergencies, bob is the engineering manager, carol reviews, the cto approves
    emergencies, mallory has no role. The controller runs as a process beside the bed, not in it.
    """
    for directory in ("manifests", "policies"):
        bed.kubectl("apply", "--server-side", "-k", str(ROOT / directory))
    for installed in bed.kubectl("get", "deployments", "-n", "serin-system", "-o", "name").split():
        bed.kubectl("scale", installed, "--replicas=0", "-n", "serin-system")
    for user, role in ROLES:
        bed.kubectl("create", "clusterrolebinding", f"{user}-{role}", f"--clusterrole=serin-{role}", f"--user={user}")
    bed.await_crds()

    def holds() -> bool:
        create = ("create", "--dry-run=server", "-f", "-", "-o", "jsonpath={.spec.paused}")
        return bed.kubectl(*create, stdin=_PROBE, check=False) == "true"

    eventually(holds, within=timedelta(seconds=30))
    api = Api(bed)

    def known() -> bool:
        """Admission learns of new kinds every now and then: until then it refuses them, "There can be a delay"."""
        path = "/apis/serin.dev/v1alpha1/namespaces/default/changerequests?dryRun=All"
        return "There can be a delay" not in api.ask("POST", path, _ASKED)[1].get("message", "")

    eventually(known, within=timedelta(seconds=60))
    api.close()


def policy(kind: str, *, bakes: Sequence[timedelta], **changes: Any) -> Manifest:
    """The ChangePolicy `kind` that we ship, with other bakes (one a step) and other fields of its spec.

    It has no window, scope, form or watch unless `changes` give one: what is played on a bed starts at any time,
    changes whatever it likes, and ends with its promotion.
    """
    shipped: Manifest = yaml.safe_load((ROOT / "policies" / f"{kind}.yaml").read_text())
    spec = {name: value for name, value in shipped["spec"].items() if name not in ("window", "scope", "form", "after")}
    for step, bake in zip(spec["steps"], bakes, strict=True):
        step["bake"] = f"{int(bake / timedelta(milliseconds=1))}ms"
    return {**shipped, "spec": {**spec, **changes}}


def decision(request: Manifest, action: str, reason: str, name: str) -> Manifest:
    """A ChangeDecision, called `name`, about what a ChangeRequest asks for as it is now."""
    meta, spec = request["metadata"], request["spec"]
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeDecision",
        "metadata": {"name": name, "namespace": meta["namespace"]},
        "spec": {
            "change": spec["changeId"],
            "changeUid": meta["uid"],
            "revision": request["status"]["revision"],
            "type": spec["type"],
            "action": action,
            "reason": reason,
        },
    }


def audit_file(bed: Bed, name: str = "serin") -> Path:
    """Where a controller of that name appends its audit trail."""
    return bed.directory / f"{name}.audit.jsonl"


def controller(bed: Bed, name: str = "serin", *, port: int = LISTEN_PORT, **settings: str) -> Process:
    """The controller, as `serin run` on the bed's kubeconfig; not started yet."""
    environment = {
        "KUBECONFIG": str(bed.kubeconfig()),
        "SERIN_PROMETHEUS_URL": bed.prometheus_url,
        "SERIN_LISTEN": f"{bed.host}:{port}",
        "SERIN_MEASURE_INTERVAL": "1s",
        "SERIN_AUDIT_FILE": str(audit_file(bed, name)),
        **IN_THE_IMAGE,
        **settings,
    }
    return Process(name, [sys.executable, "-m", "controller", "run"], bed.directory / f"{name}.log", env=environment)


class App:
    """The demo workload `shop` under a name of its own: a Deployment, a Service, and a route when it has a host."""

    def __init__(self, bed: Bed, namespace: str, name: str = "shop", *, replicas: int = 4, routed: bool = True) -> None:
        self.bed, self.namespace, self.name, self.replicas, self.routed = bed, namespace, name, replicas, routed

    @property
    def host(self) -> str:
        return f"{self.name}.{self.namespace}.test"

    def deployment(
        self,
        version: str,
        change: str = "",
        *,
        kind: str = "",
        annotations: Mapping[str, str] | None = None,
        **environment: str,
    ) -> Manifest:
        """Version `version`, with the faults of `environment` (ERROR_RATIO, CRASH_AFTER, …), under a change ID."""
        labels = {"app": self.name}
        notes = {"serin.dev/type": kind} if kind else {}
        container = {
            "name": "shop",
            "image": f"shop:{version}",
            "command": ["shop", "serve"],
            "env": [{"name": key, "value": value} for key, value in {"VERSION": version, **environment}.items()],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": {**labels, **({"serin.dev/change": change} if change else {})},
                "annotations": {**notes, **(annotations or {})},
            },
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
                },
            },
        }

    def surroundings(self) -> list[Manifest]:
        labels = {"app": self.name}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        }
        return [service, self.route()] if self.routed else [service]

    def route(self) -> Manifest:
        return {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {
                "parentRefs": [GATEWAY],
                "hostnames": [self.host],
                "rules": [{"backendRefs": [{"name": self.name, "port": 80}]}],
            },
        }

    def begin(self, version: str = "v1", **environment: str) -> None:
        """The application as it was before Serin came: no label, running, reachable."""
        if self.namespace not in {item["metadata"]["name"] for item in self.bed.get("namespaces")["items"]}:
            self.bed.kubectl("create", "namespace", self.namespace)
        self.apply(self.deployment(version, annotations=None, **environment), *self.surroundings())
        self.bed.kubectl("rollout", "status", f"deployment/{self.name}", "-n", self.namespace, "--timeout=60s")
        if self.routed:
            eventually(lambda: answers(self.bed.gateway_url, host=self.host), within=timedelta(seconds=30))

    def apply(self, *manifests: Manifest, user: str = "admin") -> str:
        """Client-side `kubectl apply -f`, as most people do it."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        return self.bed.kubectl("apply", "-f", "-", stdin=text, user=user)

    def change(
        self, version: str, change: str, *, kind: str = "standard", user: str = "alice", **environment: str
    ) -> None:
        self.apply(self.deployment(version, change, kind=kind, annotations=None, **environment), user=user)

    # --- What is to be seen ---

    def status(self, change: str) -> dict[str, Any]:
        """status of the ChangeRequest; empty while there is none."""
        found = self.bed.kubectl("get", "chg", change.lower(), "-n", self.namespace, "-o", "json", "--ignore-not-found")
        return dict(json.loads(found).get("status") or {}) if found else {}

    def wait(
        self, change: str, *phases: str, reason: str = "", within: timedelta = timedelta(seconds=60)
    ) -> dict[str, Any]:
        """Until the change is in one of these phases (with `reason`, and for it); its status then."""
        wanted = phases or TERMINAL
        deadline = time.monotonic() + within.total_seconds()
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            status = self.status(change)
            if status.get("phase") in wanted and reason in ("", status.get("reason")):
                return status
            if status.get("phase") in TERMINAL:
                break
            time.sleep(0.1)
        story = [f"{t['phase']}/{t.get('stage', '')} {t['weight']} {t['reason']}" for t in status.get("history", [])]
        where = f"{status.get('phase')} ({status.get('reason')}: {status.get('message')})"
        raise BedError(f"{change} is {where}, not {' or '.join(wanted)} {reason}; {story}")

    def live(self) -> dict[str, Any]:
        found: dict[str, Any] = self.bed.get("deployment", self.name, "-n", self.namespace)
        return found

    def weights(self) -> dict[str, int]:
        """Service to weight in the first rule of the route."""
        found = self.bed.get("httproute", self.name, "-n", self.namespace)
        return {ref["name"]: ref.get("weight", 1) for ref in found["spec"]["rules"][0]["backendRefs"]}

    def leftovers(self) -> list[str]:
        """Objects that belong to a run."""
        kinds = "deployments,services,networkpolicies,poddisruptionbudgets"
        return [
            f"{item['kind']}/{item['metadata']['name']}"
            for item in self.bed.get(kinds, "-n", self.namespace, "-l", "serin.dev/run")["items"]
        ]
