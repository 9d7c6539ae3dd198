"""Sends what people are owed to the sinks, at least once, and keeps each receipt until the status has it.

What is owed stands in the status of the changes and is read anew each time: nothing is queued here, so nothing is lost
with this process, and nothing grows in it. Each sink has a line of its own; one that is dead delays nobody else.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import aiohttp
import structlog

from controller.core.model import Change, Receipt, State, Told
from controller.core.notices import KEPT, Route, notice_id
from controller.errors import PermanentError, back_off
from controller.sinks import Sink, body

log = structlog.get_logger()

ANSWER_MAX = timedelta(seconds=10)
PAUSE_FIRST = timedelta(seconds=1)
PAUSE_MAX = timedelta(minutes=5)
REFUSED_FIRST = timedelta(minutes=1)
REFUSED_MAX = timedelta(hours=1)
RETRY_AFTER_MAX = timedelta(minutes=15)
AT_ONCE = 20
"""As many are sent before it is looked again whether something urgent has come."""
CLOSED = (401, 403, 404, 405, 408, 410, 425, 429)
"""Answers about the sink, like all that are no 4xx; another 4xx is about the one notice, and the others go on."""


class Known(Protocol):
    @property
    def change(self) -> Change: ...
    @property
    def state(self) -> State: ...


class Reports(Protocol):
    def notified(self, sink: str, outcome: str) -> None: ...


class _Answer(NamedTuple):
    """`outcome`: delivered, refused, or why the sink took nothing. `wait` is what it asked for."""

    outcome: str
    status: int | None = None
    wait: timedelta = timedelta()


@dataclass
class _Line:
    """What is remembered of one sink, and forgotten with the process: only when to try again."""

    sink: Sink
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0
    refused: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    """By id: how often a notice was refused, and when it is tried again."""


class Notifier:
    """`owed`: the changes that owe a sink something. `wake`: has a change looked at, so that a receipt is committed."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        cluster: str,
        owed: Callable[[str], Iterable[Known]],
        known: Callable[[str, str], Known | None],
        leads: Callable[[], bool],
        wake: Callable[[str, str], None],
        reports: Reports,
        now: Callable[[], datetime],
    ) -> None:
        self._cluster, self._owed, self._known = cluster, owed, known
        self._leads, self._wake, self._reports, self._now = leads, wake, reports, now
        self._lines = {sink.name: _Line(sink) for sink in sinks}
        self._receipts: dict[tuple[str, str, str], dict[tuple[str, str], Receipt]] = {}
        """By change, and there by notice and sink."""

    @property
    def routes(self) -> Sequence[Route]:
        return tuple(line.sink for line in self._lines.values())

    def receipts(self, change: Change) -> Sequence[tuple[str, Receipt]]:
        """What sinks have acknowledged and the status may not have yet."""
        found = self._receipts.get(_key(change), {})
        return tuple((what, receipt) for (what, _), receipt in found.items())

    def oldest(self, sink: str) -> timedelta:
        """How long the oldest notice has been waiting for the sink; 0 when none is."""
        waiting = self._waiting(self._lines[sink])
        return self._now() - min(told.at for _, told in waiting) if waiting else timedelta()

    def look(self) -> None:
        """Something may be owed that was not before."""
        for line in self._lines.values():
            line.woken.set()

    async def run(self) -> None:
        """Send until cancelled."""
        timeout = aiohttp.ClientTimeout(total=ANSWER_MAX.total_seconds())
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            headers={"User-Agent": "serin"},
        ) as session:
            await asyncio.gather(*(self._keep_sending(line, session) for line in self._lines.values()))

    # --- One sink ---

    async def _keep_sending(self, line: _Line, session: aiohttp.ClientSession) -> None:
        while True:
            line.woken.clear()
            try:
                pause = await self._send_some(line, session)
            except Exception:  # whatever is wrong here must not end a process that may have to roll back
                log.exception("notifier_failed", sink=line.sink.name)
                pause = PAUSE_MAX
            if pause:
                await asyncio.sleep(pause.total_seconds())
            elif pause is None:
                await self._woken(line)

    async def _woken(self, line: _Line) -> None:
        """Until something is new, or a refused notice is due again."""
        due = min((at for _, at in line.refused.values()), default=None)
        wait = max((due - self._now()).total_seconds(), 0.01) if due else None
        try:
            async with asyncio.timeout(wait):
                await line.woken.wait()
        except TimeoutError:
            return

    async def _send_some(self, line: _Line, session: aiohttp.ClientSession) -> timedelta | None:
        """How long to pause: not at all when there may be more, None for until something is new."""
        waiting = self._waiting(line)
        self._forget(line, waiting)
        ready = [each for each in waiting if line.refused.get(notice_id(*each), (0, self._now()))[1] <= self._now()]
        if not ready:
            return None
        for change, told in sorted(ready, key=_urgency)[:AT_ONCE]:
            if not self._leads():
                return None
            answer = await self._post(line.sink, change, told, session)
            self._reports.notified(line.sink.name, answer.outcome)
            if answer.outcome == "delivered":
                line.failures = 0
                self._receive(line, change, told)
            elif answer.outcome == "refused":
                line.failures = 0
                self._put_off(line, change, told, answer)
            else:
                line.failures += 1
                pause = max(back_off(line.failures, PAUSE_FIRST, PAUSE_MAX), answer.wait)
                _not_delivered(line.sink, change, told, answer, pause)
                return pause
        return timedelta()

    def _waiting(self, line: _Line) -> list[tuple[Change, Told]]:
        sink, oldest = line.sink.name, self._now() - KEPT
        return [
            (known.change, told)
            for known in self._owed(sink)
            for told in known.state.told
            if sink in told.owed
            and told.at >= oldest
            and (told.what, sink) not in self._receipts.get(_key(known.change), {})
        ]

    def _receive(self, line: _Line, change: Change, told: Told) -> None:
        sink = line.sink.name
        self._receipts.setdefault(_key(change), {})[told.what, sink] = Receipt(sink, self._now())
        log.info(
            "notice_delivered",
            sink=sink,
            id=notice_id(change, told),
            kind=told.kind,
            namespace=change.namespace,
            change=change.change_id,
            seconds=round((self._now() - told.at).total_seconds(), 1),
        )
        self._wake(change.namespace, change.name)

    def _put_off(self, line: _Line, change: Change, told: Told, answer: _Answer) -> None:
        times, _ = line.refused.get(notice_id(change, told), (0, None))
        pause = max(back_off(times + 1, REFUSED_FIRST, REFUSED_MAX), answer.wait)
        line.refused[notice_id(change, told)] = (times + 1, self._now() + pause)
        _not_delivered(line.sink, change, told, answer, pause)

    def _forget(self, line: _Line, waiting: Sequence[tuple[Change, Told]]) -> None:
        """Receipts that the status has, of changes that are gone, and refusals of what is no longer owed."""
        still = {notice_id(*each) for each in waiting}
        line.refused = {what: put_off for what, put_off in line.refused.items() if what in still}
        for key in list(self._receipts):
            known = self._known(key[0], key[1])
            owed = {
                (told.what, sink)
                for told in (known.state.told if known and _key(known.change) == key else ())
                for sink in told.owed
            }
            self._receipts[key] = {what: receipt for what, receipt in self._receipts[key].items() if what in owed}
            if not self._receipts[key]:
                del self._receipts[key]

    async def _post(self, sink: Sink, change: Change, told: Told, session: aiohttp.ClientSession) -> _Answer:
        """No redirect is followed, and of the answer only its status and Retry-After are read."""
        try:
            url, headers = sink.address(), sink.headers()
        except PermanentError as error:
            log.warning("sink_unusable", sink=sink.name, reason=error.reason, message=error.message)
            return _Answer("unusable")
        try:
            async with session.post(
                url, json=body(sink, change, told, self._cluster), headers=headers, allow_redirects=False
            ) as response:
                return _answer(response.status, response.headers.get("Retry-After", ""))
        except TimeoutError:
            return _Answer("timeout")
        except (aiohttp.ClientError, OSError):
            return _Answer("unreachable")


def _answer(status: int, retry_after: str) -> _Answer:
    if 200 <= status < 300:
        return _Answer("delivered", status)
    asked = timedelta(seconds=int(retry_after[:9])) if retry_after.isascii() and retry_after.isdigit() else timedelta()
    wait = min(asked, RETRY_AFTER_MAX)
    if 300 <= status < 400:
        return _Answer("redirected", status, wait)
    return _Answer("refused" if 400 <= status < 500 and status not in CLOSED else "failed", status, wait)


def _not_delivered(sink: Sink, change: Change, told: Told, answer: _Answer, pause: timedelta) -> None:
    log.warning(
        "notice_not_delivered",
        sink=sink.name,
        id=notice_id(change, told),
        kind=told.kind,
        namespace=change.namespace,
        change=change.change_id,
        outcome=answer.outcome,
        status=answer.status,
        retry_in=round(pause.total_seconds(), 1),
    )


def _key(change: Change) -> tuple[str, str, str]:
    return change.namespace, change.name, change.uid


def _urgency(each: tuple[Change, Told]) -> tuple[bool, datetime]:
    """Emergencies first, then the oldest."""
    _, told = each
    return not told.kind.endswith((".emergency.declared", ".notification.overdue")), told.at
