"""The work queue: keys in, at most one worker a key at a time, urgent keys first.

A key stands in one place: ready, waiting for its moment, or being worked on. When it comes up again while it is being
worked on, it is worked on once more afterwards: an event is never lost, and any number of them make one run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, NoReturn, TypeVar

import structlog

from controller.errors import back_off

K = TypeVar("K", bound=Hashable)
log = structlog.get_logger()


class WorkQueue(Generic[K]):
    """Keys of work. `first` and `most` bound the back-off of one key that fails again and again."""

    def __init__(self, first: timedelta = timedelta(milliseconds=200), most: timedelta = timedelta(seconds=30)) -> None:
        self._first, self._most = first, most
        self._ready: dict[bool, dict[K, None]] = {True: {}, False: {}}  # urgent or not; dicts, for they keep the order
        self._waiting: dict[K, tuple[asyncio.TimerHandle, bool]] = {}
        self._working: dict[K, bool | None] = {}  # None, or whether the run that follows is urgent
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Semaphore(0)

    @property
    def depth(self) -> int:
        """How many keys are ready and have no worker yet."""
        return len(self._ready[True]) + len(self._ready[False])

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Work on `key` as soon as a worker is free, the urgent ones first. Takes the place of a delayed add."""
        if waiting := self._waiting.pop(key, None):
            waiting[0].cancel()
            urgent = urgent or waiting[1]
        if key in self._working:
            self._working[key] = urgent or bool(self._working[key])
        elif key in self._ready[True] or key in self._ready[False]:
            if urgent and key in self._ready[False]:
                del self._ready[False][key]
                self._ready[True][key] = None
        else:
            self._ready[urgent][key] = None
            self._wake.release()

    def add_after(self, key: K, delay: timedelta, *, urgent: bool = False) -> None:
        """Add `key` when `delay` has passed; of several moments the earliest counts, and what is ready stays ready."""
        if delay <= timedelta(0) or key in self._ready[True] or key in self._ready[False]:
            self.add(key, urgent=urgent)
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + delay.total_seconds()
        if waiting := self._waiting.get(key):
            handle, was_urgent = waiting
            at, urgent = min(at, handle.when()), urgent or was_urgent
            handle.cancel()
        self._waiting[key] = (loop.call_at(at, self.add, key), urgent)

    def retry(self, key: K, *, urgent: bool = False, at_least: timedelta = timedelta(0)) -> timedelta:
        """Add `key` again after its back-off, which doubles with every retry until `forget`; returns the wait.

        `at_least`: what the server asked for (`TransientError.retry_after`).
        """
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(at_least, back_off(self._failures[key], self._first, self._most))
        self.add_after(key, delay, urgent=urgent)
        return delay

    def forget(self, key: K) -> None:
        """The key went well: its next failure starts from the shortest back-off."""
        self._failures.pop(key, None)

    async def run(self, work: Callable[[K], Awaitable[None]], *, workers: int) -> NoReturn:
        """Work on keys until cancelled, `workers` at a time. What `work` raises is logged and its key retried."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(work))
        raise AssertionError("workers end only by cancellation")

    async def _worker(self, work: Callable[[K], Awaitable[None]]) -> NoReturn:
        while True:
            await self._wake.acquire()
            ready = self._ready[True] or self._ready[False]
            key = next(iter(ready))
            del ready[key]
            self._working[key] = None
            try:
                await work(key)
            except Exception:
                log.exception("work_failed", key=str(key), retry_in=self.retry(key).total_seconds())
            finally:
                again = self._working.pop(key)
                if again is not None:
                    self.add(key, urgent=again)
