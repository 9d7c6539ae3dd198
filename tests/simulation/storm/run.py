"""Plays a plan: time, two processes of the controller, the happenings, and at the end what must have come of it."""

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

import controller.reconcile as loop
from controller.cluster.read import Key, Known
from controller.core import checks
from controller.core import decide as machine
from controller.core.change import AUTO
from controller.core.checks import Check
from controller.core.model import (
    LOCKED,
    Action,
    Autoscaler,
    Change,
    CronJob,
    Held,
    Incident,
    Other,
    Outcome,
    Phase,
    Review,
    Stage,
    State,
    Strategy,
    Target,
)
from controller.core.policy import ChangeType, Policy
from tests.simulation.storm.cluster import (
    BEGIN,
    NAMESPACE,
    SECOND,
    SIZE,
    STABLE,
    Behaviour,
    Cluster,
    Past,
    Workload,
    decision,
)
from tests.simulation.storm.invariants import Broken, Watch
from tests.simulation.storm.plans import CLOSED, UNANSWERED_HOLD, UNANSWERED_MAX, Happening, Moment, Plan, seconds
from tests.simulation.storm.process import Process

LEASE = seconds(15)
END = timedelta(minutes=14)
"""No plan lasts longer; whatever is left to be done is done by then, or waits with a reason."""
QUIET = timedelta(minutes=3)
"""So long after the last happening and the last step of any change, what is not over waits for somebody."""
FIRST_ID = "CHG-20261123-001"
TICKS = tuple(seconds(s) for s in (1, 2, 5))


@dataclass
class Result:
    """How a run went."""

    plan: Plan
    broken: Broken | None = None
    story: list[str] = field(default_factory=list)
    fired: set[tuple[Phase, str, str]] = field(default_factory=set)
    """Rows of the rules table that spoke, and the reasons that they gave."""
    met: set[tuple[str, str]] = field(default_factory=set)
    """(happening, phase or stage)."""
    outcomes: Counter[str] = field(default_factory=Counter)


class Row(tuple[Check, ...]):
    """Checks of the rules table; `spoke` is the last one that was asked, when one of them had something to say."""

    spoke: Check | None = None

    def __iter__(self) -> Iterator[Check]:
        for check in super().__iter__():
            self.spoke = check
            yield check
        self.spoke = None


@contextmanager
def watched_rules(fired: set[tuple[Phase, str, str]]) -> Iterator[None]:
    """The real table, and which of its rows speak."""
    real, decide = dict(machine.RULES), machine.decide
    pace = (checks.UNANSWERED_HOLD, checks.UNANSWERED_MAX)
    checks.UNANSWERED_HOLD, checks.UNANSWERED_MAX = UNANSWERED_HOLD, UNANSWERED_MAX  # as fast as the policies here
    rows = {
        phase: replace(rules, roll_back=Row(rules.roll_back), hold=Row(rules.hold)) for phase, rules in real.items()
    }

    def decided(state: State, *rest: Any) -> State:
        rules = rows.get(state.phase)
        if rules:
            rules.roll_back.spoke = rules.hold.spoke = None  # type: ignore[attr-defined]
        after = decide(state, *rest)
        if rules:
            for row in (rules.roll_back, rules.hold):
                if row.spoke:  # type: ignore[attr-defined]
                    fired.add((state.phase, row.spoke.__name__, after.reason))  # type: ignore[attr-defined]
        return after

    machine.RULES.update(rows)
    setattr(loop, "decide", decided)  # noqa: B010 (the name that the loop imported)
    try:
        yield
    finally:
        machine.RULES.update(real)
        setattr(loop, "decide", decide)  # noqa: B010
        checks.UNANSWERED_HOLD, checks.UNANSWERED_MAX = pace


class Run:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        policies: dict[str, Policy] = {kind: replace(plan.policy) for kind in ChangeType}
        self.cluster = Cluster(policies, list(plan.workloads), plan.seed)
        self.cluster.rps, self.cluster.usual = plan.rps, plan.usual
        self.cluster.closes_at = BEGIN + seconds(round(plan.closes)) if plan.closes else None
        self.watch = Watch(self.cluster, BEGIN)
        self.leader = "a"
        self.both_until = BEGIN
        self.lease_at = BEGIN
        self.processes = {
            name: Process(name, self.cluster, self.watch, lambda name=name: self.leads(name), self.meanwhile)  # type: ignore[misc]
            for name in ("a", "b")
        }
        self.watch.actor = self.processes["a"]
        self.result = Result(plan)
        self.pending = list(plan.happenings)
        self.mends: list[tuple[datetime, Callable[[], None]]] = []
        self.reached: dict[tuple[Phase, Stage | None, int], Any] = {}
        self.last_at, self.moves = BEGIN, 0
        self.rewriting_until = self.rewrite_at = BEGIN
        self.rewrite_every = SECOND
        self.stopped: set[str] = set()
        self.people_at = BEGIN + seconds(3)
        self.approvals_left = plan.approvals
        self.backups = 0

    # --- The two replicas ---

    def leads(self, name: str) -> bool:
        process = self.processes[name]
        return (
            process.alive and name not in self.stopped and (self.leader == name or self.cluster.now < self.both_until)
        )

    def keep_lease(self) -> None:
        """Who holds the Lease renews it; when it has run out, the other one takes it."""
        now, holder = self.cluster.now, self.processes[self.leader]
        if holder.alive and self.leader not in self.stopped:
            self.lease_at = now
        elif now - self.lease_at >= LEASE:
            other = "b" if self.leader == "a" else "a"
            if self.processes[other].alive and other not in self.stopped:
                self.leader, self.lease_at = other, now
                self.processes[other].start()
                self.cluster.tell(f"{other} leads")
        for process in self.processes.values():
            if not process.alive and now >= process.back_at:
                process.start()
                self.cluster.tell(f"{process.name} is started again")

    async def meanwhile(self, process: Process, span: timedelta) -> None:
        """The process is stopped in the middle of a call; the world, and the other one, go on."""
        if self.stopped:
            return
        self.stopped.add(process.name)
        self.cluster.tell(f"{process.name} is stopped in the middle of a call")
        until = self.cluster.now + span
        while self.cluster.now < until:
            await self.tick()
        self.stopped.discard(process.name)
        self.cluster.tell(f"{process.name} goes on")
        self.watch.actor = process

    # --- Time ---

    async def play(self) -> Result:
        self.begin()
        try:
            while not self.over():
                await self.tick()
            self.conclude()
        except Broken as broken:
            self.result.broken = broken
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.result.broken = Broken(
                f"the loop raises {type(error).__name__}", f"{error}, {place.name}:{place.lineno}"
            )
        self.result.story = self.cluster.story
        for known in self.cluster.standing():
            self.result.outcomes[f"{known.state.phase} {known.state.cause or known.state.reason}"] += 1
        return self.result

    async def tick(self) -> None:
        cluster = self.cluster
        soonest = min(
            (at for p in self.processes.values() if self.leads(p.name) for at in p.due.values()), default=None
        )
        wait = soonest - cluster.now if soonest else TICKS[0]
        cluster.pass_time(max(SECOND, min(wait, TICKS[1] if self.pending or self.mends or self.moving() else TICKS[2])))
        self.keep_lease()
        self.happen()
        self.people()
        for process in self.processes.values():
            if process.name in self.stopped or not self.leads(process.name):
                continue
            self.watch.actor = process
            await process.work()
        self._calm()
        self.watch.passing()
        self._note()

    def moving(self) -> bool:
        return any(k.state.settled_at is None and not k.state.phase.terminal for k in self.cluster.standing())

    def _calm(self) -> None:
        """Whether anything disturbs the one that leads."""
        cluster, process = self.cluster, self.processes[self.leader]
        now = cluster.now
        disturbed = (
            not process.alive
            or bool(self.stopped)
            or now < process.faults.until
            or process.stalled_until is not None
            or now < cluster.prometheus.until
            or now < cluster.unaccepted_until
            or now < self.both_until
            or process.skew != timedelta()
            or bool(cluster.lacking or cluster.trail_problem)
        )
        cluster.undisturbed = not disturbed
        if disturbed or now < self.rewriting_until:
            self.watch.calm_since = now

    def _note(self) -> None:
        """Which moments have been reached, for what is to happen then."""
        known = self.first()
        if known:
            state = known.state
            key = (state.phase, state.stage, state.step if state.phase is Phase.PROGRESSING else 0)
            self.reached.setdefault(key, self.cluster.now)
        moves = sum(len(k.state.history) for k in self.cluster.standing())
        if moves != self.moves:
            self.moves, self.last_at = moves, self.cluster.now

    def first(self) -> Known | None:
        """The change that the plan is about."""
        mine = (k for k in self.cluster.standing() if (k.change.created_at or BEGIN) >= BEGIN)
        return min(mine, key=lambda k: (k.change.created_at or BEGIN, k.change.name), default=None)

    def over(self) -> bool:
        now = self.cluster.now
        if now - BEGIN >= END:
            return True
        calm = (
            not self.mends
            and all(p.alive for p in self.processes.values())
            and now
            >= max(
                *(p.faults.until for p in self.processes.values()),
                self.cluster.prometheus.until,
                self.cluster.unaccepted_until,
            )
        )
        settled = all(k.state.phase.terminal for k in self.cluster.standing()) and any(self.cluster.standing())
        asked = any(w.held == Held.WAITING for w in self.cluster.workloads.values())
        calm = calm and now >= self.rewriting_until
        if settled and calm and not asked and now - self.last_at > seconds(8):
            return True
        return calm and now - max(self.last_at, self.rewriting_until) >= QUIET

    # --- The story's beginning and end ---

    def begin(self) -> None:
        cluster, plan = self.cluster, self.plan
        if plan.policy.before.jobs:
            cluster.cron_jobs["backup"] = CronJob(found=True, offered=True)
        for w in cluster.workloads.values():
            if not plan.routed:
                w.routes = {}
            if plan.scaled:
                w.scaler = Autoscaler(w.name, 2, 12)
            if plan.first:
                w.sets = {}
            else:
                self.watch.allowed.add((w.name, STABLE))
            if not plan.late:
                self.apply(w, "v2", AUTO if plan.auto else FIRST_ID, plan.kind, "dev")
        if plan.past:
            self.remember(plan.past)
        for name, change in self.written():
            cluster.put(name, Known(change, State()))

    def written(self) -> Iterator[tuple[str, Change]]:
        """The form that people wrote into a ChangeRequest before they applied the template."""
        if self.plan.auto:
            return
        spec: dict[str, Any] = {"changeId": FIRST_ID, "type": self.plan.kind, "deployments": list(self.plan.workloads)}
        spec.update(dict(self.plan.spec))
        yield (
            FIRST_ID.lower(),
            Change(
                NAMESPACE,
                FIRST_ID.lower(),
                FIRST_ID,
                ChangeType(self.plan.kind),
                uid="uid-1",
                resource_version="1",
                deployments=tuple(self.plan.workloads),
                created_at=BEGIN,
                spec=spec,
            ),
        )

    def remember(self, past: str) -> None:
        """A change of yesterday, which brought what is stable now, or was rolled back."""
        rejected = past == "rejected"
        target = Target(
            "shop",
            "shop-1",
            "v2" if rejected else STABLE,
            Strategy.CANARY,
            stable_revision=STABLE if rejected else "v0",
        )
        ended = BEGIN - timedelta(hours=20)
        state = State(
            phase=Phase.ROLLED_BACK if rejected else Phase.COMPLETED,
            rejected=rejected,
            cause="ErrorRate" if rejected else "",
            started_at=ended - timedelta(hours=1),
            ended_at=ended,
            targets=(target,),
            policy=self.plan.policy,
            review_due_at=None if rejected else ended + seconds(20),
            closed_at=ended if rejected else None,
        )
        change = Change(
            NAMESPACE,
            "chg-20261122-001",
            "CHG-20261122-001",
            ChangeType.NORMAL,
            uid="uid-0",
            resource_version="1",
            deployments=("shop",),
            created_at=BEGIN - timedelta(hours=24),
        )
        self.cluster.put(change.name, Known(change, state))

    def conclude(self) -> None:
        """I16: when faults have stopped, everything has ended or waits for somebody, with a reason."""
        cluster = self.cluster
        for known in cluster.standing():
            state = known.state
            if state.phase.terminal:
                chain = cluster.audit.get(known.change.uid, [])
                self.watch.must(
                    len(chain) == state.audit.seq,
                    "I14: the whole chain is in the audit trail",
                    f"{len(chain)} of {state.audit.seq}",
                )
                continue
            waits = (
                state.phase in (Phase.WAITING, Phase.PROGRESSING, Phase.PROMOTING)
                and state.reason in WAITS[state.phase]
            )
            waits = waits or any(text.startswith("CannotGoBack") for text in state.warnings)
            waits = waits or not any(t.stable_revision for t in state.targets)  # there is nothing to go back to
            stuck = state.phase is Phase.ROLLING_BACK and state.reason in WAITS[state.phase]
            self.watch.must(
                waits or stuck,
                "I16: it ends, or waits with a reason",
                f"{known.change.change_id} {state.phase} {state.stage} {state.reason}",
            )

    # --- People and mishaps ---

    def apply(self, w: Workload, revision: str, label: str, kind: str, who: str) -> bool:
        """What admission makes of a write of the Deployment; False: it is refused."""
        emergency = kind == "emergency"
        if not w.uid or w.held in (Held.PROMOTING, Held.RESTORING) or (w.held in LOCKED and not emergency):
            return False
        w.label, w.kind, w.who = label, kind, who
        if revision != w.revision or not w.sets:
            w.revision, w.held, w.paused, w.free = revision, Held.WAITING.value, True, False
            self.cluster.tell(f"{who} applies {revision} to {w.name} for {label}")
        self.cluster.touch(w)
        return True

    def people(self) -> None:
        """Approvers who do their work, and whoever reviews at the end."""
        cluster, known = self.cluster, self.first()
        if cluster.now < self.people_at or known is None:
            return
        self.people_at = cluster.now + seconds(4)
        state = known.state
        for w in cluster.workloads.values():
            if self.plan.late and not w.label:
                self.apply(w, "v2", AUTO if self.plan.auto else FIRST_ID, self.plan.kind, "dev")
        old = cluster.known("chg-20261122-001")
        if old and state.reason == "ReviewOverdue" and not old.state.closed_at:
            self.decide(old, Action.REVIEW, "ann-1", review=Review(Outcome.SUCCESSFUL))
        if state.reason == "RejectedRevision" and self.plan.seed % 3:
            self.shop.retry = "CHG-20261122-001"
            cluster.touch(self.shop)
        if state.reason == "FormIncomplete" and self.plan.seed % 3:
            self.fill(known, description="text")
        if state.reason == "NotStandard" and "forwardOnly" in state.message:
            self.fill(known, rollback="")
        if state.reason == "NotStandard" and "scope" in state.message and self.plan.seed % 2:
            for past in cluster.policies.values():
                if past.now[0]:
                    past.set((replace(past.now[0], scope=None), ""), cluster.now)
        if self.approvals_left and state.revision and (state.phase is Phase.WAITING or self.plan.kind == "emergency"):
            by = f"ann-{self.approvals_left}"
            self.approvals_left -= 1
            self.decide(
                known, Action.APPROVE, by, tests="green" if self.plan.tests else "", forward_only=self.plan.knowing
            )
        if state.phase.terminal and not state.closed_at and state.review_due_at:
            self.decide(known, Action.REVIEW, "ann-1", review=Review(Outcome.SUCCESSFUL))

    def fill(self, known: Known, **fields: str) -> None:
        """The form, in the request itself."""
        version = str(self.cluster.next_version())
        change = replace(known.change, spec={**(known.change.spec or {}), **fields}, resource_version=version)
        self.cluster.put(change.name, replace(known, change=change))

    def decide(self, known: Known, action: Action, by: str, **more: Any) -> None:
        made = decision(self.cluster, known, action, by, known.state.revision, **more)
        self.cluster.decisions.setdefault(made.uid, Past(None, BEGIN)).set(made, self.cluster.now)
        self.cluster.moved(Key("ChangeRequest", NAMESPACE, known.change.name))
        self.cluster.tell(f"{by}: {action}")

    def later(self, happening: Happening, mend: Callable[[], None]) -> None:
        """What a happening did is mended when it has lasted."""
        self.mends.append((self.until(happening), mend))

    def happen(self) -> None:
        cluster = self.cluster
        for mend in list(self.mends):
            if mend[0] <= cluster.now:
                self.mends.remove(mend)
                mend[1]()
                cluster.tell("! what was wrong is mended")
        for happening in list(self.pending):
            if self._due(happening.when):
                self.pending.remove(happening)
                self.last_at = cluster.now
                known = self.first()
                if known:
                    where = known.state.stage or known.state.phase
                    self.result.met.add(
                        (happening.what, f"{known.state.phase} {where}" if known.state.stage else str(where))
                    )
                cluster.tell(f"! {happening}")
                HAPPEN[happening.what](self, happening)
        if cluster.now < self.rewriting_until and cluster.now >= self.rewrite_at:
            self.rewrite_at = cluster.now + self.rewrite_every
            for w in cluster.workloads.values():
                for way in w.routes.values():
                    if way.weight:
                        self.rewrite(way, w)

    def rewrite(self, way: Any, w: Workload) -> None:
        self.cluster.rewrites.append(self.cluster.now)
        way.weight, way.written_at, way.version, way.by = (
            0,
            self.cluster.now,
            self.cluster.next_version(),
            "argocd-controller",
        )
        self.cluster.touch(w)
        self.cluster.tell(f"something rewrites {w.name}'s route")

    def _due(self, when: Moment) -> bool:
        at = self.reached.get((when.phase, when.stage, when.step))
        return at is not None and self.cluster.now >= at + seconds(when.after)

    @property
    def process(self) -> Process:
        return self.processes[self.leader]

    @property
    def shop(self) -> Workload:
        return self.cluster.workloads["shop"]

    def until(self, happening: Happening) -> Any:
        return self.cluster.now + seconds(happening.lasts)

    def version(self) -> Behaviour:
        """How the newest version behaves."""
        return self.cluster.versions.setdefault(
            self.shop.revision if self.shop.revision != STABLE else "v2", Behaviour()
        )

    def of_first(self, action: Action, by: str, **more: Any) -> None:
        known = self.first()
        if known:
            self.decide(known, action, by, **more)


WAITS = {
    Phase.WAITING: frozenset(
        [
            "AwaitingApproval",
            "TestsUnverified",
            "FormIncomplete",
            "NotStandard",
            "ForwardOnlyUnsaid",
            "ReviewOverdue",
            "Paused",
            "RejectedRevision",
            "TypeDiffers",
            "InvalidPolicy",
            "PolicyNotFound",
            "NotHeld",
            "OwnedByAnotherController",
            "NoDeployment",
            "JobFailed",
            "DuplicateChangeID",
            "NameTaken",
            "ChangeClosed",
            "ChangeRunning",
            "TwoActiveReplicaSets",
            "StableOutOfBudget",
            "ChangesFrozen",
            "UnknownType",
            "AnotherChangeActive",
            "RouteNotAccepted",
            "OutsideWindow",
            "ServiceWithoutPods",
            "NoMetrics",
            "AwaitingJobs",
        ]
    ),
    Phase.PROGRESSING: frozenset(
        [
            "Paused",
            "LowTraffic",
            "WindowClosed",
            "ApprovalDenied",
            "NoTraffic",
            "Conflict",
            "ErrorRate",
            "SLOBurn",
            "LogErrors",
            "WorseThanStable",
            "Suspicious",
        ]
    ),
    Phase.PROMOTING: frozenset(["ScaledToZero", "ErrorRate", "SLOBurn", "LogErrors", "CrashLoop"]),
    Phase.ROLLING_BACK: frozenset(["StableNotReady"]),
}
"""What a change may wait for when nothing goes wrong any more: people, or a Deployment that its owner has to mend."""


# --- What happens, by name ---


def _behave(name: str) -> Any:
    def happen(run: Run, h: Happening) -> None:
        setattr(run.version(), name, (h.value, run.cluster.now, run.until(h)))

    return happen


def _suffer(name: str) -> Any:
    def happen(run: Run, h: Happening) -> None:
        setattr(run.version(), name, (run.cluster.now, run.until(h)))

    return happen


def _prometheus(fault: str) -> Any:
    def happen(run: Run, h: Happening) -> None:
        p = run.cluster.prometheus
        p.fault, p.until, p.lag = fault, run.until(h), seconds(h.lasts / 2 if fault == "lag" else 0)

    return happen


def _api(kind: str) -> Any:
    def happen(run: Run, h: Happening) -> None:
        faults = run.process.faults
        faults.kind, faults.until = kind, run.cluster.now + seconds(min(h.lasts, 60))
        faults.ratio = 1.0 if kind == "forbidden" or h.value == 1.0 else max(0.1, h.value)

    return happen


def _kill(after: bool) -> Any:
    def happen(run: Run, h: Happening) -> None:
        process = run.process
        process.kill_at = (process.calls + 1 + round(h.lasts) % 7, after)
        process.back_at = run.cluster.now + seconds(3)

    return happen


def _dead(run: Run, h: Happening) -> None:
    for process in run.processes.values():
        process.alive, process.back_at = False, run.until(h)


def _stop(run: Run, h: Happening) -> None:
    process = run.process
    process.stop_at = (process.calls + 1 + round(h.lasts) % 5, LEASE + seconds(min(h.lasts, 40)))


def _both(run: Run, h: Happening) -> None:
    run.both_until = run.until(h)
    for process in run.processes.values():
        if process.name != run.leader and process.alive:
            process.start()


def _skew(sign: int) -> Any:
    def happen(run: Run, h: Happening) -> None:
        run.process.skew = sign * seconds(4)

    return happen


def _stall(run: Run, h: Happening) -> None:
    run.process.stalled_until = run.cluster.now + seconds(min(h.lasts, 70))


def _unaccepted(run: Run, h: Happening) -> None:
    run.cluster.unaccepted_until = run.until(h)


def _admission(run: Run, h: Happening) -> None:
    run.cluster.lacking = ("AdmissionMissing: serin-guard is not there",)
    run.later(h, lambda: setattr(run.cluster, "lacking", ()))


def _audit(run: Run, h: Happening) -> None:
    run.cluster.trail_problem = "AuditUnavailable: no space left"
    run.later(h, lambda: setattr(run.cluster, "trail_problem", ""))


def _name_taken(run: Run, h: Happening) -> None:
    if not run.shop.services:
        run.shop.services = {"shop-canary": "someone"}
        run.later(h, run.shop.services.clear)


def _other_controller(run: Run, h: Happening) -> None:
    run.shop.controlled_by = "Rollout shop"
    run.later(h, lambda: setattr(run.shop, "controlled_by", ""))


def _same_id(run: Run, h: Happening) -> None:
    run.cluster.foreign = (
        Other("other", FIRST_ID.lower(), FIRST_ID, Phase.WAITING, {}, rejected=False, created_at=BEGIN - SECOND),
    )
    run.later(h, lambda: setattr(run.cluster, "foreign", ()))


def _type_differs(run: Run, h: Happening) -> None:
    w, kind = run.shop, run.shop.kind
    other = run.cluster.workloads.get("cart")
    if other and other.held == Held.WAITING:
        other.kind = "emergency" if kind != "emergency" else "normal"
        run.cluster.touch(other)
        run.later(h, lambda: setattr(other, "kind", w.kind))


def _form_broken(run: Run, h: Happening) -> None:
    def set_problem(problem: str) -> None:
        known = run.first()
        if known and not known.state.phase.terminal:
            version = str(run.cluster.next_version())
            run.cluster.put(
                known.change.name,
                replace(known, change=replace(known.change, problem=problem, resource_version=version)),
            )

    set_problem("InvalidForm: impact.risk is enormous: write low, medium or high")
    run.later(h, lambda: set_problem(""))


def _template(revision: str, *, label: str = "", kind: str = "") -> Any:
    def happen(run: Run, h: Happening) -> None:
        w = run.shop
        run.apply(w, revision, label or w.label or FIRST_ID, kind or run.plan.kind, "dev")

    return happen


def _smuggle(run: Run, h: Happening) -> None:
    """What a cluster admin may do who takes the admission policies away."""
    w = run.shop
    if w.uid and w.revision != "v6":
        w.revision, w.free = "v6", True
        run.cluster.tell("a template gets past admission")
        run.cluster.touch(w)


def _unlabel(run: Run, h: Happening) -> None:
    """While a change runs, only past admission: then somebody puts it back."""
    w, label = run.shop, run.shop.label

    def put_back() -> None:
        w.label = w.label or label
        run.cluster.touch(w)

    if w.held in LOCKED:
        run.later(h, put_back)
    w.label = ""
    run.cluster.touch(w)


def _delete_change(run: Run, h: Happening) -> None:
    known = run.first()
    if known and not known.change.deleting:
        if known.change.finalizer:
            version = str(run.cluster.next_version())
            run.cluster.put(
                known.change.name, replace(known, change=replace(known.change, deleting=True, resource_version=version))
            )
        else:
            run.cluster.put(known.change.name, None)


def _delete_deployment(orphan: bool, *, again: bool = False) -> Any:
    def happen(run: Run, h: Happening) -> None:
        w, cluster = run.shop, run.cluster
        if not w.uid:
            return
        cluster.touch(w)
        w.uid, w.orphaned, w.deleted_at = "", orphan, cluster.now
        if again:
            run.backups += 1
            w.uid, w.sets = f"{w.name}-{run.backups + 1}", w.sets if orphan else {}
            w.held, w.paused, w.free = Held.WAITING.value, True, False
        cluster.touch(w)

    return happen


def _delete_canary(run: Run, h: Happening) -> None:
    run.shop.canary = None
    run.cluster.touch(run.shop)


def _delete_service(run: Run, h: Happening) -> None:
    run.shop.services = {}
    run.cluster.touch(run.shop)


def _scale_canary(run: Run, h: Happening) -> None:
    if run.shop.canary:
        run.shop.canary.pods.scale(1, run.cluster.now)
        run.shop.canary_scaled_by = "kubectl"
        run.cluster.touch(run.shop)


def _unpause(run: Run, h: Happening) -> None:
    """A cluster admin, past admission."""
    w = run.shop
    if w.uid and w.held == Held.RUNNING:
        w.paused, w.unpaused_by, w.free = False, "kubectl", True
        run.cluster.roll(w)  # in milliseconds
        run.cluster.touch(w)


def _stray(run: Run, h: Happening) -> None:
    run.shop.strays = True
    run.later(h, lambda: setattr(run.shop, "strays", False))


def _git_ops(run: Run, h: Happening) -> None:
    run.shop.reverts = True
    run.later(h, lambda: setattr(run.shop, "reverts", False))


def _scale(size: int) -> Any:
    def happen(run: Run, h: Happening) -> None:
        run.shop.size = size
        run.cluster.touch(run.shop)
        if size == 0:
            run.later(h, lambda: _scale(SIZE)(run, h))

    return happen


def _autoscaler(run: Run, h: Happening) -> None:
    w = run.shop
    if w.scaler:
        w.size = max(w.scaler.min_replicas, SIZE - 3)
        run.cluster.touch(w)


def _rewrite(run: Run, h: Happening) -> None:
    for way in run.shop.routes.values():
        if way.weight:
            run.rewrite(way, run.shop)


def _rewrite_often(every: timedelta) -> Any:
    def happen(run: Run, h: Happening) -> None:
        run.rewriting_until, run.rewrite_every = run.until(h), every

    return happen


def _no_routes(run: Run, h: Happening) -> None:
    run.shop.routes = {}
    run.cluster.touch(run.shop)


def _policy(problem: str) -> Any:
    def happen(run: Run, h: Happening) -> None:
        for past in run.cluster.policies.values():
            if past.now[0]:
                run.later(h, partial(past.set, past.now, run.until(h)))
            past.set((None, problem), run.cluster.now)

    return happen


def _freeze(run: Run, h: Happening) -> None:
    now = run.cluster.now
    frozen = replace(CLOSED, from_=now, until=now + seconds(max(30, h.lasts)))
    for past in run.cluster.policies.values():
        policy = past.now[0]
        if policy:
            past.set((replace(policy, window=replace(policy.window, freezes=(frozen,))), ""), now)


def _pause(run: Run, h: Happening) -> None:
    run.of_first(Action.PAUSE, "ann-7")
    if h.value < 0.9:
        run.later(h, lambda: run.of_first(Action.RESUME, "ann-7"))


def _incident(run: Run, h: Happening) -> None:
    run.cluster.incidents.append(Incident("Down", {"severity": "P0"}, run.cluster.now))


def _stable_errors(run: Run, h: Happening) -> None:
    run.cluster.stable_errors = (h.value, run.cluster.now, run.until(h))


def _quota(run: Run, h: Happening) -> None:
    run.shop.failure = "QuotaExceeded: pods"
    run.later(h, lambda: setattr(run.shop, "failure", ""))


def _repause(run: Run, h: Happening) -> None:
    """Something sets spec.paused again, over and over, past admission."""

    def again(left: int) -> None:
        w = run.shop
        if w.held == Held.PROMOTING and w.uid:
            w.paused, w.unpaused_by = True, "argocd-controller"
            run.cluster.repauses.append(run.cluster.now)
            run.cluster.touch(w)
        if left:
            run.mends.append((run.cluster.now + seconds(3), lambda: again(left - 1)))

    again(round(h.lasts / 5))


def _retry(run: Run, h: Happening) -> None:
    known = run.first()
    if known:
        run.shop.retry = known.change.change_id
        run.cluster.touch(run.shop)


def _revoke(run: Run, h: Happening) -> None:
    run.cluster.revoked["ann-2" if h.value < 0.3 else "ann-1"] = run.cluster.now


HAPPEN: dict[str, Any] = {
    "errors": _behave("errors"),
    "slow": _behave("slow"),
    "log errors": _behave("log_errors"),
    "crash": _suffer("crashes"),
    "unready": _suffer("unready"),
    "deaf": _suffer("deaf"),
    **{
        f"prometheus {f}": _prometheus(f)
        for f in ("down", "partial", "labels", "invalid", "slow", "nan", "empty", "gaps", "lag")
    },
    **{f"api {kind}": _api(kind) for kind in ("conflict", "down", "throttled", "forbidden", "lost")},
    "watch stalls": _stall,
    "route not accepted": _unaccepted,
    "admission away": _admission,
    "audit away": _audit,
    "kill before": _kill(False),
    "kill after": _kill(True),
    "dead for long": _dead,
    "stopped leader": _stop,
    "two leaders": _both,
    "clock ahead": _skew(1),
    "clock behind": _skew(-1),
    "new template": _template("v3"),
    "back to stable": _template(STABLE),
    "emergency template": _template("v4", label="CHG-20261123-009", kind="emergency"),
    "new id": _template("v5", label="CHG-20261123-005"),
    "template past admission": _smuggle,
    "label removed": _unlabel,
    "approve": lambda run, h: run.of_first(Action.APPROVE, "ann-9", forward_only=True, over_budget=h.value > 0.3),
    "deny": lambda run, h: run.of_first(Action.DENY, "ann-8"),
    "forge": lambda run, h: run.of_first(Action.APPROVE, "mallory"),
    "self-approve": lambda run, h: run.of_first(Action.APPROVE, "dev"),
    "revoke": _revoke,
    "pause": _pause,
    "name taken": _name_taken,
    "other controller": _other_controller,
    "same id elsewhere": _same_id,
    "type differs": _type_differs,
    "form broken": _form_broken,
    "rollback": lambda run, h: run.of_first(Action.ROLLBACK, "ann-6"),
    "promote": lambda run, h: run.of_first(Action.PROMOTE, "ann-5"),
    "bypass": lambda run, h: run.of_first(Action.BYPASS, "ann-4", expires_at=run.cluster.now + timedelta(hours=1)),
    "delete change": _delete_change,
    "delete deployment": _delete_deployment(False),
    "delete orphaning": _delete_deployment(True),
    "recreate": _delete_deployment(True, again=True),
    "delete canary": _delete_canary,
    "delete service": _delete_service,
    "scale canary": _scale_canary,
    "un-pause": _unpause,
    "service edited": _stray,
    "gitops": _git_ops,
    "scale up": _scale(SIZE + 3),
    "scale down": _scale(SIZE - 3),
    "scale to zero": _scale(0),
    "autoscaler down": _autoscaler,
    "rewrite route": _rewrite,
    "rewrite route often": _rewrite_often(SECOND),
    "rewrite route now and then": _rewrite_often(seconds(9)),
    "route deleted": _no_routes,
    "policy broken": _policy("InvalidPolicy: spec.steps: none"),
    "policy gone": _policy("PolicyNotFound: there is none"),
    "freeze": _freeze,
    "incident": _incident,
    "stable errors": _stable_errors,
    "quota": _quota,
    "retry": _retry,
    "pause set again": _repause,
}


# --- Many ---


def play(plan: Plan) -> Result:
    result: Result
    fired: set[tuple[Phase, str, str]] = set()
    with watched_rules(fired):
        result = asyncio.run(Run(plan).play())
    result.fired = fired
    return result


@contextmanager
def without(phase: Phase, name: str) -> Iterator[None]:
    """The rules table with one row taken out."""
    rules = machine.RULES[phase]
    back, hold = (tuple(c for c in row if c.__name__ != name) for row in (rules.roll_back, rules.hold))
    machine.RULES[phase] = replace(rules, roll_back=back, hold=hold)
    try:
        yield
    finally:
        machine.RULES[phase] = rules


def rows() -> list[tuple[Phase, str]]:
    """Every row of the rules table."""
    return [(phase, c.__name__) for phase, rules in machine.RULES.items() for c in (*rules.roll_back, *rules.hold)]


def shrink(plan: Plan, rule: str) -> Plan:
    """The plan without what it does not take to break the rule."""
    smaller = True
    while smaller:
        smaller = False
        for i in range(len(plan.happenings)):
            less = replace(plan, happenings=plan.happenings[:i] + plan.happenings[i + 1 :])
            broken = play(less).broken
            if broken and broken.rule == rule:
                plan, smaller = less, True
                break
    return plan


def report(result: Result) -> str:
    assert result.broken
    small = shrink(result.plan, result.broken.rule)
    again = play(small)
    story = "\n".join([line for line in again.story if "Baking" not in line][-20:])
    return f"seed {result.plan.seed}: {again.broken}\n  {small}\n{story}"


def quiet() -> None:
    """Without the controller's log."""
    loop.log = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
