"""Users: a constant rate of requests, and what became of each."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

NO_VERSION = "none"  # of an answer without the header x-version, and of no answer


@dataclass(frozen=True)
class Counts:
    """Requests that ended in a stretch of time. 4xx, 5xx, refused connections and time-outs are failed.
    `by_version` counts all of them, `codes` by HTTP code or `timeout`, `connect`, `broken`, `overload`."""

    sent: int
    ok: int
    failed: int
    by_version: dict[str, int]
    failed_by_version: dict[str, int]
    codes: dict[str, int]


@dataclass(frozen=True)
class Second(Counts):
    ended_at: datetime
    p50: timedelta
    p99: timedelta


@dataclass(frozen=True)
class Summary(Counts):
    """The whole run. `first_at` and `last_at`: when the first and the last request that a version answered was sent."""

    ended_at: datetime
    p50: timedelta
    p99: timedelta
    first_at: dict[str, datetime]
    last_at: dict[str, datetime]


class LoadError(Exception):
    """The load generator ended without a summary."""


class Load:
    """A running `shop load`. It ends by itself when this process does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._seconds: list[Second] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        url: str,
        *,
        host: str = "",
        rps: float = 100,
        duration: timedelta | None = None,
        timeout: timedelta = timedelta(seconds=2),  # noqa: ASYNC109 - of a request, not of this call
        command: Sequence[str] = ("shop",),
    ) -> Self:
        """Start to send. `command` is how shop is run, with a prefix where it has to enter a network namespace.
        Raises OSError when it cannot be started."""
        arguments = ["load", "--url", url, "--host", host, "--rps", str(rps), "--until-eof"]
        arguments += ["--timeout", f"{timeout.total_seconds()}s"]
        if duration is not None:
            arguments += ["--duration", f"{duration.total_seconds()}s"]
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, *arguments, stdin=pipe, stdout=pipe))

    @property
    def seconds(self) -> Sequence[Second]:
        """What has been counted so far, a second each."""
        return self._seconds

    def window(self, since: datetime) -> Counts:
        """The sum of the whole seconds that began at or after `since`."""
        return total(second for second in self._seconds if second.ended_at - timedelta(seconds=1) >= since)

    async def wait(self) -> Summary:
        """Wait for the end of `duration`. Raises LoadError."""
        summary = await self._reading
        code = await self._process.wait()
        if summary is None or code != 0:
            raise LoadError(f"shop load ended with code {code}")
        return summary

    async def stop(self) -> Summary:
        """End it; the requests under way are waited for. Raises LoadError."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self.wait()

    async def _read(self) -> Summary | None:
        assert self._process.stdout is not None
        async for text in self._process.stdout:
            line = json.loads(text)
            if "summary" in line:
                return _summary(line["summary"])
            self._seconds.append(Second(**_counts(line), **_timing(line)))
        return None


def total(parts: Iterable[Counts]) -> Counts:
    """The sum of several counts."""
    parts = list(parts)

    def merged(name: str) -> dict[str, int]:
        return dict(sum((Counter(getattr(part, name)) for part in parts), Counter[str]()))

    return Counts(
        sent=sum(part.sent for part in parts),
        ok=sum(part.ok for part in parts),
        failed=sum(part.failed for part in parts),
        by_version=merged("by_version"),
        failed_by_version=merged("failed_by_version"),
        codes=merged("codes"),
    )


def _summary(line: dict[str, Any]) -> Summary:
    return Summary(
        **_counts(line),
        **_timing(line),
        first_at={version: _moment(ms) for version, ms in line["first_ms"].items()},
        last_at={version: _moment(ms) for version, ms in line["last_ms"].items()},
    )


def _counts(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in Counts.__dataclass_fields__}


def _timing(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "ended_at": _moment(line["t"]),
        "p50": timedelta(milliseconds=line["p50_ms"]),
        "p99": timedelta(milliseconds=line["p99_ms"]),
    }


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
