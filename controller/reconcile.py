"""The loop: read everything, decide once in pure code, commit the decision, make at most one write towards it.

Commit comes before apply: after a crash the target is computed again from what was committed. The one exception is the
first write of a rollback, which waits for nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from controller.core import audit, replay
from controller.core.change import check_id
from controller.core.checks import Finding
from controller.core.codec import JSON
from controller.core.decide import decide, recheck_after, roll_back, worth_committing
from controller.core.form import merge
from controller.core.intake import Ask, LeaveAlone, LetGo, Record, Rehold, intake, refused_name
from controller.core.model import Change, Deployment, Held, Measurements, Observation, Phase, Receipt, Ruling, State
from controller.core.notices import Route, next_deadline, tell
from controller.core.plan import Intent, plan
from controller.core.policy import Policy, Step
from controller.core.unmanaged import unmanaged
from controller.errors import ConflictError, ForbiddenError, LeaseLostError, PermanentError, SerinError

log = structlog.get_logger()

NO_POLICY = Policy(steps=(Step(100, timedelta()),))
"""Stands in while there is none: `policy_unusable` holds the change before any of it is used."""
SOON = timedelta(milliseconds=20)
OVERTAKEN_MAX = timedelta(seconds=1)
"""So long at the most does a way back wait for the answer to whether another process was faster."""
LAST_WORDS_MAX = timedelta(seconds=30)
"""A ChangeRequest that was deleted stays that long at the most for its end to be told and recorded."""


class Known(Protocol):
    @property
    def change(self) -> Change: ...
    @property
    def state(self) -> State: ...
    @property
    def unreadable(self) -> str: ...


class Outbox(Protocol):
    """Where notices go: who is told what, and what was acknowledged and is not in the status yet."""

    @property
    def routes(self) -> Sequence[Route]: ...
    def receipts(self, change: Change) -> Sequence[tuple[str, Receipt]]: ...


class Nobody:
    """The outbox without a sink."""

    routes: Sequence[Route] = ()

    def receipts(self, change: Change) -> Sequence[tuple[str, Receipt]]:
        return ()


NOBODY = Nobody()


class Key(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...


class Reads(Protocol):
    def known(self, namespace: str, name: str) -> Known | None: ...
    async def reread(self, namespace: str, name: str) -> Known | None: ...
    async def observe(self, change: Change, state: State, measurements: Measurements | None) -> Observation: ...
    async def conclusion(self, change: Change, state: State) -> Observation: ...
    async def ask(self, namespace: str, name: str) -> Ask | None: ...


class Writes(Protocol):
    async def commit(self, change: Change, state: State) -> str: ...
    async def record(self, namespace: str, record: Record) -> None: ...
    async def finalizer(self, change: Change, *, present: bool) -> None: ...
    async def forget(self, namespace: str, name: str) -> None: ...
    async def mark(self, d: Deployment, held: Held) -> None: ...
    async def release(self, d: Deployment) -> None: ...
    async def apply(self, intent: Intent, observation: Observation) -> None: ...
    async def event(self, subject: dict[str, Any], reason: str, message: str, *, warning: bool) -> None: ...


class Reports(Protocol):
    def decision(self, change: Change, before: State, after: State, observation: Observation) -> None: ...
    def judged(self, change: Change, record: JSON) -> None: ...
    def unmanaged(self, namespace: str, workload: str, count: int) -> None: ...
    def ruling(self, change: Change, ruling: Ruling) -> None: ...
    def write(self, change: Change, kind: str, message: str, *, after_verdict: timedelta | None = None) -> None: ...
    def forget(self, namespace: str, name: str) -> None: ...


class Trail(Protocol):
    """Where the audit trail goes. It never makes anyone wait."""

    @property
    def problem(self) -> str: ...
    def kept(self, uid: str) -> int: ...
    def append(self, lines: Sequence[str]) -> None: ...


class Reconciler:
    """`leads`: whether this process may write at this moment. `measured`: the newest measurements of a change."""

    def __init__(
        self,
        reads: Reads,
        writes: Writes,
        reports: Reports,
        trail: Trail,
        *,
        leads: Callable[[], bool],
        measured: Callable[[str, str], Measurements | None],
        now: Callable[[], datetime],
        outbox: Outbox = NOBODY,
    ) -> None:
        self._reads, self._writes, self._reports = reads, writes, reports
        self._trail, self._outbox = trail, outbox
        self._leads, self._measured, self._now = leads, measured, now
        self._ahead: dict[tuple[str, str], tuple[Change, State]] = {}
        """What we committed or read ourselves, until the cache has caught up with it."""
        self._refused: dict[tuple[str, str], str] = {}
        self._unrecorded: dict[tuple[str, str], tuple[Intent, ...]] = {}
        """Writes of the way back that were made first and are not in the audit trail yet."""
        self._turned: dict[tuple[str, str], tuple[State, Finding]] = {}
        """Ways back that were begun and are not committed: where the change was, and why it turns. The first write may
        have taken away what spoke for it: a canary that was lost is no loss once no route has weight for it."""
        self._background: set[asyncio.Task[None]] = set()
        self._taking_in = asyncio.Lock()
        """One at a time, so that no number is given twice."""
        self._numbered: deque[str] = deque(maxlen=1000)
        """The IDs recorded last: the cache of other namespaces may not have them yet."""
        self._unaccounted: deque[str] = deque(maxlen=1000)
        """UIDs of the ReplicaSets of no change that were told of last."""
        self._starting = asyncio.Lock()
        """One at a time, so that of two changes of a Deployment one sees the other's start."""

    async def reconcile(self, key: Key) -> timedelta | None:
        """One look at one object; returns when to look again, None for at the next event."""
        if key.kind == "Deployment":
            return await self._take_in(key.namespace, key.name)
        return await self._move(key.namespace, key.name)

    # --- A Deployment that may ask for a change ---

    async def _take_in(self, namespace: str, name: str) -> timedelta | None:
        async with self._taking_in:
            return await self._take_in_alone(namespace, name)

    async def _take_in_alone(self, namespace: str, name: str) -> timedelta | None:
        ask = await self._reads.ask(namespace, name)
        if ask:
            ask = replace(ask, taken_ids=[*ask.taken_ids, *self._numbered])
            self._account(ask)
        wanted = intake(ask, self._now().date()) if ask else None
        refused = refused_name(name)
        left_alone = isinstance(wanted, LeaveAlone)
        if (
            self._reads.known(namespace, refused)
            and not left_alone
            and not (isinstance(wanted, Record) and wanted.name == refused)
        ):
            self._may_write()
            await self._writes.forget(namespace, refused)
        if ask is None or wanted is None:
            return None
        self._may_write()
        d = ask.deployment
        match wanted:
            case Record():
                known = self._reads.known(namespace, wanted.name)
                if known is None or not _says(known.change, wanted):
                    self._numbered.append(str(wanted.spec["changeId"]))
                    await self._writes.record(namespace, wanted)
                    log.info(
                        "change_recorded",
                        namespace=namespace,
                        change=wanted.spec["changeId"],
                        workload=name,
                        name=wanted.name,
                    )
            case LetGo():
                await self._writes.release(d)
                log.info("released", namespace=namespace, workload=name, revision=d.revision, reason="Reverted")
                self._tell(
                    _deployment_ref(d),
                    "Reverted",
                    "the template is one that runs already: released without a change",
                    warning=False,
                )
            case LeaveAlone():
                log.error("left_alone", namespace=namespace, workload=name, message=wanted.message)
                self._tell(_deployment_ref(d), "UnknownStatus", wanted.message, warning=True)
                return timedelta(minutes=5)
            case Rehold():
                await self._writes.mark(d, Held.WAITING)
                log.info("held_again", namespace=namespace, workload=name, revision=d.revision)
        return timedelta(seconds=30)

    def _account(self, ask: Ask) -> None:
        """Say aloud which ReplicaSets no change accounts for, each once."""
        d = ask.deployment
        if any(other.unreadable for _, other in ask.changes):
            return
        found = unmanaged(d, ask.replica_sets, (other for _, other in ask.changes))
        self._reports.unmanaged(d.namespace, d.name, len(found))
        for rs in found:
            if rs.uid in self._unaccounted:
                continue
            self._unaccounted.append(rs.uid)
            message = f"ReplicaSet {rs.name} (revision {rs.revision}) is in no change: its template got past admission"
            log.error("unmanaged", namespace=d.namespace, workload=d.name, revision=rs.revision, message=message)
            self._tell(_deployment_ref(d), "Unmanaged", message, warning=True)

    # --- A change ---

    async def _move(self, namespace: str, name: str) -> timedelta | None:
        known = self._reads.known(namespace, name)
        if known is None:
            self._ahead.pop((namespace, name), None)
            self._refused.pop((namespace, name), None)
            self._unrecorded.pop((namespace, name), None)
            self._turned.pop((namespace, name), None)
            self._reports.forget(namespace, name)
            return None
        change, before = self._newest(known)
        if known.unreadable:
            log.error(
                "status_unreadable",
                namespace=namespace,
                change=change.change_id,
                reason="UnknownStatus",
                message=known.unreadable,
            )
            return timedelta(minutes=5)
        if before.audit.seq > self._trail.kept(change.uid):
            self._trail.append(before.audit.last)
        if before.phase.terminal:
            return await self._conclude(change, before)
        return await self._cycle(change, before)

    async def _conclude(self, change: Change, before: State) -> timedelta | None:
        """What has ended lets its object go, and waits for its review."""
        now, policy = self._now(), before.policy or NO_POLICY
        unsaid = any(told.owed for told in before.told) or self._trail.kept(change.uid) < before.audit.seq
        last_words = change.deleting and unsaid
        stays = last_words and before.ended_at is not None and now - before.ended_at < LAST_WORDS_MAX
        if change.finalizer and not stays:
            self._may_write()
            await self._writes.finalizer(change, present=False)
            return SOON
        observation = Observation(change, {}, None)
        if not change.deleting:
            observation = await self._reads.conclusion(change, before)
            if await self._apply(plan(before, observation), observation):
                return SOON
        after = decide(before, observation, policy, now) if not change.deleting else before
        if change.finalizer or not change.deleting:
            after = await self._commit(change, before, after, observation, now)
        return timedelta(seconds=1) if stays else _look_again(after, policy, now)

    async def _cycle(self, change: Change, before: State) -> timedelta | None:
        key = (change.namespace, change.name)
        try:
            observation = await self._reads.observe(change, before, self._measured(*key))
        except PermanentError as error:
            await self._show(change, before, error)
            raise
        environment = (*observation.environment, *filter(None, [self._trail.problem]))
        observation = replace(observation, refusal=self._refused.get(key, ""), environment=environment)
        policy = before.policy or observation.policy or NO_POLICY
        now = self._now()
        after = self._still_turned(before, decide(before, observation, policy, now), observation, now)
        if before.phase is Phase.WAITING and after.phase not in (Phase.WAITING, after.outcome):
            async with self._starting:
                observation = self._newer(observation)
                after = decide(before, observation, policy, now)
                return await self._commit_and_apply(change, before, after, observation, policy, now)
        return await self._commit_and_apply(change, before, after, observation, policy, now)

    def _still_turned(self, before: State, after: State, observation: Observation, now: datetime) -> State:
        """What was decided, or the way back that was begun when this was looked at last and could not be committed."""
        key = (observation.change.namespace, observation.change.name)
        was, finding = self._turned.get(key, (None, None))
        if was is None or finding is None:
            return after
        if _place(was) != _place(before):
            del self._turned[key]
            return after
        return after if after.phase is Phase.ROLLING_BACK else roll_back(before, observation, finding, now)

    async def _commit_and_apply(
        self, change: Change, before: State, after: State, observation: Observation, policy: Policy, now: datetime
    ) -> timedelta | None:
        intents = plan(after, observation)
        turning_back = after.phase is Phase.ROLLING_BACK and before.phase is not Phase.ROLLING_BACK
        # On the way back no write waits for its record; forward, what is not recorded is not written.
        first = turning_back or (after.phase is Phase.ROLLING_BACK and not worth_committing(before, after))
        written: Intent | None = None
        refused: PermanentError | None = None
        if first and intents and await self._surely_overtaken(change):
            return SOON
        if first:
            if turning_back:
                finding = Finding(after.cause, after.message, after.outcome or Phase.ROLLED_BACK, after.rejected)
                self._turned[change.namespace, change.name] = (before, finding)
            try:
                written = await self._apply(intents, observation, verdict_at=now if turning_back else None)
            except PermanentError as error:
                refused = error  # it goes back all the same, and status says what is in the way
            self._record(change, written)
        if not change.finalizer and not change.deleting and not after.phase.terminal:
            self._may_write()
            await self._writes.finalizer(change, present=True)
            return SOON
        planned = None if first else next(iter(intents), None)
        after = await self._commit(change, before, after, observation, now, planned)
        if refused:
            raise refused
        if planned and not self._guarded(change) and await self._overtaken(change):
            return SOON
        if not first:
            written = await self._apply(intents, observation)
            self._record(change, written if written is not planned else None)
        moved = (before.phase, before.stage, before.step) != (after.phase, after.stage, after.step)
        judged = after.reason == "Judged"
        return SOON if written or moved or judged else _look_again(after, policy, now)

    def _record(self, change: Change, written: Intent | None) -> None:
        """With the next commit."""
        if written:
            key = (change.namespace, change.name)
            self._unrecorded[key] = (*self._unrecorded.get(key, ()), written)

    async def _commit(
        self,
        change: Change,
        before: State,
        after: State,
        observation: Observation,
        now: datetime,
        planned: Intent | None = None,
    ) -> State:
        """What was committed: the state, with what people are to be told of it, and its records.

        `planned`: the write that follows.
        """
        key, outbox, trail = (change.namespace, change.name), self._outbox, self._trail
        policy, made = after.policy or observation.policy, self._unrecorded.get(key, ())
        after = tell(before, after, change, policy or NO_POLICY, now, outbox.routes, outbox.receipts(change))
        kept = trail.kept(change.uid)
        after = audit.follow(before, after, observation, policy, now, made=made, planned=planned, kept=kept)
        if worth_committing(before, after):
            self._may_write()
            try:
                version = await self._writes.commit(change, after)
            except ConflictError:
                await self._overtaken(change)  # what is there now is looked at next, not what the cache has of it
                raise
            self._ahead[key] = (_at(change, version), after)
            self._unrecorded.pop(key, None)
            self._turned.pop(key, None)
            trail.append(after.audit.last)
            self._events(change, before, after, observation)
            self._reports.judged(change, replay.record(before, after, observation, policy or NO_POLICY))
        self._reports.decision(change, before, after, observation)
        return after

    async def _apply(
        self, intents: Sequence[Intent], observation: Observation, verdict_at: datetime | None = None
    ) -> Intent | None:
        """The one of them that was made; PermanentError when there are any, and all are refused."""
        key = (observation.change.namespace, observation.change.name)
        refused: PermanentError | None = None
        written: Intent | None = None
        for intent in intents:
            self._may_write()
            try:
                await self._writes.apply(intent, observation)
            except PermanentError as error:
                refused = refused or error
            else:
                written = intent
                break
        self._refused.pop(key, None)
        if refused:
            self._refused[key] = f"{_reason(refused)}: {refused.message}"[:400]
            if written is None:
                raise refused
        if written:
            took = self._now() - verdict_at if verdict_at else None
            kind = type(written).__name__
            self._reports.write(observation.change, kind, f"{written.target.name}", after_verdict=took)
        return written

    def _newest(self, known: Known) -> tuple[Change, State]:
        key = (known.change.namespace, known.change.name)
        ahead = self._ahead.get(key)
        if ahead and _version(ahead[0]) > _version(known.change):
            return ahead
        self._ahead.pop(key, None)
        return known.change, known.state

    def _guarded(self, change: Change) -> bool:
        """Whether it was committed in this cycle: the API server has said that it was decided about the newest."""
        ahead = self._ahead.get((change.namespace, change.name))
        return ahead is not None and _version(ahead[0]) > _version(change)

    async def _overtaken(self, change: Change) -> bool:
        """Asked before a write that no commit has come before: whether another process has committed since.

        Our copy may lag behind what a former leader did: it may have completed what we are about to take back.
        """
        known = await self._reads.reread(change.namespace, change.name)
        if known is None or known.unreadable:
            raise ConflictError("Conflict", f"{change.change_id} is not what was decided about any more")
        if _version(known.change) <= _version(change):
            return False
        self._ahead[change.namespace, change.name] = (known.change, known.state)
        return True

    async def _surely_overtaken(self, change: Change) -> bool:
        """On the way back, which waits for no answer."""
        try:
            async with asyncio.timeout(OVERTAKEN_MAX.total_seconds()):
                return await self._overtaken(change)
        except ConflictError:
            raise
        except (SerinError, TimeoutError) as error:
            log.warning("status_unknown", namespace=change.namespace, change=change.change_id, error=str(error))
            return False

    def _newer(self, observation: Observation) -> Observation:
        """With what we committed ourselves about the other changes."""
        committed = {key: state for key, (_, state) in self._ahead.items()}
        others = (
            replace(
                other,
                phase=state.phase,
                revisions={t.name: t.revision for t in state.targets},
                uids={t.name: t.uid for t in state.targets},
            )
            if (state := committed.get((other.namespace, other.name)))
            else other
            for other in observation.others
        )
        return replace(observation, others=tuple(others))

    def _may_write(self) -> None:
        if not self._leads():
            raise LeaseLostError("LeaseLost", "this process leads no more")

    # --- Telling people ---

    async def _show(self, change: Change, before: State, error: PermanentError) -> None:
        """What may not be read is a reason in status, for no rule can see it."""
        reason = _reason(error)
        after = _with_reason(before, reason, error.message)
        if (before.reason, before.message) == (after.reason, after.message):
            return
        log.error("refused", namespace=change.namespace, change=change.change_id, reason=reason, message=error.message)
        self._may_write()
        version = await self._writes.commit(change, after)
        self._ahead[change.namespace, change.name] = (_at(change, version), after)
        self._tell(_change_ref(change), reason, error.message, warning=True)

    def _events(self, change: Change, before: State, after: State, observation: Observation) -> None:
        """One Event for each transition, for each new reason to wait, and for each new warning."""
        for new in after.warnings:
            if new not in before.warnings:
                reason, _, text = new.partition(": ")
                goes_on = f"; {change.change_id} goes on with what it started with"
                at_start = new in (observation.policy_problem, *observation.environment)
                message = text + goes_on if at_start and not after.phase.terminal else text
                self._tell(_change_ref(change), reason, message, warning=True)
        for ruling in after.decisions[len(before.decisions) :]:
            self._ruled(change, ruling)
        moved = len(after.history) > len(before.history) or after.history[-1:] != before.history[-1:]
        if not moved and (before.reason == after.reason or after.reason not in WARNINGS | ASKING):
            return
        going_back = after.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        warning = going_back or after.reason in WARNINGS or check_id(change.change_id) is not None
        message = f"{change.change_id}: {after.message}"
        self._tell(_change_ref(change), after.reason, message, warning=warning)
        for name in sorted(observation.targets):
            if d := observation.targets[name].deployment:
                self._tell(_deployment_ref(d), after.reason, message, warning=warning)

    def _ruled(self, change: Change, ruling: Ruling) -> None:
        """A decision that was taken in; one that does not count is a matter of security."""
        reason, _, why = ruling.refusal.partition(": ")
        text = f"{ruling.action} by {ruling.by}"
        self._reports.ruling(change, ruling)
        if ruling.counts:
            note = f": {ruling.reason}" if ruling.reason else ""
            self._tell(_change_ref(change), "Decided", f"{change.change_id}: {text}{note}", warning=False)
        else:
            message = f"{change.change_id}: {text} does not count: {reason}: {why}"
            self._tell(_change_ref(change), "DecisionRefused", message, warning=True)

    def _tell(self, subject: dict[str, Any], reason: str, message: str, *, warning: bool) -> None:
        """In the background: an Event that cannot be written holds nothing up."""
        task = asyncio.create_task(self._event(subject, reason, message, warning=warning))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _event(self, subject: dict[str, Any], reason: str, message: str, *, warning: bool) -> None:
        try:
            await self._writes.event(subject, reason, message, warning=warning)
        except Exception as error:
            log.warning("event_not_written", reason=reason, error=str(error))


ASKING = frozenset(
    (
        "AwaitingApproval",
        "FormIncomplete",
        "ForwardOnlyUnsaid",
        "LowTraffic",
        "NotStandard",
        "Paused",
        "TestsUnverified",
    )
)
"""Reasons to wait that someone may want to act on; the other ones pass by themselves."""
WARNINGS = frozenset(
    (
        "AdmissionMissing",
        "ApprovalDenied",
        "AuditUnavailable",
        "AnotherChangeActive",
        "ChangeClosed",
        "ChangeRunning",
        "Contested",
        "DuplicateChangeID",
        "GitOpsWillRevert",
        "InvalidAnnotation",
        "InvalidChangeID",
        "InvalidForm",
        "InvalidPolicy",
        "InvalidQuery",
        "JobFailed",
        "LabelRemoved",
        "NameTaken",
        "NoData",
        "NoReferenceGrant",
        "NoSuchBucket",
        "NoHistogram",
        "NoSuchJob",
        "NotificationOverdue",
        "NotHeld",
        "OverLimit",
        "OwnedByAnotherController",
        "PermissionDenied",
        "PolicyNotFound",
        "PartialData",
        "PrometheusError",
        "PrometheusUnreachable",
        "RejectedRevision",
        "ReviewOverdue",
        "RouteLost",
        "RouteStuck",
        "ScaledToZero",
        "ServiceChanged",
        "ServiceWithoutPods",
        "StableNotReady",
        "TwoActiveReplicaSets",
        "TypeDiffers",
        "UnexpectedSeries",
        "UnknownType",
    )
)


def _reason(error: PermanentError) -> str:
    return "PermissionDenied" if isinstance(error, ForbiddenError) and error.reason == "Forbidden" else error.reason


def _says(change: Change, record: Record) -> bool:
    """Whether the ChangeRequest has all that the record asks for."""
    spec = change.spec or {}
    return bool(merge(spec, record.spec) == spec)


def _look_again(state: State, policy: Policy, now: datetime) -> timedelta | None:
    moment = next_deadline(state, policy, now)
    waits = (recheck_after(state, policy, now), moment - now if moment else None)
    return min((wait for wait in waits if wait is not None), default=None)


def _place(state: State) -> tuple[object, ...]:
    return state.phase, state.stage, state.step, state.started_at


def _version(change: Change) -> int:
    return int(change.resource_version)


def _at(change: Change, version: str) -> Change:
    return replace(change, resource_version=version)


def _with_reason(state: State, reason: str, message: str) -> State:
    return replace(state, reason=reason, message=message[:400])


def _change_ref(change: Change) -> dict[str, Any]:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "namespace": change.namespace,
        "name": change.name,
        "uid": change.uid,
    }


def _deployment_ref(d: Deployment) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": d.namespace, "name": d.name, "uid": d.uid}
