"""The controller's process in a long run: watched, hurt, killed, and started again as by a kubelet."""

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from benchmarks.soak.figures import Census, Sample
from benchmarks.soak.plan import Happening, Plan
from benchmarks.soak.play import Ground
from testbed import stage
from testbed.bed import Bed
from testbed.process import Process
from testbed.proxy import Proxy, anything, both, hang, refuse, status, text, watches, writes
from testbed.waiting import eventually

EVERY = timedelta(seconds=2)
"""Between two samples."""
IDLE = timedelta(seconds=40)
"""After the last change, until kept connections are closed (15 s) and the controller has nothing more to do."""
RESYNC = timedelta(seconds=30)
"""How often it looks at everything and at admission all the same: samples at rest are of a whole round."""


@dataclass
class Life:
    """One controller, of as many processes as it takes."""

    bed: Bed
    process: Process
    census_file: Path
    samples: list[Sample] = field(default_factory=list)
    killed: int = 0
    deaths: list[str] = field(default_factory=list)
    """By itself."""
    meant: bool = False

    async def keep(self) -> None:
        while True:
            if not self.process.alive:
                if not self.meant:
                    self.deaths.append(self.process.tail(5))
                self.meant = False
                self.process.start()
            await asyncio.sleep(0.1)

    def kill(self) -> None:
        self.meant = True
        self.process.kill()
        self.killed += 1

    async def leads(self) -> None:
        async with asyncio.timeout(60):
            while True:
                with suppress(OSError):
                    if b"leading" in await asyncio.to_thread(self._get, "/readyz"):
                        return
                await asyncio.sleep(0.2)

    async def watch(self) -> None:
        """A sample every so often, but of a process that is stopped or just beginning."""
        while True:
            await asyncio.sleep(EVERY.total_seconds())
            with suppress(OSError, KeyError):
                self.samples.append(await asyncio.to_thread(self.sample))

    def sample(self) -> Sample:
        pid = self.process.pid
        found = dict(re.findall(r"^(\w+) (\S+)$", self._get("/metrics").decode(), re.MULTILINE))
        rss, tasks, fds = (
            int(float(found[name])) for name in ("process_resident_memory_bytes", "serin_tasks", "process_open_fds")
        )
        return Sample(datetime.now(UTC), pid, rss, tasks, fds, _sockets(pid))

    async def idle(self) -> list[Sample]:
        """While it has nothing to do."""
        await asyncio.sleep(IDLE.total_seconds())
        found = []
        for _ in range(int(RESYNC / EVERY)):
            found.append(await asyncio.to_thread(self.sample))
            await asyncio.sleep(EVERY.total_seconds())
        return found

    async def census(self) -> Census:
        self.census_file.unlink(missing_ok=True)
        os.kill(self.process.pid, signal.SIGUSR1)
        await asyncio.to_thread(eventually, self.census_file.exists)
        return Census(**json.loads(self.census_file.read_text()))

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.bed.host}:{stage.LISTEN_PORT}{path}", timeout=2) as answer:
            return bytes(answer.read())


def _sockets(pid: int) -> int:
    found = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed since
            found += os.readlink(each).startswith("socket:")
    return found


# --- What is done to the platform ---


def but_the_lease(request: web.Request) -> bool:
    return not request.path.startswith("/apis/coordination.k8s.io/")


def reads(request: web.Request) -> bool:
    return request.method == "GET" and not watches(request)


async def befall(life: Life, api: Proxy, prometheus: Proxy, happening: Happening) -> None:
    """Do it, and undo it when its time is up."""
    match happening.what:
        case "killed":
            return life.kill()
        case "stopped":
            life.process.pause()
            try:
                return await asyncio.sleep(happening.lasts.total_seconds())
            finally:
                life.process.resume()
        case "API 429":
            proxy, fault = api, api.inject(status(429, "TooManyRequests", Retry_After="1"), but_the_lease)
        case "API 500":
            proxy, fault = api, api.inject(status(500, "InternalError"), anything)
        case "API 503":
            proxy, fault = api, api.inject(text(503), anything)
        case "API refuses":
            proxy, fault = api, api.inject(refuse, anything)
        case "API cuts answers":
            proxy, fault = api, api.inject(api.cut, reads)
        case "API hangs":
            proxy, fault = api, api.inject(hang, both(but_the_lease, lambda request: not watches(request)))
        case "API loses answers":
            proxy, fault = api, api.inject(api.lose_answer, both(writes, but_the_lease))
        case "Prometheus refuses":
            proxy, fault = prometheus, prometheus.inject(refuse)
        case "Prometheus 503":
            proxy, fault = prometheus, prometheus.inject(text(503, "query timed out"))
        case "Prometheus hangs":
            proxy, fault = prometheus, prometheus.inject(hang)
        case unknown:
            raise AssertionError(unknown)
    try:
        await asyncio.sleep(happening.lasts.total_seconds())
    finally:
        proxy.lift(fault)


async def weather(ground: Ground, life: Life, api: Proxy, prometheus: Proxy, plan: Plan, done: Counter[str]) -> None:
    """The happenings of the platform in their order; none while everybody rests."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for happening in plan.platform:
            await asyncio.sleep(max(0.0, began + happening.at.total_seconds() - time.monotonic()))
            if ground.working.is_set():
                done[happening.what] += 1
                group.create_task(befall(life, api, prometheus, happening))
