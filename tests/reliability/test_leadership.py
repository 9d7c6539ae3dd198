"""Two replicas, and a leader that is stopped, or whose requests hang for longer than its lease: two never both win.

The clock that jumps under a leader is in tests/cluster/test_lease.py, for a process cannot be given another one here.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from aiohttp import web

from testbed import stage
from testbed.kills import LEASE, SCENARIOS, Arena, Play
from testbed.laws import World, broken, leftovers
from testbed.process import Process
from testbed.proxy import Answer, When, both, hang, under, writes
from testbed.waiting import eventually

LONG = timedelta(minutes=2)
SOON = timedelta(seconds=20)
HOUR = timedelta(hours=1)
TAKEOVER_MAX = timedelta(seconds=20)
SHIPPED = {"SERIN_LEASE_DURATION": "15s", "SERIN_LEASE_RENEW_DEADLINE": "10s", "SERIN_LEASE_RETRY": "2s"}


def holder(arena: Arena) -> str:
    return str((arena.api.get(LEASE) or {}).get("spec", {}).get("holderIdentity") or "")


@contextmanager
def replica(arena: Arena, port: int, **settings: str) -> Iterator[Process]:
    """Another controller, which reaches the API server without the proxy, and appends to the same trail."""
    trail = {"SERIN_AUDIT_FILE": str(stage.audit_file(arena.bed)), "SERIN_WORKERS": "32"}
    process = stage.controller(arena.bed, f"replica-{port}", port=port, **trail, **settings)
    process.start()
    try:
        within = timedelta(seconds=40)  # the lease of one that was killed before
        eventually(lambda: '"started"' in process.log.read_text() and holder(arena), within)
        yield process
    finally:
        process.resume()
        process.stop()


def test_a_leader_that_is_stopped_is_replaced_and_writes_nothing_when_it_wakes(arena: Arena) -> None:
    """With the lease as it is shipped. The rollback that a person asks for meanwhile is made by whoever leads."""
    [play] = arena.set_up([SCENARIOS["complete"]])
    arena.controller.stop()
    with replica(arena, 9831, **SHIPPED) as leader, replica(arena, 9832, **SHIPPED) as next_one:
        with arena.policy(bakes=(HOUR, HOUR, HOUR)):
            change = play.ask("v2")
            eventually(lambda: play.status(change).get("reason") == "Baking", within=LONG)
        first = holder(arena)
        assert f"_{leader.pid}_" in first
        leader.pause()
        stopped_at = time.monotonic()
        play.roll_back(change)
        eventually(lambda: holder(arena) not in ("", first), within=LONG)
        assert time.monotonic() - stopped_at < TAKEOVER_MAX.total_seconds()
        eventually(play.over, within=LONG)
        assert (play.phase(change), play.weight()) == ("RolledBack", 0)
        eventually(lambda: not play.change(change)["metadata"].get("finalizers"), within=SOON)
        told = len(arena.recorder.history([play.namespace]))
        leader.resume()
        eventually(lambda: not leader.alive, within=SOON)
        assert "LeaseLost" in leader.log.read_text()
        assert next_one.alive
        after = [v for v in arena.recorder.history([play.namespace])[told:] if v.kind in ("ChangeRequest", "HTTPRoute")]
        assert after == []
    assert broken(arena.recorder.history([play.namespace])) == []


# --- Requests that arrive when another one leads ---


class Late:
    """Requests of the proxied leader that hang on their way, and arrive when `release` says so."""

    def __init__(self, arena: Arena) -> None:
        self.arena, self._released = arena, asyncio.Event()
        self.asked: list[tuple[str, str]] = []
        self.answers: list[tuple[str, str, int]] = []

    def hold(self, play: Play, when: When) -> None:
        there = both(under(f"/namespaces/{play.namespace}/"), writes, when)
        self.arena.proxy.inject(self._act, there)

    async def _act(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        return await self.arena.proxy.late(self._released, self._answered)(request)

    def _answered(self, request: web.Request, answer: Answer) -> None:
        self.answers.append((request.method, request.path, answer.status))

    def held(self, play: Play) -> bool:
        return any(f"/namespaces/{play.namespace}/" in path for _, path in self.asked)

    def release(self) -> list[tuple[str, str, int]]:
        self.arena.thread.release(self._released)
        eventually(lambda: len(self.answers) == len(self.asked), within=SOON)
        return self.answers


def test_requests_that_arrive_when_another_one_leads_change_nothing(arena: Arena) -> None:
    """Writes that were decided on and sent in time, and hung in the network until the next leader had gone on."""
    late = Late(arena)
    raising, creating, deleting, committing = plays = arena.set_up([SCENARIOS["complete"]] * 4)
    route, canary = under("/httproutes/"), under("/deployments")
    late.hold(raising, lambda r: route(r) and raising.status(raising.changes[0]).get("weight") == 50)
    late.hold(creating, lambda r: canary(r) and r.method == "POST")
    late.hold(deleting, lambda r: canary(r) and r.method == "DELETE")
    late.hold(committing, lambda r: r.path.endswith("/status") and committing.weight() == 10)
    arena.go_on(plays, lambda: all(map(late.held, plays)), LONG)
    first = holder(arena)
    with replica(arena, 9833, SERIN_LEASE_DURATION="6s", SERIN_LEASE_RENEW_DEADLINE="4s", SERIN_LEASE_RETRY="500ms"):
        hung = arena.proxy.inject(hang, lambda request: True)
        eventually(lambda: holder(arena) not in ("", first), within=SOON)
        for play in (raising, creating, committing):
            play.roll_back(play.changes[0])
        eventually(lambda: all(play.over() for play in plays), within=LONG)
        deleting.ask("v3")
        eventually(lambda: deleting.weight() == 10, within=LONG)
        eventually(lambda: not arena.controller.alive, within=SOON)
        arena.proxy.lift(hung)
        answers = late.release()
        # What changes or deletes is refused: it is not the object any more that was decided about.
        refused = [(method, code) for method, _, code in answers if method != "POST"]
        assert len(refused) >= 3
        assert all(code in (404, 409) for _, code in refused), answers
        # A create cannot be refused: the next leader sees it, and takes it away.
        assert ("POST", 201) in [(method, code) for method, _, code in answers]
        eventually(lambda: not left(arena, creating), within=SOON)
        eventually(deleting.over, within=LONG)
        assert deleting.phase(deleting.changes[1]) == "Completed"
        assert [play.phase(play.changes[0]) for play in plays] == [
            "RolledBack",
            "RolledBack",
            "Completed",
            "RolledBack",
        ]
    history = arena.recorder.history([play.namespace for play in plays])
    assert [breach for breach in broken(history) if "is made, and its change is not under way" not in breach] == []


def left(arena: Arena, play: Play) -> list[str]:
    world = World()
    for version in arena.recorder.history([play.namespace]):
        world.put(version)
    return list(leftovers(world, play.namespace, play.changes[0].lower()))
