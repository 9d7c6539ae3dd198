"""A cluster in virtual time, at the Protocol seam of `controller.reconcile`: the real loop runs over it.

One Deployment with its routes, which may be deleted and created anew, and all the changes that it asks for. Pods take
time, routes take time, users send requests, and `Trouble` says what goes wrong when. After every write the invariants
of the design are checked; a broken one raises `Broken`.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.cluster.read import Key, Known
from controller.core import compare
from controller.core.change import REQUESTED_BY, TYPE
from controller.core.checks import need
from controller.core.codec import JSON
from controller.core.form import merge
from controller.core.intake import Ask, Record
from controller.core.model import (
    LOCKED,
    Autoscaler,
    CanaryParts,
    Change,
    Decision,
    Deployment,
    Held,
    Incident,
    Measurements,
    Observation,
    Other,
    Phase,
    Pod,
    ReplicaSet,
    Route,
    RouteOriginal,
    Ruling,
    Seen,
    ServicePair,
    Stage,
    State,
    Verdict,
)
from controller.core.plan import (
    CreateCanary,
    CreateService,
    DeleteCanary,
    DeleteReplicaSet,
    Intent,
    Mark,
    Promote,
    PutBack,
    Release,
    Restore,
    ScaleCanary,
    SetFloor,
    Shift,
)
from controller.core.policy import ChangeType, Policy
from controller.core.samples import Arm, Sample
from controller.errors import ConflictError, PermanentError
from controller.reconcile import NOBODY, Outbox, Reconciler

BEGIN = datetime(2026, 11, 23, 8, tzinfo=UTC)
SIZE = 10
READY_AFTER = timedelta(seconds=3)
ACCEPTED_AFTER = timedelta(seconds=1)
SCRAPE = timedelta(seconds=15)
MAIN = "chg-20261123-001"
PAIR = ServicePair("shop", "shop-canary", (80,))
ORIGINAL = RouteOriginal("HTTPRoute", "demo", "shop", ([{"name": "shop"}],))
OTHER_ROUTE = replace(ORIGINAL, name="shop-partners")


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Trouble:
    """Seconds after the start at which something happens; None: never."""

    errors_from: float | None = None
    errors_until: float | None = None
    error_ratio: float = 0.2
    usual_ratio: float = 0.0
    """The share of requests that fails whatever answers them."""
    unanswered: bool = False
    """No request reaches the canary."""
    unseen: bool = False
    """Prometheus knows nothing of the Deployment."""
    crash_at: float | None = None
    crashed_once_at: float | None = None
    """A new pod crashed, and had been started again before anybody looked."""
    never_ready: bool = False
    silent_from: float | None = None
    silent_until: float | None = None
    new_template_at: float | None = None
    deleted_at: float | None = None
    restarts: tuple[float, ...] = ()
    conflicts: float = 0.0
    """Share of the writes that are refused with 409."""
    rps: float = 50
    unowned_at: float | None = None
    """The Deployment is deleted; its pods a second later, unless they are orphaned."""
    orphaned: bool = False
    created_at: float | None = None
    """… and created anew, with the template `created_as`, under the change ID `created_for` (its own by default)."""
    created_as: str = "new"
    created_for: str = ""
    unaccepted_from: float | None = None
    """The gateway accepts no route that is written in this time."""
    unaccepted_until: float | None = None
    scaled_at: float | None = None
    """The Deployment gets another size."""
    scaled_to: int = 0
    stable_never_ready: bool = False
    """… in new pods: those that were there stay."""
    routes_lost_at: float | None = None
    incident_at: float | None = None
    """A P0 alert begins to fire."""
    canary_lost_at: float | None = None
    """Someone deletes the canary's Deployment."""
    rewritten_every: float | None = None
    """Something else takes the weight from the canary so often."""
    roll_every: int = 1
    """Seconds between two pairs of pods that the Deployment's own rolling update replaces."""
    ready_after: timedelta = READY_AFTER
    """How long a canary pod takes that is asked for after the first ones."""


@dataclass
class Pods:
    """Pods of one workload: when each is ready."""

    ready_at: list[datetime] = field(default_factory=list)

    def scale(self, size: int, now: datetime, after: timedelta = READY_AFTER) -> None:
        del self.ready_at[size:]
        self.ready_at += [now + after] * (size - len(self.ready_at))

    def ready(self, now: datetime) -> int:
        return sum(at <= now for at in self.ready_at)


@dataclass
class Way:
    """A route as it is now. `refusal`: what the API server says to every write of it."""

    weight: int = 0
    named: bool = False
    written_at: datetime = BEGIN
    refusal: PermanentError | None = None


@dataclass
class Trail:
    """An audit log in memory."""

    lines: list[str] = field(default_factory=list)
    problem: str = ""

    heads: dict[str, int] = field(default_factory=dict)

    def kept(self, uid: str) -> int:
        return self.heads.get(uid, 0)

    def append(self, lines: Sequence[str]) -> None:
        for line in lines:
            record = json.loads(line)
            if record["seq"] > self.kept(record["uid"]):
                self.heads[record["uid"]] = record["seq"]
                self.lines.append(line)


class World:
    """Reads and Writes in one."""

    def __init__(self, policy: Policy, trouble: Trouble = Trouble(), seed: int = 0) -> None:
        self.policy, self.trouble, self.random = policy, trouble, random.Random(seed)
        self.now = BEGIN
        self.version = 1
        change = Change(
            "demo",
            MAIN,
            "CHG-20261123-001",
            ChangeType.STANDARD,
            "uid",
            "1",
            deployments=("shop",),
            finalizer=True,
            created_at=BEGIN,
        )
        self.changes = {MAIN: Known(change, State())}
        self.uid, self.label = "d", change.change_id
        self.revision, self.held, self.paused, self.size = "new", Held.WAITING.value, True, SIZE
        self.own = {"old": Pods([BEGIN] * SIZE)}
        self.failure = ""
        self.scaler: Autoscaler | None = None
        self.canary: Pods | None = None
        self.service = False
        self.ways = {ORIGINAL.key: Way()}
        self.samples: dict[str, list[Sample]] = {"canary": [], "stable": []}
        self.counted: dict[str, list[float]] = {"canary": [0.0, 0.0], "stable": [0.0, 0.0]}
        self.scraped_at = BEGIN
        self.story: list[str] = []
        self.judgements: list[JSON] = []
        self.lost = 0.0
        self.failed = 0.0
        self.others: tuple[Other, ...] = ()
        self.strategy: JSON = {"type": "RollingUpdate"}
        self.requested_by = ""
        """Who applied the template, as admission stamped it on the Deployment."""
        self.decisions: tuple[Decision, ...] = ()
        self.environment: tuple[str, ...] = ()
        self.trail = Trail()
        self.reconciler = self.start_controller()

    # --- The first change and the first route, which is all there is in most worlds ---

    @property
    def change(self) -> Change:
        return self.changes[MAIN].change

    @change.setter
    def change(self, change: Change) -> None:
        self.changes[MAIN] = replace(self.changes[MAIN], change=change)

    @property
    def state(self) -> State:
        return self.changes[MAIN].state

    @property
    def way(self) -> Way:
        return self.ways[ORIGINAL.key]

    def start_controller(self) -> Reconciler:
        return Reconciler(
            self,
            self,
            Silent(self.judgements),
            self.trail,
            leads=lambda: True,
            measured=lambda *_: self.measurements(),
            now=lambda: self.now,
            outbox=self.outbox(),
        )

    def outbox(self) -> Outbox:
        """Nobody is told anything; a new process asks for it anew."""
        return NOBODY

    # --- Time ---

    async def run(self, until: timedelta) -> State:
        """The world and the loop, a second at a time, until the change is over or the time is."""
        restarts = sorted(self.trouble.restarts)
        while self.now - BEGIN < until and not self.state.phase.terminal:
            # Little happens while a step bakes: a look every five seconds is what the loop itself asks for.
            for _ in range(5 if self.state.settled_at and self.state.stage in (None, Stage.WATCH) else 1):
                events = len(self.story)
                self.pass_second()
                if len(self.story) > events:
                    break
            if restarts and self.since >= restarts[0]:
                restarts.pop(0)
                self.reconciler = self.start_controller()
            await self.settle_down()
        await asyncio.sleep(0)
        return self.state

    async def settle_down(self) -> None:
        """The loop over every object, until nothing is left to be done at once."""
        for _ in range(6):
            before = (self.version, len(self.story))
            if self.uid:
                await self.one(Key("Deployment", "demo", "shop"))
            for name in list(self.changes):
                await self.one(Key("ChangeRequest", "demo", name))
            if before == (self.version, len(self.story)):
                break

    async def one(self, key: Key) -> None:
        try:
            await self.reconciler.reconcile(key)
        except (ConflictError, PermanentError):
            return

    @property
    def since(self) -> float:
        return (self.now - BEGIN).total_seconds()

    def within(self, start: float | None, end: float | None) -> bool:
        return start is not None and self.since >= start and (end is None or self.since < end)

    def pass_second(self) -> None:
        self.now += timedelta(seconds=1)
        trouble = self.trouble
        if self.within(trouble.new_template_at, None) and self.revision == "new" and self.held == Held.RUNNING:
            self.revision, self.held, self.paused = "newer", Held.WAITING.value, True
            self.label = "CHG-20261123-002"
            self.tell("someone applied another template")
        if self.within(trouble.deleted_at, None) and not self.change.deleting:
            self.change = replace(self.change, deleting=True)
            self.tell("someone deleted the ChangeRequest")
        if self.uid == "d" and self.within(trouble.unowned_at, None):
            self.uid = ""
            self.tell("someone deleted the Deployment")
        elif self.uid == "" and not trouble.orphaned:
            self.own = {}
        if self.uid == "" and self.within(trouble.created_at, None):
            self.uid, self.revision, self.held, self.paused = "anew", trouble.created_as, Held.WAITING.value, True
            self.label = trouble.created_for or self.label
            self.tell(f"someone created it anew, as {self.revision}")
        if self.canary and self.within(trouble.canary_lost_at, None):
            self.canary = None
            self.tell("someone deleted the canary")
        if trouble.rewritten_every and self.since % trouble.rewritten_every < 1 and self.way.weight:
            self.way.weight = 0
            self.tell("something else rewrote the route")
        if self.ways and self.within(trouble.routes_lost_at, None):
            self.ways = {}
            self.tell("someone deleted the routes")
        if self.size != trouble.scaled_to and self.within(trouble.scaled_at, None):
            self.size = trouble.scaled_to
            self.tell(f"the Deployment was scaled to {self.size}")
        self.roll()
        self.serve()

    def roll(self) -> None:
        """The Deployment's own rolling update: two pods more of the wanted ones, and as many of the others less."""
        if not self.uid:
            return
        if self.paused:
            active = [pods for pods in self.own.values() if pods.ready_at]
            if len(active) == 1:
                active[0].scale(self.size, self.now)
            return
        if int(self.since) % self.trouble.roll_every:
            return
        mine = self.own.setdefault(self.revision, Pods())
        mine.scale(min(self.size, len(mine.ready_at) + 2), self.now)
        missing = self.size - self.ready(self.revision)
        for name, pods in self.own.items():
            if name != self.revision:
                pods.scale(min(len(pods.ready_at), max(0, missing)), self.now)

    def ready(self, revision: str) -> int:
        pods = self.own.get(revision)
        if pods is None or (revision == "new" and self.trouble.never_ready):
            return 0
        if revision == "old" and self.trouble.stable_never_ready:
            return sum(at == BEGIN for at in pods.ready_at)
        return pods.ready(self.now)

    def canary_ready(self) -> int:
        crashed = self.within(self.trouble.crash_at, None)
        return 0 if self.canary is None or self.trouble.never_ready or crashed else self.canary.ready(self.now)

    def serve(self) -> None:
        """A second of users' requests, and a scrape when its time has come."""
        weight = sum(way.weight for way in self.ways.values()) / max(1, len(self.ways))
        bad = self.trouble.error_ratio if self.within(self.trouble.errors_from, self.trouble.errors_until) else 0.0
        for arm, share in (("canary", weight / 100), ("stable", 1 - weight / 100)):
            requests = self.trouble.rps * share
            up = self.canary_ready() if arm == "canary" else sum(self.ready(r) for r in self.own)
            if requests and not up:
                self.lost += requests
            ratio = bad if arm == "canary" else bad * self.ready("new") / max(1, up)
            ratio = min(1.0, ratio + self.trouble.usual_ratio)
            if arm == "canary" and self.trouble.unanswered:
                requests = 0.0
            self.failed += requests * ratio
            self.counted[arm][0] += requests * ratio
            self.counted[arm][1] += requests
        if self.now - self.scraped_at >= SCRAPE:
            self.scraped_at = self.now
            for arm, (bad, total) in self.counted.items():
                if not self.silent:
                    self.samples[arm].append(Sample(self.now, bad, total))
                    self.counted[arm] = [0.0, 0.0]

    @property
    def silent(self) -> bool:
        return self.within(self.trouble.silent_from, self.trouble.silent_until)

    def tell(self, what: str) -> None:
        self.story.append(f"{self.since:7.0f} s  {what}")

    # --- Reads ---

    def known(self, namespace: str, name: str) -> Known | None:
        return self.changes.get(name)

    async def reread(self, namespace: str, name: str) -> Known | None:
        return self.changes.get(name)

    async def ask(self, namespace: str, name: str) -> Ask | None:
        d = self.deployment()
        known = [(k.change, Other.of(k.change, k.state)) for k in self.changes.values()]
        return Ask(d, self.replica_sets(), known, [c.change_id for c, _ in known]) if d else None

    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation:
        seen = Seen(
            deployment=self.deployment(),
            replica_sets=self.replica_sets(),
            pods=tuple(
                replace(
                    Pod(f"shop-{r}-{i}", f"{r}{i}", at <= self.now, False, 0, replica_set=f"shop-{r}"),
                    **(self.crash_of(i) if r == "new" else {}),
                )
                for r, pods in self.own.items()
                for i, at in enumerate(pods.ready_at)
            )
            if state.promoted
            else (),
            endpoints={"shop": frozenset(self.behind_service())},
            canary=self.parts(),
            routes=tuple(self.route(key) for key in self.ways),
            services=(PAIR,),
            autoscaler=self.scaler,
            selector_key="app",
        )
        siblings = (Other.of(k.change, k.state) for k in self.changes.values() if k.change.name != change.name)
        return Observation(
            change,
            {"shop": seen},
            self.policy,
            measurements=measurements,
            decisions=self.decisions,
            others=(*self.others, *siblings),
            environment=self.environment,
        )

    def replica_sets(self) -> tuple[ReplicaSet, ...]:
        return tuple(
            ReplicaSet(f"shop-{r}", r, "1", r, len(pods.ready_at), self.ready(r), i + 1, template={"r": r})
            for i, (r, pods) in enumerate(self.own.items())
        )

    def behind_service(self) -> list[str]:
        found = ((r, i, at) for r, pods in self.own.items() for i, at in enumerate(pods.ready_at))
        return [f"shop-{r}-{i}" for r, i, at in found if at <= self.now]

    def deployment(self) -> Deployment | None:
        return self.made("shop", self.uid, self.size) if self.uid else None

    def made(self, name: str, uid: str, replicas: int) -> Deployment:
        return Deployment(
            name=name,
            namespace="demo",
            uid=uid,
            resource_version="1",
            replicas=replicas,
            total=sum(len(p.ready_at) for p in self.own.values()),
            updated=len(self.own.get(self.revision, Pods()).ready_at),
            ready=sum(self.ready(r) for r in self.own),
            available=sum(self.ready(r) for r in self.own),
            observed=True,
            paused=self.paused,
            held=self.held,
            change=self.label,
            revision=self.revision,
            template={"r": self.revision},
            selector={"app": "shop"},
            recreate=False,
            strategy=self.strategy,
            unavailable_max=2,
            progress_deadline_seconds=600,
            min_ready_seconds=0,
            annotations={REQUESTED_BY: self.requested_by, TYPE: str(self.change.type or "")},
            labels={},
            failure=self.failure,
        )

    def crash_of(self, pod: int) -> dict[str, Any]:
        """What the pod that crashed once tells of it."""
        at = self.trouble.crashed_once_at
        if pod or not self.within(at, None):
            return {}
        return {"restarts": 1, "crashed_at": BEGIN + timedelta(seconds=at or 0)}

    def parts(self) -> CanaryParts:
        if self.canary is None:
            return CanaryParts(services=("shop-canary",) if self.service else ())
        crashed = self.within(self.trouble.crash_at, None)
        pods = tuple(
            replace(
                Pod(
                    f"shop-canary-{i}",
                    f"c{i}",
                    at <= self.now and not crashed and not self.trouble.never_ready,
                    False,
                    2 if crashed else 0,
                    trouble="CrashLoopBackOff" if crashed else "",
                ),
                **self.crash_of(i),
            )
            for i, at in enumerate(self.canary.ready_at)
        )
        d = replace(self.made("shop-canary", "c", len(pods)), revision="new")
        return CanaryParts(d, ("shop-canary",) if self.service else (), {"shop-canary": self.canary_ready()}, pods)

    def route(self, key: str = ORIGINAL.key) -> Route:
        way, trouble = self.ways[key], self.trouble
        deaf = self.within(trouble.unaccepted_from, trouble.unaccepted_until)
        unheard = deaf and (way.written_at - BEGIN).total_seconds() >= (trouble.unaccepted_from or 0)
        accepted = self.now - way.written_at >= ACCEPTED_AFTER and not unheard
        original = next(o for o in (ORIGINAL, OTHER_ROUTE) if o.key == key)
        return Route(key, way.weight, not way.named, accepted, original)

    def measurements(self) -> Measurements:
        problem = "PrometheusUnreachable: no answer" if self.silent else ""
        if self.silent:
            return Measurements(self.now, problem=problem)
        arms: Mapping[tuple[str, str, str], Arm] = {
            ("shop", rule.name, arm): Arm(tuple(samples), self.scraped_at, SCRAPE)
            for rule in (*self.policy.rules, *compare.questions(self.state, "shop"))
            for arm, samples in self.samples.items()
            if any(way.named for way in self.ways.values()) or arm == "stable"
        }
        if self.trouble.unseen:
            arms = {key: Arm() for key in arms}
        began = BEGIN + timedelta(seconds=self.trouble.incident_at or 0)
        fires = self.within(self.trouble.incident_at, None)
        return Measurements(self.now, arms, (Incident("Down", {"severity": "P0"}, began),) if fires else ())

    async def conclusion(self, change: Change, state: State) -> Observation:
        return Observation(change, {}, self.policy, decisions=self.decisions)

    # --- Writes, and what must hold at each ---

    def refuse_sometimes(self) -> None:
        if self.random.random() < self.trouble.conflicts:
            raise ConflictError("Conflict", "someone was faster")

    async def commit(self, change: Change, state: State) -> str:
        self.refuse_sometimes()
        before = self.changes[change.name].state
        self.version += 1
        change = replace(self.changes[change.name].change, resource_version=str(self.version))
        self.changes[change.name] = Known(change, state)
        added = len(state.history) - len(before.history)
        moved = (before.phase, before.stage, before.step) != (state.phase, state.stage, state.step)
        self.must(added == moved, "I14: one audit record for each transition, and for nothing else")
        if state.phase is Phase.PROGRESSING and state.step > before.step > 0:
            self.must(
                {rule.name for rule in self.policy.rules}
                <= {e.rule for e in before.evidence if e.verdict is Verdict.PASS},
                "I7: a step up follows a PASS that is already in status",
            )
        if state.phase.terminal:
            named = any(way.named for way in self.ways.values())
            own = self.canary is None and not self.service and not named
            self.must(own or change.name != MAIN, "I12: an ended change leaves nothing of ours behind")
            self.must(self.uid != "d" or self.held not in LOCKED, "I12: an ended change holds no lock")
        self.tell(
            f"{change.change_id} {state.phase} {state.stage or ''} {state.weight} % {state.reason}: {state.message}"[
                :150
            ]
        )
        return str(self.version)

    def must(self, holds: bool, rule: str) -> None:
        if not holds:
            raise Broken("\n".join([rule, *self.story[-25:]]))

    async def apply(self, intent: Intent, observation: Observation) -> None:
        self.refuse_sometimes()
        self.tell(f"  -> {type(intent).__name__} {getattr(intent, 'weight', '')}")
        state = self.changes[observation.change.name].state
        approved = state.started_at is not None
        match intent:
            case Mark():
                self.mine(intent.deployment)
                self.held, self.paused = intent.held.value, True
            case Release():
                self.mine(intent.deployment)
                self.held, self.paused = "", False
            case Promote():
                self.mine(intent.deployment)
                self.must(approved and state.weight in (0, 100), "I2: only an approved revision is rolled out")
                self.held, self.paused = Held.PROMOTING.value, False
            case Restore():
                self.mine(intent.deployment)
                self.revision, self.held, self.paused = "old", Held.RESTORING.value, False
            case DeleteReplicaSet():
                rejected = intent.replica_set.revision != "old"
                stands = bool(self.own["old"].ready_at)
                self.must(rejected and self.paused and stands, "I5: only a rejected one, paused, stable standing")
                self.own.pop(intent.replica_set.revision)
            case SetFloor():
                assert self.scaler
                self.scaler = replace(self.scaler, min_replicas=intent.min_replicas, ours=True)
            case CreateService():
                self.service = True
            case CreateCanary():
                self.canary = Pods()
                self.canary.scale(intent.replicas, self.now)
            case ScaleCanary():
                if self.canary is None:
                    raise ConflictError("NotFound", "no canary")
                self.canary.scale(intent.replicas, self.now, self.trouble.ready_after)
            case Shift():
                self.shift(self.ways[intent.route], intent.weight, approved=approved)
            case PutBack():
                way = self.ways[intent.route]
                self.must(way.weight == 0, "the canary is named until it has no weight")
                way.named, way.written_at = False, self.now
            case DeleteCanary(kind="Deployment"):
                unused = all(way.weight == 0 and not way.named for way in self.ways.values())
                self.must(unused, "I4: traffic, drain, then capacity")
                self.canary = None
            case DeleteCanary():
                self.must(self.canary is None, "a Service outlives the pods behind it")
                self.service = False
            case _:
                raise NotImplementedError(intent)
        if not state.promoted and self.uid == "d" and self.size >= SIZE:
            self.must(len(self.own["old"].ready_at) >= SIZE, "I3: no stable pod goes before promotion")

    def shift(self, way: Way, weight: int, *, approved: bool) -> None:
        if way.refusal:
            raise way.refusal
        up = sum(self.ready(revision) for revision in self.own)
        if weight > way.weight:
            self.must(approved, "I2: weight only for an approved revision")
            self.must(way.named, "the canary is named before it has weight")
            self.must(self.canary_ready() >= need(SIZE, weight), "I4: capacity, then traffic")
        if weight < way.weight and self.change.deleting and self.state.stage is Stage.RETURN:
            pass  # a person ended it knowingly
        elif weight < way.weight and self.uid == "d":
            self.must(up >= min(SIZE, self.size) - 2 and up > 0, "I3: traffic returns to ready pods only")
        elif weight < way.weight and self.canary_ready():
            waited = self.since - (self.trouble.unowned_at or 0)
            self.must(up > 0 or waited >= (600 if self.uid else 10), "I5: the only healthy version carries the traffic")
        way.weight, way.named, way.written_at = weight, True, self.now

    def mine(self, d: Deployment) -> None:
        """A write carries the resource version of the Deployment that it rests on."""
        if d.uid != self.uid:
            raise ConflictError("Conflict", "it is another Deployment")

    async def record(self, namespace: str, record: Record) -> None:
        self.version += 1
        known = self.changes.get(record.name)
        spec = merge((known.change.spec if known else None) or {}, record.spec)
        new = Change(namespace, record.name, spec["changeId"], ChangeType(spec["type"]), f"uid-{self.version}")
        made = replace(
            known.change if known else replace(new, finalizer=True, created_at=self.now),
            resource_version=str(self.version),
            deployments=tuple(spec["deployments"]),
            revision=str(spec.get("revision", "")),
            problem=str(spec.get("problem", "")),
            spec=spec,
        )
        self.changes[record.name] = Known(made, known.state if known else State())
        self.tell(f"{made.change_id} is recorded{': ' + made.problem if made.problem else ''}")

    async def finalizer(self, change: Change, *, present: bool) -> None:
        known = self.changes[change.name]
        self.changes[change.name] = replace(known, change=replace(known.change, finalizer=present))

    async def forget(self, namespace: str, name: str) -> None:
        self.changes.pop(name, None)

    async def mark(self, d: Deployment, held: Held) -> None:
        self.mine(d)
        self.held, self.paused = held.value, True
        self.tell(f"held: {held}")

    async def release(self, d: Deployment) -> None:
        self.mine(d)
        self.held, self.paused = "", False
        self.tell("released")

    async def event(self, subject: dict[str, Any], reason: str, message: str, *, warning: bool) -> None:
        return


class Silent:
    """Reports of nobody's concern here, but for what judgements were made of."""

    def __init__(self, judgements: list[JSON]) -> None:
        self._judgements = judgements

    def judged(self, change: Change, record: JSON) -> None:
        if record:
            self._judgements.append(record)

    def ruling(self, change: Change, ruling: Ruling) -> None:
        return

    def unmanaged(self, namespace: str, workload: str, count: int) -> None:
        return

    def decision(self, change: Change, before: State, after: State, observation: Observation) -> None:
        return

    def write(self, change: Change, kind: str, message: str, *, after_verdict: timedelta | None = None) -> None:
        return

    def forget(self, namespace: str, name: str) -> None:
        return
