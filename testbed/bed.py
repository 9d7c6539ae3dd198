"""A cluster made of processes.

    with Bed(Options(components=CONTROL_PLANE)) as bed:
        bed.kubectl("apply", "-f", "-", stdin=text, user="alice")

Entering a bed moves the calling process into a network namespace of its own (see `testbed.namespace`), so everything at
`bed.host`, the pods' addresses included, is reached with ordinary clients from this process and its children, and from
nowhere else. Several beds may live in one process, and any number of processes may each have theirs.
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlencode

from testbed import build, control_plane, gateway, kwok, namespace, prometheus
from testbed.control_plane import ADMIN, NODE, PARTS, Manifest
from testbed.errors import BedError
from testbed.load import Load
from testbed.process import Process
from testbed.waiting import eventually

CONTROL_PLANE: frozenset[str] = frozenset()
EVERYTHING = frozenset({"node", "gateway", "prometheus"})
COMPONENTS = EVERYTHING | {"kwok"}

DIRECTORY_PREFIX = "serin-testbed-"
USERS: Mapping[str, Sequence[str]] = {"alice": (), "bob": (), "carol": (), "cto": (), "mallory": ()}

# Waits for the end of its input, which is the end of the bed; processes may still be writing while they die.
_JANITOR = 'cat; for _ in 1 2 3 4 5 6 7 8 9; do rm -rf "$0" 2>/dev/null && exit; sleep 0.2; done'

_CONTROL_PLANE_TOOLS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
_TOOLS = {"node": "shop", "gateway": "contour", "prometheus": "prometheus", "kwok": "kwok"}

_slots_in_use: set[int] = set()


@dataclass(frozen=True)
class Options:
    """What a bed has. The control plane is always there; `components` are the names of what comes on top."""

    components: frozenset[str] = EVERYTHING
    users: Mapping[str, Sequence[str]] = field(default_factory=lambda: USERS)
    """Name → groups. Each may edit workloads in every namespace (ClusterRole `edit`); `admin` is added."""
    scrape_interval: timedelta = timedelta(seconds=2)
    work_dir: Path | None = None
    """Where logs and data go; stays when the bed ends. None: a temporary directory that goes with the bed."""

    def __post_init__(self) -> None:
        if unknown := self.components - COMPONENTS:
            raise BedError(
                f"unknown component {', '.join(sorted(unknown))}: choose from {', '.join(sorted(COMPONENTS))}"
            )

    def build(self, report: build.Report) -> None:
        """Build what this bed needs and is not there yet; in a namespace already, nothing could be downloaded."""
        build.build(report, {*_CONTROL_PLANE_TOOLS, *(_TOOLS[component] for component in self.components)})


class Bed:
    """A running cluster. Enter and leave it from the main thread."""

    def __init__(self, options: Options = Options()) -> None:
        self.options = options
        self.started_in = timedelta()
        self._processes: dict[str, Process] = {}
        self._tokens: dict[str, str] = {}
        self._slot = -1
        self._lock: IO[str] | None = None
        self._janitor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        began = time.monotonic()
        namespace.enter()
        self._slot = min(set(range(namespace.SLOTS)) - _slots_in_use, default=-1)
        if self._slot < 0:
            raise BedError(f"{namespace.SLOTS} beds are up in this process already")
        _slots_in_use.add(self._slot)
        self.host = namespace.HOSTS.format(slot=self._slot)
        self.pod_cidr = namespace.PODS.format(net=244 + self._slot)
        self.directory = self._make_directory()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.started_in = timedelta(seconds=time.monotonic() - began)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ending = [process for process in reversed(self._processes.values()) if process.alive]
        for process in ending:
            process.terminate()
        for process in ending:
            process.stop()
        if self._lock:
            self._lock.close()
        if self._janitor and self._janitor.stdin:
            self._janitor.stdin.close()
            self._janitor.wait()
        _slots_in_use.discard(self._slot)

    # ---- for its users

    def kubeconfig(self, user: str = ADMIN) -> Path:
        """Path of a kubeconfig that authenticates as `user`."""
        if user not in self._tokens:
            raise BedError(f"the bed has no user {user}: {', '.join(self._tokens)}")
        return self.directory / f"{user}.kubeconfig"

    def kubectl(self, *arguments: str, user: str = ADMIN, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as `user`; the answer is its output. Raises BedError with its words when it fails."""
        done = self.kubectl_result(*arguments, user=user, stdin=stdin)
        if check and done.returncode != 0:
            raise BedError(f"kubectl {' '.join(arguments)} (as {user}): {done.stderr.strip()}")
        return done.stdout

    def kubectl_result(
        self, *arguments: str, user: str = ADMIN, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as `user`; code, output and errors, for what is expected to be refused."""
        command = [str(build.find("kubectl")), f"--kubeconfig={self.kubeconfig(user)}", *arguments]
        environment = {**os.environ, "HOME": str(self.directory)}  # its discovery cache is the bed's, not the person's
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)

    def get(self, *arguments: str, user: str = ADMIN) -> Any:
        """`kubectl get … -o json`, decoded."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json", user=user))

    def apply(self, *manifests: Manifest, user: str = ADMIN) -> None:
        """Server-side apply of manifests."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text, user=user)

    def await_crds(self) -> None:
        """Until all are served. `kubectl wait` fails on one so new that it has no conditions yet."""

        def served() -> bool:
            conditions = [crd.get("status", {}).get("conditions") or () for crd in self.get("crd")["items"]]
            return all(any((c["type"], c["status"]) == ("Established", "True") for c in each) for each in conditions)

        eventually(served, within=timedelta(seconds=30))

    @property
    def gateway_url(self) -> str:
        """Where Envoy takes requests; the Host header chooses the route."""
        return f"http://{self.host}:{gateway.TRAFFIC_PORT}"

    @property
    def prometheus_url(self) -> str:
        return f"http://{self.host}:{prometheus.PORT}"

    async def load(self, host: str, *, rps: float = 100, duration: timedelta | None = None) -> Load:
        """Start users who send `rps` requests a second through the gateway to `host`."""
        command = (str(build.find("shop")),)
        return await Load.start(self.gateway_url, host=host, rps=rps, duration=duration, command=command)

    def query(self, promql: str) -> list[dict[str, Any]]:
        """An instant query; the answer is Prometheus's result vector, values as strings."""
        url = f"{self.prometheus_url}/api/v1/query?{urlencode({'query': promql})}"
        with urllib.request.urlopen(url, timeout=10) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    def scrape(self, job: str, *addresses: str) -> None:
        """Have Prometheus scrape /metrics of `addresses` (host:port) as `job`, besides the pods. None: no longer."""
        prometheus.write_targets(self.directory, job, addresses)

    def rules(self, name: str, *rules: Mapping[str, Any]) -> None:
        """Set the rule group `name` to `rules` (as in a Prometheus rule file); without rules it goes."""
        prometheus.write_rules(self.directory, self.host, name, rules)

    def process(self, name: str) -> Process:
        """A process of the bed, to be paused, killed, restarted."""
        if name not in self._processes:
            raise BedError(f"the bed has no process {name}: {', '.join(self._processes)}")
        return self._processes[name]

    def check(self) -> None:
        """Raise BedError, with the tail of its log, when a process has died."""
        for process in self._processes.values():
            if not process.alive:
                raise BedError(f"{process.name} has died:\n{process.tail()}")

    # ---- its parts

    def _start(self) -> None:
        """Everything that can come up beside the API server does: that is what takes the time."""
        wanted = self.options.components
        if "prometheus" in wanted:
            self._run(prometheus.process(self.directory, self.host, self.options.scrape_interval))
        self._start_control_plane()
        if "node" in wanted:
            self._run(self._node_agent())
        if "gateway" in wanted:
            self._start_gateway()
        if "kwok" in wanted:
            ready = partial(self._node_ready, kwok.NODE)
            self._run(kwok.process(self.directory, self.host, self.kubeconfig(PARTS), ready))
            self.apply(*kwok.manifests())
        api_server = self.process("kube-apiserver")
        api_server.wait_until("binding of pods", self._binds_pods, timedelta(seconds=30))
        for process in self._processes.values():
            process.wait_until_ready()
        self.check()

    def _start_control_plane(self) -> None:
        self._tokens = control_plane.write_credentials(self.directory, self.options.users)
        control_plane.write_audit_policy(self.directory)
        for user, token in self._tokens.items():
            path = self.directory / f"{user}.kubeconfig"
            path.write_text(json.dumps(control_plane.kubeconfig(self.directory, self.host, user, token), indent=1))
            path.chmod(0o600)
        etcd, api_server, controller_manager = control_plane.processes(self.directory, self.host)
        self._run(etcd)
        self._run(api_server)
        api_server.wait_until_ready()
        self._run(controller_manager)
        self.apply(*control_plane.base_manifests(self.options.users))

    def _start_gateway(self) -> None:
        files = [argument for path in gateway.crds() for argument in ("-f", str(path))]
        self.kubectl("apply", "--server-side", *files)
        self.await_crds()
        contour, envoy = gateway.processes(self.directory, self.host, self.kubeconfig(PARTS))
        self.apply(*gateway.manifests())
        self._run(contour)
        self._run(envoy)

    def _node_agent(self) -> Process:
        shop = build.find("shop").parent
        logs = self.directory / "pods"
        for directory in (logs, self.directory / "targets"):
            directory.mkdir(exist_ok=True)
        return Process(
            "node",
            [
                sys.executable, "-m", "testbed.node",
                f"--kubeconfig={self.kubeconfig(PARTS)}",
                f"--node-name={NODE}",
                f"--pod-cidr={self.pod_cidr}",
                f"--targets-dir={self.directory}/targets",
                f"--work-dir={logs}",
            ],
            self.directory / "node.log",
            ready=partial(self._node_ready, NODE),
            env={"PATH": f"{shop}{os.pathsep}{os.environ['PATH']}"},
            contain=True,
        )  # fmt: skip

    def _node_ready(self, node: str) -> bool:
        ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        return self.kubectl("get", "node", node, "-o", ready, check=False) == "True"

    def _binds_pods(self) -> bool:
        self.check()
        create = ("create", "--dry-run=server", "-f", "-", "-o", "jsonpath={.spec.nodeName}")
        return bool(self.kubectl(*create, stdin=control_plane.probe_pod(), check=False))

    def _run(self, process: Process) -> None:
        self._processes[process.name] = process
        process.start()

    def _make_directory(self) -> Path:
        """The work directory, locked as long as this process lives.

        A temporary one is removed by a janitor of its own session when the bed ends, or when this process dies.
        """
        if self.options.work_dir is not None:
            directory = self.options.work_dir.resolve()
            directory.mkdir(parents=True, exist_ok=True)
        else:
            directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
            self._janitor = subprocess.Popen(
                ["sh", "-c", _JANITOR, directory], stdin=subprocess.PIPE, start_new_session=True
            )
        self._lock = (directory / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return directory
