"""People who ask for changes to the workloads of a plan, one turn after the other, and what becomes of each change."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from benchmarks.soak.figures import Played
from benchmarks.soak.plan import PROMOTION, WAYS, Shape, Turn, Workload
from testbed import stage
from testbed.api import Api
from testbed.bed import USERS, Bed
from testbed.control_plane import ADMIN, Manifest
from testbed.errors import BedError
from testbed.history import Recorder
from testbed.kills import scaler
from testbed.waiting import eventually

T = TypeVar("T")
Json = dict[str, Any]

ENDS_WITHIN = timedelta(minutes=8)
"""Whatever is done to the platform meanwhile: for a third of the time in which it is killed, nobody leads."""
LOOK = 0.1
KEPT = 2
"""Ended ChangeRequests of a workload that stay; people delete older ones, so that memory that grows is a leak."""
RUN = "serin.dev/run"
SERIN = "/apis/serin.dev/v1alpha1"
COLLECTOR = "system:serviceaccount:kube-system:generic-garbage-collector"
"""Who may delete a canary: people may not, admission refuses it."""
AT_ONCE = 3
"""kubectl at the same time."""


class Ground:
    """What all workloads share: the bed, what is seen of it, and people, who are never behind the proxy."""

    def __init__(self, bed: Bed, recorder: Recorder) -> None:
        self.bed, self.recorder = bed, recorder
        self.people = {user: Api(bed, user) for user in (ADMIN, *USERS)}
        self.ids: Iterator[int] = itertools.count(1)
        self.typing = asyncio.Semaphore(AT_ONCE)
        self.working = asyncio.Event()
        """While it is not set, nobody begins anything."""
        self.busy = 0
        self.over = False
        self.played: list[Played] = []
        self.wrong: list[str] = []

    def close(self) -> None:
        for api in self.people.values():
            api.close()

    async def ask(self, method: str, path: str, body: Json | None = None, user: str = ADMIN) -> tuple[int, Json]:
        return await asyncio.to_thread(self.people[user].ask, method, path, body)

    async def rest(self) -> None:
        """Until every turn is at its end."""
        self.working.clear()
        await asyncio.to_thread(eventually, lambda: not self.busy, 2 * ENDS_WITHIN)


class Team:
    """The people of one workload."""

    def __init__(self, ground: Ground, workload: Workload) -> None:
        self.ground, self.workload, self.namespace = ground, workload, workload.namespace
        routed = workload.shape is not Shape.NATIVE
        self.apps = [
            stage.App(ground.bed, workload.namespace, name, replicas=workload.replicas, routed=routed)
            for name in workload.names
        ]
        self._versions: Iterator[int] = itertools.count(2)
        self._ended: list[str] = []
        self._stable: tuple[str, str] = ("v1", "")
        """Version and change."""

    def begins_with(self) -> list[Manifest]:
        """v1, before Serin came."""
        found = [m for app in self.apps for m in (self._deployment(app, "v1", ""), *app.surroundings())]
        return found + ([scaler(self.apps[0])] if self.workload.shape is Shape.SCALED else [])

    async def work(self) -> None:
        """Turn after turn, until it is over."""
        for turn in itertools.cycle(self.workload.turns):
            await asyncio.sleep(turn.rest.total_seconds())
            await self.ground.working.wait()
            if self.ground.over:
                return
            self.ground.busy += 1
            try:
                await self._play(turn)
            except Exception as error:  # whatever it is: the others go on, and it is told in the end
                who = f"{self.namespace} {'+'.join(self.workload.names)}"
                self.ground.wrong.append(f"{who}, {turn}: {type(error).__name__}: {error}")
                if isinstance(error, TimeoutError):
                    return  # nothing more can be asked of it
            finally:
                self.ground.busy -= 1

    async def _play(self, turn: Turn) -> None:
        way, version = WAYS[turn.way], self._version()
        began_at = datetime.now(UTC)
        played = Played(self.workload.names, self.namespace, turn, version, began_at, began_at + ENDS_WITHIN)
        self.ground.played.append(played)
        change = await self.apply(played, version, way.kind, **way.version)
        if act := ACTS.get(turn.way):
            await act(self, played, change)
        for each in played.changes:
            status = await self.until(lambda each=each: self._done(each), f"{each} ends")  # type: ignore[misc]
            played.phases.append(status["phase"])
            played.causes.append(status.get("cause", ""))
            if status["phase"] == "Completed":
                self._stable = (played.version if each == change else f"v{self._newest}", each)
        played.ended_at = datetime.now(UTC)
        if not played.as_planned:
            raise BedError("; ".join(self.story(each) for each in played.changes))
        await self._clear_away(played.changes)

    async def _clear_away(self, changes: list[str]) -> None:
        self._ended += changes
        while len(self._ended) > KEPT:
            path = f"{SERIN}/namespaces/{self.namespace}/changerequests/{self._ended.pop(0).lower()}"
            code, answer = await self.ground.ask("DELETE", path)
            assert code in (200, 202), answer

    # --- What people do ---

    async def apply(self, played: Played, version: str, kind: str, user: str = "alice", **environment: str) -> str:
        """BedError when it is refused."""
        change = f"CHG-20260101-{next(self.ground.ids):03d}"
        manifests = [self._deployment(app, version, change, kind, **environment) for app in self.apps]
        async with self.ground.typing:
            await asyncio.to_thread(self.apps[0].apply, *manifests, user=user)
        played.changes.append(change)
        return change

    async def put_stable_back(self) -> None:
        """The manifest of what runs: where a rejected template is held, that one is released at once."""
        version, change = self._stable
        manifests = [
            self._deployment(app, version, change or f"CHG-20260101-{next(self.ground.ids):03d}") for app in self.apps
        ]
        async with self.ground.typing:
            await asyncio.to_thread(self.apps[0].apply, *manifests)

    async def decide(self, change: str, action: str, user: str = ADMIN) -> None:
        """As a ChangeDecision. AssertionError when it is refused."""
        found = self.change(change)
        decision = stage.decision(found, action, "as planned", f"{change.lower()}-{action.lower()}-{user}")
        path = f"{SERIN}/namespaces/{self.namespace}/changedecisions"
        code, answer = await self.ground.ask("POST", path, decision, user)
        assert code == 201, answer.get("message")

    async def reaches(self, change: str, weight: int) -> bool:
        """Until the change has this share of the traffic, or is promoted; False when it is on its way back or over."""

        def there() -> str:
            status = self.status(change)
            if status.get("phase") in (*stage.TERMINAL, "RollingBack"):
                return "over"
            if weight == PROMOTION:
                return "there" if status.get("phase") == "Promoting" else ""
            return "there" if status.get("phase") == "Progressing" and self.weight() >= weight else ""

        return await self.until(there, f"{change} reaches {weight} %") == "there"

    async def kubectl(self, *arguments: str) -> None:
        async with self.ground.typing:
            await asyncio.to_thread(self.ground.bed.kubectl, *arguments, "-n", self.namespace)

    async def kill_pod(self, played: Played, *, canary: bool) -> None:
        """Without grace: nobody is told before it is gone."""
        code, found = await self.ground.ask("GET", f"/api/v1/namespaces/{self.namespace}/pods")
        assert code == 200, found
        name = self.workload.names[0]
        mine = [
            pod["metadata"]["name"]
            for pod in found["items"]
            if pod["metadata"]["name"].startswith(f"{name}-")
            and pod["metadata"]["name"].startswith(f"{name}-canary-") == canary
            and "deletionTimestamp" not in pod["metadata"]
        ]
        if mine:
            played.harmed_at.append(datetime.now(UTC))
            path = f"/api/v1/namespaces/{self.namespace}/pods/{min(mine)}"
            code, answer = await self.ground.ask("DELETE", path, {"gracePeriodSeconds": 0})
            assert code in (200, 202, 404), answer

    # --- What is to be seen ---

    def change(self, change: str) -> Json:
        return self.ground.recorder.latest("ChangeRequest", self.namespace, change.lower()) or {}

    def status(self, change: str) -> Json:
        return dict(self.change(change).get("status") or {})

    def story(self, change: str) -> str:
        """How it came to be as it is: its transitions, the last verdicts, and its canaries and weights as they came."""
        status = self.status(change)
        moves = [
            f"{h['at']} {h['phase']}/{h.get('stage', '-')} {h['step']} {h['reason']} ({h.get('message')})"
            for h in status.get("history") or []
        ]
        verdicts = [f"{e['verdict']} {e['message']}" for e in status.get("evidence") or []]
        history, seen, last = self.ground.recorder.history([self.namespace]), [], ""
        for v in history:
            if RUN in (v.object["metadata"].get("labels") or {}):
                what = f"{v.kind} {v.name} {'gone' if v.deleted else 'there'}"
            elif v.kind == "HTTPRoute":
                what = f"route {v.name} {[r.get('backendRefs') for r in v.object['spec'].get('rules') or []]}"
            else:
                continue
            if what != last and v.seen_at and v.seen_at.isoformat() >= str(status.get("startedAt")):
                seen.append(f"{v.seen_at:%H:%M:%S.%f} {what}")
            last = what
        return f"{change} {status.get('phase')} {status.get('message')}: {moves}; {verdicts}; {seen}"

    def weight(self) -> int:
        route = self.ground.recorder.latest("HTTPRoute", self.namespace, self.workload.names[0]) or {}
        refs = [ref for rule in route.get("spec", {}).get("rules", []) for ref in rule.get("backendRefs", [])]
        return next((int(ref.get("weight", 0)) for ref in refs if ref["name"].endswith("-canary")), 0)

    def _done(self, change: str) -> Json:
        """Its status when it has ended and Serin has nothing more to do for it."""
        status = self.status(change)
        over = status.get("phase") in stage.TERMINAL and not self.change(change)["metadata"].get("finalizers")
        return status if over else {}

    async def until(self, read: Callable[[], T], what: str) -> T:
        """The first true answer. TimeoutError when there is none in ENDS_WITHIN."""
        deadline = time.monotonic() + ENDS_WITHIN.total_seconds()
        while not (answer := read()):
            if time.monotonic() > deadline:
                active = self.ground.recorder.history([self.namespace])
                told = {v.name: v.object.get("status", {}) for v in active if v.kind == "ChangeRequest"}
                under_way = {n: s.get("message") for n, s in told.items() if s.get("phase") not in stage.TERMINAL}
                raise TimeoutError(f"{what}: not within {ENDS_WITHIN}; {under_way}")
            await asyncio.sleep(LOOK)
        return answer

    async def waits(self, change: str) -> None:
        await self.until(lambda: self.status(change).get("phase") == "Waiting", f"{change} waits")
        await self.until(lambda: self.status(change).get("reason") == "AwaitingApproval", f"{change} awaits approval")

    # --- Small things ---

    def version(self) -> str:
        return self._version()

    def _version(self) -> str:
        self._newest = next(self._versions)
        return f"v{self._newest}"

    def _deployment(self, app: stage.App, version: str, change: str, kind: str = "", **environment: str) -> Manifest:
        made = app.deployment(version, change, kind=kind, annotations=None, **environment)
        made["spec"]["revisionHistoryLimit"] = 2
        return made


Act = Callable[[Team, Played, str], Awaitable[None]]


async def approved(team: Team, played: Played, change: str) -> None:
    await team.waits(change)
    for user in ("bob", ADMIN):
        await team.decide(change, "Approve", user)


async def loses_the_role(team: Team, played: Played, change: str) -> None:
    """Of two approvals that are needed, that of somebody who may not approve any more counts for nothing."""
    await team.waits(change)
    bindings = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{team.namespace}/rolebindings"
    name = f"mallory-{change.lower()}"
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "serin-approver-normal"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    }
    code, answer = await team.ground.ask("POST", bindings, binding)
    assert code == 201, answer
    await asyncio.sleep(1)  # the authorizer hears of it by a watch
    await team.decide(change, "Approve", "mallory")
    code, answer = await team.ground.ask("DELETE", f"{bindings}/{name}")
    assert code == 200, answer
    await asyncio.sleep(1)
    await team.decide(change, "Approve", "bob")
    await asyncio.sleep(4)
    assert team.status(change)["phase"] == "Waiting", "started on an approval by somebody who lost the role"
    await team.decide(change, "Approve", ADMIN)


async def denied(team: Team, played: Played, change: str) -> None:
    await team.waits(change)
    await team.decide(change, "Deny", "bob")


async def newer_one(team: Team, played: Played, change: str) -> None:
    await team.waits(change)
    await team.apply(played, team.version(), "standard")


async def emergency(team: Team, played: Played, change: str) -> None:
    assert await team.reaches(change, played.turn.weight)
    await team.apply(played, team.version(), "emergency", ADMIN)


async def refused(team: Team, played: Played, change: str) -> None:
    assert await team.reaches(change, played.turn.weight)
    other = Played(played.deployments, played.namespace, played.turn, "", played.began_at, played.ended_at)
    said = ""
    try:
        await team.apply(other, team.version(), "standard")
    except BedError as error:
        said = str(error)
    assert "is running on this Deployment" in said, said or "another template was let in while a change runs"


async def rolled_back(team: Team, played: Played, change: str) -> None:
    if await team.reaches(change, played.turn.weight):
        await team.decide(change, "Rollback", "alice")


async def paused(team: Team, played: Played, change: str) -> None:
    assert await team.reaches(change, played.turn.weight)
    await team.decide(change, "Pause", "alice")
    await team.until(lambda: team.status(change).get("reason") == "Paused", f"{change} pauses")
    weight = team.weight()
    await asyncio.sleep(15)
    assert (team.status(change)["phase"], team.weight()) == ("Progressing", weight)
    await team.decide(change, "Resume", "alice")


async def promoted(team: Team, played: Played, change: str) -> None:
    assert await team.reaches(change, played.turn.weight)
    await team.decide(change, "Promote", "bob")


async def canary_deleted(team: Team, played: Played, change: str) -> None:
    assert await team.reaches(change, played.turn.weight)
    played.harmed_at.append(datetime.now(UTC))
    await team.kubectl("delete", f"deployment/{team.workload.names[0]}-canary", "--wait=false", f"--as={COLLECTOR}")


async def weights_reset(team: Team, played: Played, change: str) -> None:
    assert await team.reaches(change, played.turn.weight)
    played.harmed_at.append(datetime.now(UTC))
    async with team.ground.typing:
        await asyncio.to_thread(team.apps[0].apply, team.apps[0].route())
    played.harmed_at.append(datetime.now(UTC))  # kubectl has taken its time


async def canary_pod_killed(team: Team, played: Played, change: str) -> None:
    if await team.reaches(change, played.turn.weight):
        await team.kill_pod(played, canary=True)


async def stable_pod_killed(team: Team, played: Played, change: str) -> None:
    if await team.reaches(change, played.turn.weight):
        await team.kill_pod(played, canary=False)


ACTS: Mapping[str, Act] = {
    "approved": approved,
    "approver loses the role": loses_the_role,
    "denied": denied,
    "newer one before the start": newer_one,
    "rolled back by a person": rolled_back,
    "rolled back in the promotion": rolled_back,
    "paused and resumed": paused,
    "promoted by a person": promoted,
    "another while it runs": refused,
    "emergency while it runs": emergency,
    "canary deleted": canary_deleted,
    "weights reset": weights_reset,
    "canary pod killed": canary_pod_killed,
    "stable pod killed": stable_pod_killed,
}
"""What is done once the change was asked for."""
