"""The audit trail of the real loop: one record for each transition, though the controller dies at any instant."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from controller.cluster.read import Key
from controller.core import audit
from controller.core.codec import canonical, encode
from controller.core.model import Change, Observation, Phase, State
from controller.core.plan import Intent
from controller.core.proof import Anchor, Fault, verify
from controller.errors import ConflictError
from controller.reconcile import Reconciler
from tests.simulation.test_world import policy, trouble
from tests.simulation.world import BEGIN, Trail, Trouble, World

HOURS = timedelta(hours=3)


class Killed(BaseException):
    """SIGKILL."""


class Late(Trail):
    """A sink whose file is one write behind: what it was given last is lost with the process."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log, heads={r["uid"]: r["seq"] for r in map(json.loads, log)})
        self.coming: tuple[str, ...] = ()

    def append(self, lines: Sequence[str]) -> None:
        super().append(self.coming)
        self.coming = tuple(lines)  # which loses nothing that the status does not have

    def settle(self) -> None:
        self.append(())


class Mortal(World):
    """A world whose controller dies at these instants: before and after each request to the API server."""

    def __init__(self, what: Trouble, deaths: Sequence[int] = (), kind: str = "emergency", seed: int = 0):
        self.log: list[str] = []
        self.instants, self.deaths = 0, frozenset(deaths)
        self.writes: list[tuple[Phase, str]] = []
        super().__init__(policy(kind), what, seed)

    def start_controller(self) -> Reconciler:
        self.trail = Late(self.log)
        for known in self.changes.values():
            self.trail.append(known.state.audit.last)
        mortal = super().start_controller()
        lives = mortal.reconcile

        async def reconcile(key: Any) -> timedelta | None:
            try:
                return await lives(key)
            except Killed:
                self.reconciler = self.start_controller()
                raise ConflictError("Killed", "its process was killed") from None

        mortal.reconcile = reconcile  # type: ignore[method-assign]
        return mortal

    def instant(self) -> None:
        self.instants += 1
        if self.instants in self.deaths:
            raise Killed

    async def commit(self, change: Change, state: State) -> str:
        self.instant()
        version = await super().commit(change, state)
        self.instant()
        return version

    async def apply(self, intent: Intent, observation: Observation) -> None:
        self.instant()
        await super().apply(intent, observation)
        self.writes.append((self.state.phase, canonical(audit.told(intent))))
        self.instant()

    def play(self) -> State:
        asyncio.run(self.run(HOURS))
        for _ in range(3):
            asyncio.run(self._look())
        assert isinstance(self.trail, Late)
        self.trail.settle()
        return self.state

    async def _look(self) -> None:
        try:
            await self.reconciler.reconcile(Key("ChangeRequest", "demo", self.change.name))
        except ConflictError:
            return

    def records(self, kind: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log]
        return [record for record in found if record["kind"] == kind]

    def check(self) -> None:
        """What has to be true of every log."""
        state = self.state
        anchor = Anchor(self.change.change_id, "demo", "uid", state.audit.seq, state.audit.hash)
        assert verify({"log": self.log}, [anchor]) == []
        told = [(r["at"], r["what"]["phase"], r["what"].get("stage"), r["what"]["step"]) for r in self.told()]
        there = [(e["at"], e["phase"], e.get("stage"), e["step"]) for e in map(encode, state.history)]
        assert told == there, "one record for each transition, in their order"

    def told(self) -> list[dict[str, Any]]:
        return [r for r in self.records("transition") if r["uid"] == self.change.uid]


HEALTHY, FAILING = Trouble(), Trouble(errors_from=60, error_ratio=1.0)


def fails_as_it_rolls() -> Trouble:
    rolls = next(t for t in Mortal(HEALTHY).play().history if t.phase is Phase.PROMOTING)
    return Trouble(crash_at=(rolls.at - BEGIN).total_seconds() + 1)


@pytest.mark.parametrize("story", ["completed", "rolled back", "recovered"])
def test_killed_before_and_after_every_request_the_log_is_whole(story: str) -> None:
    what = {"completed": HEALTHY, "rolled back": FAILING}.get(story) or fails_as_it_rolls()
    golden = Mortal(what)
    ended = golden.play()
    golden.check()
    phases = {r["what"]["phase"] for r in golden.told()}
    assert (ended.phase is Phase.COMPLETED) == (story == "completed")
    assert (Phase.PROMOTING in phases) == (story != "rolled back")
    assert golden.instants > 40
    unrecorded = []
    for instant in range(1, golden.instants + 1):
        world = Mortal(what, [instant])
        done = world.play()
        world.check()
        assert (done.phase, done.cause) == (ended.phase, ended.cause), f"killed at instant {instant}"
        forward = Counter(name for phase, name in world.writes if phase is not Phase.ROLLING_BACK)
        told = Counter(canonical(r["what"]) for r in world.records("write"))
        unrecorded += list(forward - told)
    # The one write that waits for nothing, killed right after it or before its commit: the rollback itself is told.
    assert len(unrecorded) == (0 if story == "completed" else 2), unrecorded


def test_without_a_death_each_write_has_its_record_on_the_way_back_too() -> None:
    for what in (HEALTHY, FAILING, fails_as_it_rolls()):
        world = Mortal(what)
        world.play()
        told = Counter(canonical(r["what"]) for r in world.records("write"))
        assert told == Counter(name for _, name in world.writes)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_goes_wrong_the_log_is_whole(seed: int) -> None:
    world = Mortal(
        trouble(seed), range(7 + seed % 5, 2000, 11 + seed), ("standard", "normal", "emergency")[seed % 3], seed
    )
    world.play()
    world.check()


# --- Nothing waits for it, and nothing starts without it ---


def test_the_first_write_of_a_rollback_stands_before_its_record() -> None:
    world = Mortal(FAILING)
    order: list[str] = []
    commit, apply = world.commit, world.apply

    async def committed(change: Change, state: State) -> str:
        order.append(f"commit {state.phase}")
        return await commit(change, state)

    async def applied(intent: Intent, observation: Observation) -> None:
        order.append(f"write {type(intent).__name__}")
        await apply(intent, observation)

    world.commit, world.apply = committed, applied  # type: ignore[method-assign]
    world.play()
    back = order.index("commit RollingBack")
    assert order[back - 1] == "write Shift"
    (first, *_) = [r for r in world.records("write") if r["what"].get("weight") == 0 and r["seq"] > 10]
    (turn, *_) = [r for r in world.told() if r["what"]["phase"] == "RollingBack"]
    assert first["seq"] < turn["seq"]
    assert first["at"] == turn["at"], "both in the commit that follows the write"


def test_without_a_trail_nothing_starts_and_what_runs_goes_on_and_back() -> None:
    world = Mortal(FAILING)
    world.trail.problem = "AuditUnavailable: the audit trail cannot be written: disk full"
    asyncio.run(world.run(timedelta(minutes=5)))
    assert (world.state.phase, world.state.reason) == (Phase.WAITING, "AuditUnavailable")
    world.trail.problem = ""
    asyncio.run(world.run(timedelta(minutes=6)))
    assert world.state.phase is Phase.PROGRESSING
    world.trail.problem = "AuditUnavailable: the audit trail cannot be written: disk full"
    done = world.play()
    assert (done.phase, done.cause) == (Phase.ROLLED_BACK, "ErrorRate")
    assert any(
        w.startswith("AuditUnavailable") for s in [r["what"]["reason"] for r in world.records("warning")] for w in [s]
    )


# --- Controls ---


def test_a_log_without_the_lines_in_the_status_would_miss_records(monkeypatch: pytest.MonkeyPatch) -> None:
    real = audit.follow

    def forgetful(*args: Any, **more: Any) -> State:
        after = real(*args, **more)
        told = after.audit.last
        return replace(after, audit=replace(after.audit, last=told if told == args[0].audit.last else told[-1:]))

    monkeypatch.setattr(audit, "follow", forgetful)
    world = Mortal(HEALTHY, [9])
    world.play()
    anchor = Anchor("c", "demo", "uid", world.state.audit.seq, world.state.audit.hash)
    assert {f.fault for f in verify({"log": world.log}, [anchor])} & {Fault.MISSING, Fault.CUT}


def test_a_write_that_went_before_its_commit_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded afterwards only, a write is lost with the process."""
    real = audit.follow

    def afterwards(*args: Any, planned: Intent | None = None, **more: Any) -> State:
        return real(*args, **more)

    monkeypatch.setattr(audit, "follow", afterwards)
    world = Mortal(HEALTHY)
    world.play()
    assert Counter(n for _, n in world.writes) - Counter(canonical(r["what"]) for r in world.records("write"))
