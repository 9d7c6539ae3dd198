"""Leader election against a real API server: never two at once, and never nobody for long."""

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.cluster.client import Client
from controller.cluster.lease import LEASES, Lease
from controller.errors import ForbiddenError, LeaseLostError, NotFoundError
from testbed.bed import Bed
from testbed.proxy import Proxy, hang, status, text, writes
from tests.cluster.conftest import Connect
from tests.cluster.contender import DURATION, RENEW_DEADLINE, RETRY


def contender(client: Client, namespace: str, identity: str, **options: Any) -> Lease:
    times = {"duration": DURATION, "renew_deadline": RENEW_DEADLINE, "retry": RETRY}
    return Lease(client, identity, namespace=namespace, **{**times, **options})


@asynccontextmanager
async def never_two(*leases: Lease) -> AsyncIterator[None]:
    async def witness() -> None:
        while True:
            assert sum(lease.held() for lease in leases) <= 1
            await asyncio.sleep(0.002)

    task = asyncio.create_task(witness())
    try:
        yield
        assert not task.done(), "two held the lease at the same instant"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def keeping(lease: Lease) -> AsyncIterator["asyncio.Task[Any]"]:
    await lease.acquire()
    task = asyncio.create_task(lease.keep())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_one_leads_and_hands_over_when_it_stops(client: Client, namespace: str) -> None:
    a, b = contender(client, namespace, "a"), contender(client, namespace, "b")
    async with never_two(a, b):
        async with keeping(a):
            spec = (await client.get(LEASES, namespace, "serin"))["spec"]
            assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 2, 0)
            assert abs(datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])) < timedelta(seconds=5)
            waiting = asyncio.create_task(b.acquire())
            await asyncio.sleep(2.5)
            assert a.held()
            assert not waiting.done()
        await a.release()
        assert not a.held()
        async with asyncio.timeout(1):
            await waiting
        assert b.held()
        assert (b.holder, a.held()) == ("b", False)
    spec = (await client.get(LEASES, namespace, "serin"))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)
    assert spec["renewTime"] >= spec["acquireTime"]


async def test_a_leader_whose_calls_hang_knows_that_it_lost(
    proxy: Proxy, proxied: Client, client: Client, namespace: str
) -> None:
    a, b = contender(proxied, namespace, "a"), contender(client, namespace, "b")
    loop = asyncio.get_running_loop()
    async with never_two(a, b), keeping(a) as leading:
        waiting = asyncio.create_task(b.acquire())
        await asyncio.sleep(0.5)
        proxy.inject(hang)
        began = loop.time()
        with pytest.raises(LeaseLostError):
            await leading
        assert loop.time() - began <= 1.3, "at the renew deadline, though the call still hangs"
        assert not a.held()
        await waiting
        assert loop.time() - began < 2 + 0.2 + 0.8
        proxy.heal()
        assert b.held()


@pytest.mark.parametrize(
    "fault", [text(503), status(429, "TooManyRequests", Retry_After="30"), status(403, "Forbidden")],
    ids=["503", "429", "403"],
)  # fmt: skip
async def test_short_trouble_does_not_cost_the_lease(proxy: Proxy, proxied: Client, namespace: str, fault: Any) -> None:
    a = contender(proxied, namespace, "a")
    async with keeping(a) as leading:
        proxy.inject(fault, writes, times=2)
        await asyncio.sleep(1.6)
        assert a.held()
        assert not leading.done()
        proxy.inject(fault, writes)
        with pytest.raises(LeaseLostError):
            await asyncio.wait_for(leading, 1.5)


async def test_a_lost_answer_is_recognised_as_our_own_write(
    proxy: Proxy, proxied: Client, client: Client, namespace: str
) -> None:
    proxy.inject(proxy.lose_answer, writes, times=1)
    a = contender(proxied, namespace, "a")
    async with keeping(a) as leading:
        assert proxy.count(writes) == 2, "created without knowing it, then taken as our own"
        proxy.inject(proxy.lose_answer, writes, times=2)
        await asyncio.sleep(1.5)
        assert a.held()
        await client.patch(LEASES, namespace, "serin", {"metadata": {"annotations": {"touched": "by hand"}}})
        await asyncio.sleep(1.5)
        assert a.held()
        assert not leading.done()
        assert (await client.get(LEASES, namespace, "serin"))["spec"]["leaseTransitions"] == 0


async def test_a_leader_that_was_replaced_stops_at_once(client: Client, namespace: str) -> None:
    a = contender(client, namespace, "a")
    async with keeping(a) as leading:
        await client.patch(LEASES, namespace, "serin", {"spec": {"holderIdentity": "usurper"}})
        with pytest.raises(LeaseLostError, match="usurper"):
            await asyncio.wait_for(leading, 0.8)
        assert not a.held()


async def test_a_deleted_lease_is_not_taken_before_its_holder_knows(client: Client, namespace: str) -> None:
    a, b = contender(client, namespace, "a"), contender(client, namespace, "b")
    async with never_two(a, b), keeping(a) as leading:
        waiting = asyncio.create_task(b.acquire())
        await asyncio.sleep(0.5)
        await client.delete(LEASES, namespace, "serin")
        with pytest.raises(LeaseLostError):
            await leading
        await waiting
        assert b.held()


async def test_a_machine_that_slept_does_not_hold(client: Client, namespace: str) -> None:
    slept = 0.0
    a = contender(client, namespace, "a", clock=lambda: time.monotonic() + slept)
    async with keeping(a) as leading:
        assert a.held()
        slept = 60
        assert not a.held(), "before any other code had a chance to run"
        with pytest.raises(LeaseLostError):
            await leading


async def test_wall_clocks_do_not_matter(client: Client, namespace: str) -> None:
    """A leader whose clock is an hour behind renews in what looks like the distant past."""
    a, b = contender(client, namespace, "a"), contender(client, namespace, "b")
    async with never_two(a, b), keeping(a):
        past = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        await client.patch(LEASES, namespace, "serin", {"spec": {"renewTime": past}})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(b.acquire(), 1)


async def test_what_makes_leading_impossible_is_told(control_plane: Bed, connect: Connect, client: Client) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        await contender(client, "nowhere", "a").acquire()
    nobody = await connect(control_plane.kubeconfig(), impersonate="system:serviceaccount:default:nobody")
    with pytest.raises(ForbiddenError, match="leases"):
        await contender(nobody, "default", "a").acquire()


def test_times_that_cannot_be_safe_are_refused() -> None:
    with pytest.raises(ValueError, match="renew_deadline < duration"):
        Lease(None, "a", duration=timedelta(seconds=10))  # type: ignore[arg-type]


@dataclass
class Contender:
    """A contender in a process of its own; `held` are the moments at which it held the Lease."""

    process: asyncio.subprocess.Process
    held: list[float] = field(default_factory=list)
    reading: "asyncio.Task[None] | None" = None

    @classmethod
    async def start(cls, kubeconfig: Path, namespace: str, identity: str) -> "Contender":
        arguments = ("-m", "tests.cluster.contender", str(kubeconfig), namespace, identity)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        self = cls(process)
        self.reading = asyncio.create_task(self.read())
        return self

    async def read(self) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            if line.startswith(b"held "):
                self.held.append(float(line.split()[1]))

    async def leads(self, after: float = 0) -> float:
        """The first moment after `after` at which it held the Lease."""
        async with asyncio.timeout(15):
            while not (self.held and self.held[-1] > after):  # noqa: ASYNC110 (it comes from another process)
                await asyncio.sleep(0.02)
        return next(moment for moment in self.held if moment > after)

    async def end(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        code = await self.process.wait()
        if self.reading:
            await self.reading
        return code


async def leader(contenders: list[Contender], after: float) -> Contender:
    """The one that first held the Lease after `after`, taken from the list."""
    tasks = {asyncio.create_task(one.leads(after)): one for one in contenders}
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    found = tasks[done.pop()]
    contenders.remove(found)
    return found


async def test_processes_that_are_stopped_killed_and_ended(control_plane: Bed, namespace: str) -> None:
    everyone = [await Contender.start(control_plane.kubeconfig(), namespace, identity) for identity in "abcd"]
    waiting, slack = list(everyone), 1.0  # two busy cores
    takeover_max = (DURATION + RETRY).total_seconds() + slack
    try:
        stopped = await leader(waiting, 0)
        await asyncio.sleep(1)  # the slowest to start has seen it lead, too

        stopped.process.send_signal(signal.SIGSTOP)
        at = time.monotonic()
        killed = await leader(waiting, at)
        assert await killed.leads(at) - at < takeover_max
        stopped.process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(stopped.process.wait(), 5) == 3, "it says that it lost"

        killed.process.kill()
        at = time.monotonic()
        ended = await leader(waiting, at)
        assert RETRY.total_seconds() < await ended.leads(at) - at < takeover_max

        ended.process.terminate()
        at = time.monotonic()
        last = await leader(waiting, at)
        assert await last.leads(at) - at < RETRY.total_seconds() + slack, "it released the lease"
        assert await ended.process.wait() == 0
    finally:
        for contender in everyone:
            await contender.end()
    for before, after in itertools.pairwise([stopped, killed, ended, last]):
        assert before.held[-1] < after.held[0], "two held the lease at the same instant"
