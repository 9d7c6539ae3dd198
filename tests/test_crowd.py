"""Five hundred workloads, fifty canaries, and lists that are read again every few seconds: who has to go back does."""

import asyncio
import random
from datetime import timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from controller.app import _Process
from controller.cluster.client import Client
from controller.cluster.clock import Clock
from controller.cluster.read import Key, Known
from controller.core.model import Change, Phase, State
from controller.core.policy import ChangeType
from controller.settings import load_settings

pytestmark = pytest.mark.looptime

WORKLOADS, CANARIES, NAMESPACES = 500, 50, 20
LOOK = 0.1
"""Seconds that a look takes: ten requests one after the other, on an API server that is slow."""
RELIST_EVERY, LASTS = 4, 120
WITHIN = 10


async def waits(monkeypatch: pytest.MonkeyPatch, *, urgent: bool = True) -> tuple[list[float], int]:
    """From each verdict to the end of the look that acts on it, in seconds, shortest first; the deepest queue."""
    monkeypatch.setenv("SERIN_PROMETHEUS_URL", "http://prometheus.test")
    process = _Process(load_settings(), cast(Client, SimpleNamespace(clock=Clock())))
    monkeypatch.setattr(process.lease, "held", lambda: True)
    keys = [Key("ChangeRequest", f"team-{n % NAMESPACES}", f"chg-{n}") for n in range(WORKLOADS)]
    phase_of = {key.name: Phase.PROGRESSING if n < CANARIES else Phase.WAITING for n, key in enumerate(keys)}

    def known(namespace: str, name: str) -> Known:
        change = Change(namespace, name, name.upper(), ChangeType.NORMAL)
        return Known(change, State(phase=phase_of[name] if urgent else Phase.WAITING))

    loop, verdicts, waited, deepest = asyncio.get_running_loop(), dict[str, float](), list[float](), [0]

    async def reconcile(key: Key) -> timedelta | None:
        asked_at = verdicts.pop(key.name, None) if key.kind == "ChangeRequest" else None
        deepest[0] = max(deepest[0], process.queue.depth)
        await asyncio.sleep(LOOK)
        if asked_at is not None:
            waited.append(loop.time() - asked_at)
        return None

    monkeypatch.setattr(process.cluster, "known", known)
    monkeypatch.setattr(process.reconciler, "reconcile", reconcile)

    async def relist() -> None:
        """All that there is, told again."""
        while True:
            for key in keys:
                process.cluster._tell(key)
                process.cluster._tell(Key("Deployment", key.namespace, key.name))
            await asyncio.sleep(RELIST_EVERY)

    async def judge() -> None:
        chance = random.Random(6)
        while True:
            await asyncio.sleep(chance.uniform(0, 1))
            key = keys[chance.randrange(CANARIES)]
            verdicts.setdefault(key.name, loop.time())
            process._wake(key.namespace, key.name)

    tasks = [asyncio.create_task(work) for work in (relist(), judge(), process.queue.run(process.work, workers=4))]
    await asyncio.sleep(LASTS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await process.prometheus.close()
    return sorted(waited), deepest[0]


async def test_a_way_back_waits_for_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    waited, deepest = await waits(monkeypatch)
    assert len(waited) > 100
    assert waited[int(len(waited) * 0.99)] < WITHIN / 4
    assert deepest <= 2 * WORKLOADS, "each object is in the queue once, however often it is told of"


async def test_without_its_turn_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    waited, _ = await waits(monkeypatch, urgent=False)
    assert waited[int(len(waited) * 0.99)] > WITHIN
