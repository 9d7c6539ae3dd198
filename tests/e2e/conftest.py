"""Serin on the bed of this session: one controller, short policies, and for each test a namespace and an App.

Bakes and the process's "5 minutes" are scaled down here; that they are 5 minutes is tested in tests/core.

Tests that take `app` run side by side, SIDE_BY_SIDE at a time in threads of their own, all of a module from its first
one on: a journey is mostly waiting. One that is marked `alone` runs when those of its module are over, in the main
thread: what hurts the controller or Prometheus has to.
"""

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from testbed import stage
from testbed.api import Api
from testbed.bed import Bed
from testbed.load import Load, Summary
from testbed.process import Process
from testbed.waiting import eventually
from tests.e2e.hooks import Hooks

HERE = Path(__file__).parent
SIDE_BY_SIDE = 5
"""Applications, each with pods and users of its own: two cores are busy with them."""
BAKE = timedelta(seconds=3)
POLICY: Mapping[str, Any] = {
    "minRequests": 8,
    "analysis": {"statistical": "off"},  # it would be faster than each of the process's own criteria
    **stage.LIMITS,
    "health": {"restartsMax": 1, "notReadyMax": "5s", "progressDeadline": "60s"},
    "drainMax": "8s",
}
LEASE = {"SERIN_LEASE_DURATION": "10s", "SERIN_LEASE_RENEW_DEADLINE": "8s", "SERIN_LEASE_RETRY": "500ms"}
"""Shorter than as shipped, for those who wait for a takeover. A leader that cannot renew it in time ends, and nothing
here starts it again: two cores that are busy for some seconds must not be the end of all tests."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: runs in the main thread when the other tests of its module are over")


class Users:
    """Requests through the gateway to one App, until `stop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, load: Load) -> None:
        self._loop, self.load = loop, load
        self._summary: Summary | None = None

    def stop(self) -> Summary:
        """All that they saw."""
        if self._summary is None:
            self._summary = asyncio.run_coroutine_threadsafe(self.load.stop(), self._loop).result(20)
        return self._summary


class Serin:
    """What all tests share: the bed, the controller, the policy in force, and a loop that the users run in."""

    def __init__(self, bed: Bed, controller: Process, hooks: Hooks) -> None:
        self.bed, self.controller, self.hooks, self.api = bed, controller, hooks, Api(bed)
        self._policies: dict[str, Mapping[str, Any]] = {}
        self._using: Counter[str] = Counter()
        self._turn = threading.Condition()
        self._ids = itertools.count(1)
        self._names = itertools.count(1)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        self.api.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def change_id(self) -> str:
        """Of a day that is not today: those that Serin gives are of today."""
        return f"CHG-20260101-{next(self._ids):03d}"

    def namespace(self, test: str) -> str:
        plain = test.removeprefix("test_").replace("_", "-").partition("[")[0]
        return f"{plain[:40].strip('-')}-{next(self._names)}"

    @contextmanager
    def policy(self, wanted: Mapping[str, Any], kind: str = "standard") -> Iterator[None]:
        """While the block runs, the policy `kind` is POLICY with the fields of `wanted` instead.

        Those that want the same share it, the others wait. A change keeps the policy that it started with.
        """
        with self._turn:
            self._turn.wait_for(lambda: not self._using[kind] or self._policies.get(kind) == wanted)
            if self._policies.get(kind) != wanted:
                self.bed.apply(stage.policy(kind, bakes=(BAKE, BAKE, BAKE), **{**POLICY, **wanted}))
                self._policies[kind] = wanted
            self._using[kind] += 1
        try:
            yield
        finally:
            with self._turn:
                self._using[kind] -= 1
                self._turn.notify_all()

    def forget_policies(self) -> None:
        """Somebody else wrote them."""
        self._policies.clear()

    def log_of(self, namespace: str) -> str:
        """The controller's lines about a namespace."""
        lines = self.controller.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if f'"{namespace}"' in line or f"{namespace}/" in line)

    def lines(self, namespace: str, event: str) -> list[dict[str, Any]]:
        """The controller's log records of one kind about a namespace."""
        records = [json.loads(line) for line in self.log_of(namespace).splitlines() if line.startswith("{")]
        return [record for record in records if record.get("event") == event]


class Played(stage.App):
    """An App of a test's own, with what tests look at."""

    def __init__(self, serin: Serin, namespace: str, name: str = "shop", **options: Any) -> None:
        super().__init__(serin.bed, namespace, name, **options)
        self.serin = serin
        self.run: Future[None] | None = None
        """The test that plays on it, under way in a thread."""

    def start(self, version: str, *, policy: Mapping[str, Any] | None = None, user: str = "alice", **more: Any) -> str:
        """Apply `version` under a new change ID and a policy of this test's own; returns the ID when it has started."""
        change = self.serin.change_id()
        with self.serin.policy(policy or {}):
            self.change(version, change, user=user, **more)
            self.started(change)
        return change

    def started(self, change: str) -> dict[str, Any]:
        """Until it does not wait any more, and has its policy."""
        under_way = ("Progressing", "Promoting", "RollingBack", *stage.TERMINAL)
        return self.wait(change, *under_way, within=timedelta(seconds=60))

    @contextmanager
    def users(self, rps: float = 50) -> Iterator[Users]:
        """Users who send requests while the block runs."""
        start = asyncio.run_coroutine_threadsafe(self.bed.load(self.host, rps=rps), self.serin.loop)
        users = Users(self.serin.loop, start.result(20))
        try:
            yield users
        finally:
            users.stop()

    # --- What is to be seen ---

    def read(self, group: str, plural: str, name: str = "") -> dict[str, Any] | None:
        """An object of the namespace, or their list: `read("apis/apps/v1", "deployments", "shop")`."""
        return self.serin.api.get(f"/{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else ""))

    def items(self, group: str, plural: str) -> list[dict[str, Any]]:
        return list((self.read(group, plural) or {})["items"])

    def status(self, change: str) -> dict[str, Any]:
        found = self.read("apis/serin.dev/v1alpha1", "changerequests", change.lower())
        return dict((found or {}).get("status") or {})

    def live(self) -> dict[str, Any]:
        found = self.read("apis/apps/v1", "deployments", self.name)
        assert found is not None
        return found

    def rules(self) -> list[dict[str, Any]]:
        """The route's rules as they are."""
        found = self.read("apis/gateway.networking.k8s.io/v1", "httproutes", self.name)
        assert found is not None
        return list(found["spec"]["rules"])

    def pods(self, version: str = "") -> dict[str, dict[str, Any]]:
        """UID to pod, of one version or of all; without those that are being deleted."""
        return {
            pod["metadata"]["uid"]: pod
            for pod in self.items("api/v1", "pods")
            if pod["spec"]["containers"][0]["image"].endswith(f":{version}" if version else "")
            and "deletionTimestamp" not in pod["metadata"]
        }

    def told(self, kind: str, reason: str) -> None:
        """Wait for an Event: they are written in the background."""
        eventually(lambda: reason in self.events(kind), within=timedelta(seconds=20))

    def events(self, kind: str) -> list[str]:
        """Reasons of the Events that Serin wrote about objects of `kind`, oldest first."""
        found = [
            event
            for event in self.items("api/v1", "events")
            if event["involvedObject"]["kind"] == kind and event["source"].get("component") == "serin"
        ]
        return [event["reason"] for event in sorted(found, key=lambda e: str(e["metadata"]["name"]))]


# --- Fixtures ---


@pytest.fixture(scope="session")
def serin(bed: Bed) -> Iterator[Serin]:
    stage.install(bed)
    hooks = Hooks()
    controller = stage.controller(bed, "serin", port=stage.LISTEN_PORT, **LEASE, **hooks.settings)
    controller.start()
    serin = Serin(bed, controller, hooks)
    for kind, least in (("standard", 9), ("normal", 0), ("emergency", 0)):  # not the shipped ones
        with serin.policy({"minRequests": least}, kind):
            pass
    yield serin
    serin.close()
    controller.stop()
    hooks.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are alone come after those that run side by side: they wait for all of them."""
    here = [i for i, item in enumerate(items) if item.path.parent == HERE]
    ours = sorted((items[i] for i in here), key=lambda item: item.get_closest_marker("alone") is not None)
    for i, item in zip(here, ours, strict=True):
        items[i] = item


@pytest.fixture(scope="session")
def apps(request: pytest.FixtureRequest, serin: Serin) -> Iterator[Mapping[str, Played]]:
    """The app of every test that takes one, by node ID; those that are not alone are on their way."""
    found = {}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.path.parent == HERE and "app" in item.fixturenames:
                app = Played(serin, serin.namespace(item.name))
                if item.get_closest_marker("alone") is None:
                    app.run = pool.submit(_play, item, app)
                found[item.nodeid] = app
        yield found


def _play(item: pytest.Function, app: Played) -> None:
    try:
        app.begin()
        item.obj(app, **(item.callspec.params if hasattr(item, "callspec") else {}))
    finally:
        app.bed.kubectl("delete", "namespace", app.namespace, "--wait=false", check=False)


@pytest.fixture
def app(request: pytest.FixtureRequest, apps: Mapping[str, Played]) -> Iterator[Played]:
    """An application v1 with 4 replicas and a route, running, in a namespace of this test's own."""
    app = apps[request.node.nodeid]
    if app.run is None:
        wait([other.run for other in apps.values() if other.run])
        app.begin()
    yield app
    if app.run is None:
        app.bed.kubectl("delete", "namespace", app.namespace, "--wait=false", "--ignore-not-found")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test that runs side by side with others is not called, but waited for."""
    app = pyfuncitem.funcargs.get("app")
    if not isinstance(app, Played) or app.run is None:
        return None
    app.run.result()
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure is shown with what the controller logged about its namespace."""
    report = yield
    app = item.funcargs.get("app") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(app, Played):
        report.sections.append((f"controller about {app.namespace}", app.serin.log_of(app.namespace)[-12000:]))
    return report
