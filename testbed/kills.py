"""SIGKILL before and after the writes of a change: people who ask for changes, and who kills the controller meanwhile.

with Arena(bed) as arena:
    golden = arena.play(SCENARIOS)                      # nobody is killed
    killed = arena.play(SCENARIOS, EVERY)               # before and after every write, all scenarios in step
    differences(golden["complete"], killed["complete"])
"""

import asyncio
import itertools
import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, NamedTuple, Self

import yaml
from aiohttp import web

from testbed import stage
from testbed.api import Api
from testbed.bed import Bed
from testbed.control_plane import Manifest
from testbed.errors import BedError
from testbed.history import Recorder
from testbed.proxy import Answer, Thread, hang_up, kubeconfig, writes
from testbed.warm import Warm

Json = dict[str, Any]
Side = Literal["before", "after"]

QUIET = timedelta(seconds=1)
"""So long nothing more arrives: every change that is about to write has come to its write, also one that waits for its
route to be taken in."""
LEASE = "/apis/coordination.k8s.io/v1/namespaces/serin-system/leases/serin"
POLICY: Mapping[str, Any] = {
    "minRequests": 0,
    "analysis": {"statistical": "off"},
    "health": {"restartsMax": 1, "notReadyMax": "60s", "progressDeadline": "10m"},
    "drainMax": "1s",
    "capacityWaitMax": "120s",
    "slos": [],
    "metrics": {"preset": "envoy", "staleAfter": "6s"},
}
BAKES = (timedelta(seconds=2),) * 3


class Point(NamedTuple):
    """The moment of a kill: before or after the n-th write of a scenario, counted from 1."""

    write: int
    side: Side


@dataclass(frozen=True)
class Kills:
    """Which points of which application. Those of one `together`: all that are about to write die at the same time."""

    due: Callable[[str, Point], bool]
    together: bool = False


NONE = Kills(lambda namespace, point: False)
EVERY = Kills(lambda namespace, point: True, together=True)
EVERY_OTHER = Kills(lambda namespace, point: point.write % 2 == 1, together=True)
"""Before and after every other write: once between any two, and half as long."""


def one_each(points: Mapping[str, Point]) -> Kills:
    return Kills(lambda namespace, point: points.get(namespace) == point)


# --- What people do ---


@dataclass
class Play:
    """One scenario on applications in a namespace of its own."""

    arena: "Arena"
    scenario: "Scenario"
    namespace: str
    ids: Iterator[int]
    changes: list[str] = field(default_factory=list)
    """Those that were asked for, oldest first."""

    def __post_init__(self) -> None:
        self.apps = [
            stage.App(self.arena.bed, self.namespace, name, replicas=self.scenario.replicas)
            for name in self.scenario.apps
        ]
        self._script = self.scenario.script(self)
        self._waiting: Callable[[], object] | None = None

    def go_on(self) -> None:
        """Do what is to be done now."""
        while self._waiting is None or self._waiting():
            self._waiting = next(self._script, self.over)
            if self._waiting == self.over:
                return

    def over(self) -> bool:
        return bool(self.changes) and all(self.phase(change) in stage.TERMINAL for change in self.changes)

    # What is there

    def change(self, change: str) -> Json:
        return self.arena.recorder.latest("ChangeRequest", self.namespace, change.lower()) or {}

    def status(self, change: str) -> Json:
        return dict(self.change(change).get("status") or {})

    def phase(self, change: str) -> str:
        return str(self.status(change).get("phase", ""))

    def weight(self) -> int:
        route = self.arena.recorder.latest("HTTPRoute", self.namespace, self.apps[0].name) or {}
        refs = [ref for rule in route.get("spec", {}).get("rules", []) for ref in rule.get("backendRefs", [])]
        return next((int(ref.get("weight", 0)) for ref in refs if ref["name"].endswith("-canary")), 0)

    def deployment(self) -> Json:
        return self.arena.recorder.latest("Deployment", self.namespace, self.apps[0].name) or {}

    def held(self) -> str:
        return str((self.deployment().get("metadata", {}).get("annotations") or {}).get("serin.dev/held", ""))

    # What people do

    def ask(self, version: str, kind: str = "standard", user: str = "alice") -> str:
        change = f"CHG-20260101-{next(self.ids):03d}"
        manifests = [
            app.deployment(version, change, kind=kind, annotations=None, **self.scenario.environment)
            for app in self.apps
        ]
        for manifest in manifests:
            manifest["spec"].update(self.scenario.spec)
        self.apps[0].apply(*manifests, user=user)  # BedError when it is refused
        self.changes.append(change)
        return change

    def roll_back(self, change: str) -> None:
        found = self.change(change)
        decision = stage.decision(found, "Rollback", "users complain", f"{change.lower()}-rollback")
        path = f"/apis/serin.dev/v1alpha1/namespaces/{self.namespace}/changedecisions"
        code, answer = self.arena.api.ask("POST", path, decision)
        assert code == 201, answer


Script = Callable[[Play], Iterator[Callable[[], object]]]
"""Does things, and yields what has to be true before the next."""


@dataclass(frozen=True)
class Scenario:
    name: str
    script: Script
    apps: tuple[str, ...] = ("shop",)
    replicas: int = 2
    spec: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    first: bool = False
    """There is no Deployment before."""
    scaler: bool = False


def _complete(play: Play) -> Iterator[Callable[[], object]]:
    play.ask("v2")
    return
    yield


def _rollback_at(weight: int) -> Script:
    def script(play: Play) -> Iterator[Callable[[], object]]:
        change = play.ask("v2")
        yield lambda: play.weight() == weight
        play.roll_back(change)

    return script


def _rollback_in_promotion(play: Play) -> Iterator[Callable[[], object]]:
    change = play.ask("v2")
    yield lambda: play.held() == "promoting" and play.deployment()["status"].get("updatedReplicas")
    play.roll_back(change)


def _supersede(play: Play) -> Iterator[Callable[[], object]]:
    play.ask("v2")
    yield lambda: play.weight() == 10
    play.ask("v3", kind="emergency", user="admin")


def _supersede_before_the_start(play: Play) -> Iterator[Callable[[], object]]:
    first = play.ask("v2", kind="normal")
    yield lambda: play.status(first).get("reason") == "AwaitingApproval"
    play.ask("v3")


ALL_AT_ONCE = {"strategy": {"rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}}}

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("complete", _complete, scaler=True),
        Scenario("rollback-at-10", _rollback_at(10)),
        Scenario("rollback-at-50", _rollback_at(50), scaler=True),
        Scenario("rollback-at-100", _rollback_at(100)),
        Scenario("rollback-in-promotion", _rollback_in_promotion, spec={"minReadySeconds": 6}),
        Scenario("restore-in-promotion", _rollback_in_promotion, spec=ALL_AT_ONCE, environment={"START_DELAY": "5s"}),
        Scenario("supersede", _supersede),
        Scenario("supersede-before-the-start", _supersede_before_the_start),
        Scenario("first-deployment", _complete, first=True),
        Scenario("group-of-two", _complete, apps=("shop", "cart")),
    )
}


# --- Who kills ---


class Written(NamedTuple):
    """A write that the API server took."""

    method: str
    path: str


@dataclass
class _AtItsWrite:
    namespace: str
    point: Point
    dead: asyncio.Event


class Reaper:
    """Watches the writes of the controller that come through a proxy, and kills it at its points.

    Events and the Lease do not count, nor does what the API server refuses. Those that are killed together are held at
    their writes until nothing more arrives: one death is then that of all of them.
    """

    def __init__(self, kills: Kills, kill: Callable[[], None]) -> None:
        self.written: dict[str, list[Written]] = defaultdict(list)
        self.deaths = 0
        self.points: Counter[str] = Counter()
        """How many points of each namespace were hit."""
        self._kills, self._kill = kills, kill
        self._done: set[tuple[str, Point]] = set()
        self._held: list[_AtItsWrite] = []
        self._timer: asyncio.TimerHandle | None = None

    def counts(self, request: web.Request) -> bool:
        named = "/namespaces/" in request.path and "/namespaces/serin-system/" not in request.path
        return writes(request) and named and not request.path.endswith("/events")

    async def act(self, request: web.Request, exchange: Callable[[web.Request], Any]) -> web.StreamResponse:
        namespace = request.path.split("/namespaces/")[1].split("/")[0]
        number = len(self.written[namespace]) + 1
        if self._due(namespace, Point(number, "before")):
            return await self._die(request, namespace, Point(number, "before"))
        answer: Answer = await exchange(request)
        if answer.status >= 300:
            return answer.response()
        self.written[namespace].append(Written(request.method, request.path))
        if self._due(namespace, Point(number, "after")):
            return await self._die(request, namespace, Point(number, "after"))
        return answer.response()

    def _due(self, namespace: str, point: Point) -> bool:
        return self._kills.due(namespace, point) and (namespace, point) not in self._done

    async def _die(self, request: web.Request, namespace: str, point: Point) -> web.StreamResponse:
        mine = _AtItsWrite(namespace, point, asyncio.Event())
        self._held.append(mine)
        if self._timer:
            self._timer.cancel()
        wait = QUIET if self._kills.together else timedelta()
        self._timer = asyncio.get_running_loop().call_later(wait.total_seconds(), self._reap)
        await mine.dead.wait()
        return hang_up(request)

    def _reap(self) -> None:
        self._kill()
        self.deaths += 1
        for held in self._held:
            self._done.add((held.namespace, held.point))
            self.points[held.namespace] += 1
            held.dead.set()
        self._held = []


# --- Where it happens ---


@dataclass(frozen=True)
class Ended:
    """How a scenario ended: what must be the same however often the controller died."""

    changes: tuple[Json, ...]
    """Of each change, oldest first: phase, cause and its transitions."""
    objects: Json
    records: Counter[str]
    """Audit records that do not depend on when it was measured, or on whether the way back could be told."""
    audit: int
    """Length of the audit trail, all records."""
    writes: tuple[Written, ...]
    deaths: int


class Arena:
    """Serin behind a proxy on a bed, with short policies, a recorder and people."""

    def __init__(self, bed: Bed, name: str = "serin", port: int = stage.LISTEN_PORT, **settings: str) -> None:
        self.bed = bed
        self._name, self._port, self._settings = name, port, settings
        self._ids, self._names = itertools.count(1), itertools.count(1)
        self.played: list[str] = []
        """Namespaces."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._running = stack.pop_all()
        return self

    def _start(self, stack: ExitStack) -> None:
        bed, enter = self.bed, stack.enter_context
        self.thread = Thread()
        stack.callback(self.thread.close)
        config = yaml.safe_load(bed.kubeconfig().read_text())
        self.proxy = enter(self.thread.in_front_of(config["clusters"][0]["cluster"]["server"]))
        self.prometheus = enter(self.thread.in_front_of(bed.prometheus_url))
        path = kubeconfig(bed.directory / f"{self._name}.kubeconfig", self.proxy.url, config["users"][0]["user"])
        settings = {
            "KUBECONFIG": str(path),
            "SERIN_PROMETHEUS_URL": self.prometheus.url,
            "SERIN_PROMETHEUS_TIMEOUT": "2s",
            "SERIN_WORKERS": "32",
            "SERIN_LEASE_DURATION": "6s",
            "SERIN_LEASE_RENEW_DEADLINE": "4s",
            "SERIN_LEASE_RETRY": "500ms",
        }
        self.controller = Warm(stage.controller(bed, self._name, port=self._port, **settings, **self._settings))
        stack.callback(self.controller.close)
        self.api = Api(bed)
        stack.callback(self.api.close)
        for kind in ("standard", "normal", "emergency"):
            bed.apply(stage.policy(kind, bakes=BAKES, **POLICY))
        self.recorder = Recorder(bed)
        stack.callback(self.recorder.close)
        self.controller.start()

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def play(
        self,
        scenarios: Sequence[Scenario],
        kills: Kills | Callable[[Sequence[Play]], Kills] = NONE,
        within: timedelta = timedelta(minutes=5),
    ) -> list[Ended]:
        """Play them side by side until all changes have ended. BedError when they do not, or a law is broken.

        `kills` may be made when the applications are there, and other faults with them.
        """
        plays = self.set_up(scenarios)
        reaper = Reaper(kills(plays) if callable(kills) else kills, self._kill)
        fault = self.proxy.inject(lambda request: reaper.act(request, self.proxy.exchange), reaper.counts)
        try:
            self.go_on(plays, lambda: all(map(self._over, plays)), within)
        finally:
            self.proxy.lift(fault)
        ended = [self._ended(play, reaper) for play in plays]
        for play in plays:
            self.bed.kubectl("delete", "namespace", play.namespace, "--wait=false")
        return ended

    @contextmanager
    def policy(self, *, bakes: Sequence[timedelta], **changes: Any) -> Iterator[None]:
        """Standard changes that start while the block runs bake as long, and have other fields of their policy."""
        self.bed.apply(stage.policy("standard", bakes=bakes, **{**POLICY, **changes}))
        try:
            yield
        finally:
            self.bed.apply(stage.policy("standard", bakes=BAKES, **POLICY))

    def go_on(self, plays: Sequence[Play], until: Callable[[], object], within: timedelta) -> None:
        """Everybody does what is to be done, and a dead controller is started again. BedError when it takes longer."""
        deadline = time.monotonic() + within.total_seconds()
        while not until():
            self.keep_alive()
            for play in plays:
                play.go_on()
            if time.monotonic() > deadline:
                raise BedError(self._stuck(plays))
            time.sleep(0.02)
        self.keep_alive()

    def keep_alive(self) -> None:
        """Start a new controller when it is dead: its lease is free at once, as its end was seen."""
        if not self.controller.alive:
            self.api.ask("PATCH", LEASE, {"spec": {"holderIdentity": None}})
            self.controller.start()

    def _kill(self) -> None:
        if self.controller.alive:
            os.killpg(self.controller.pid, signal.SIGKILL)

    def set_up(self, scenarios: Sequence[Scenario]) -> list[Play]:
        """v1 of all applications, ready, as it was before Serin came."""
        plays = [Play(self, scenario, f"{scenario.name[:40]}-{next(self._names)}", self._ids) for scenario in scenarios]
        self.played += [play.namespace for play in plays]
        self.bed.apply(
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": play.namespace}} for play in plays)
        )
        manifests: list[Manifest] = []
        for play in plays:
            for app in play.apps:
                made = app.deployment("v1")
                made["spec"].update({k: v for k, v in play.scenario.spec.items() if k != "minReadySeconds"})
                manifests += [*([] if play.scenario.first else [made]), *app.surroundings()]
            if play.scenario.scaler:
                manifests.append(scaler(play.apps[0]))
        plays[0].apps[0].apply(*manifests)
        apps = [app for play in plays if not play.scenario.first for app in play.apps]
        for app in apps:
            self.bed.kubectl("rollout", "status", f"deployment/{app.name}", "-n", app.namespace, "--timeout=90s")
        return plays

    def _over(self, play: Play) -> bool:
        """And its ends are behind the controller too."""
        return play.over() and not any(play.change(change)["metadata"].get("finalizers") for change in play.changes)

    def _stuck(self, plays: Sequence[Play]) -> str:
        lines = []
        for play in plays:
            for change in play.changes if not play.over() else ():
                status = play.status(change)
                lines.append(f"{play.namespace} {change}: {status.get('phase')} {status.get('reason')}")
        return f"not at an end: {lines}\n{self.controller.tail(30)}"

    def _ended(self, play: Play, reaper: Reaper) -> Ended:
        lines = stage.audit_file(self.bed, self._name).read_text().splitlines()
        records = [r for r in map(json.loads, lines) if r["namespace"] == play.namespace]
        return Ended(
            changes=tuple(_journey(play.status(change)) for change in play.changes),
            objects={app.name: _rest(self, app) for app in play.apps},
            records=Counter(_told(r) for r in records if _counts(r)),
            audit=len(records),
            writes=tuple(reaper.written[play.namespace]),
            deaths=reaper.points[play.namespace],
        )


def scaler(app: stage.App) -> Manifest:
    """Nobody serves metrics here, so it keeps to its bounds and does no more."""
    target = {"type": "Utilization", "averageUtilization": 80}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": app.name, "namespace": app.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": app.name},
            "minReplicas": 1,
            "maxReplicas": 6,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _journey(status: Json) -> Json:
    moves = [[t["phase"], t.get("stage", ""), t["step"], t["weight"], t["reason"]] for t in status["history"]]
    return {"phase": status["phase"], "cause": status.get("cause", ""), "moves": moves}


def _rest(arena: Arena, app: stage.App) -> Json:
    """What is left of an application when its changes are over, without what differs from run to run."""
    latest = arena.recorder.latest
    d = latest("Deployment", app.namespace, app.name) or {}
    route = latest("HTTPRoute", app.namespace, app.name) or {}
    found = latest("HorizontalPodAutoscaler", app.namespace, app.name)
    return {
        "image": d["spec"]["template"]["spec"]["containers"][0]["image"],
        "replicas": d["spec"]["replicas"],
        "paused": bool(d["spec"].get("paused")),
        "held": (d["metadata"].get("annotations") or {}).get("serin.dev/held", ""),
        "backends": [rule["backendRefs"] for rule in route["spec"]["rules"]],
        "minReplicas": found["spec"]["minReplicas"] if found else None,
        "leftovers": app.leftovers(),
    }


def _counts(record: Json) -> bool:
    """Verdicts come with the measurements; a write of the way back is made first, and who dies then tells of none."""
    return record["kind"] not in ("verdict", "write", "warning")


def _told(record: Json) -> str:
    what = record["what"]
    told = [what.get(key, "") for key in ("phase", "stage", "step", "weight", "reason", "action", "write")]
    return f"{record['kind']} {' '.join(map(str, told))}".strip()


def differences(golden: Ended, killed: Ended) -> list[str]:
    """In what the second one ended otherwise than the first.

    A group that people apply may be recorded whole, or with one Deployment and amended by the other: as the looks fall.
    """
    found = []
    for name in ("changes", "objects", "records"):
        one, other = getattr(golden, name), getattr(killed, name)
        if name == "records" and abs(one["amended"] - other["amended"]) <= 1:
            one, other = (Counter({told: n for told, n in each.items() if told != "amended"}) for each in (one, other))
        if one != other:
            found.append(f"{name}: {other}, not {one}")
    return found
