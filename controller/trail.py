"""Where the audit trail goes: to a file and to standard output, in a thread of its own. Nothing waits for it.

A record that the file has already is not written again: whoever takes over appends what the one before could not.
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import msgspec
import structlog

log = structlog.get_logger()

LINES_MAX = 20_000
"""Lines that wait in memory while nothing can be written; then the oldest go."""
SPACE_MIN = 16 * 1024 * 1024
"""Bytes that the file system has to have left for a change to start."""
RETRY = timedelta(seconds=2)
PROBE = timedelta(seconds=5)
STUCK_AFTER = timedelta(seconds=10)
CHUNK = 1 << 20


class _Name(msgspec.Struct):
    uid: str
    seq: int


_name = msgspec.json.Decoder(_Name).decode


class Trail:
    """`path`: the file, if there is one. `stream` gets every line at least once, the file exactly once."""

    def __init__(self, path: Path | None, stream: BinaryIO) -> None:
        self._file = _File(path) if path else None
        self._stream = stream
        self._coming: list[str] = []
        self._unsaid: list[str] = []
        self._said: dict[str, int] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._trouble = ""
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, within: timedelta = timedelta(seconds=5)) -> None:
        """Write what waits, if that can be done in time."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(within.total_seconds())

    def append(self, lines: Sequence[str]) -> None:
        """Take the lines; returns at once. Those that are kept already are let go."""
        with self._wake:
            self._coming += lines
            self._wake.notify()

    def kept(self, uid: str) -> int:
        """The number of the newest record of this chain that was written."""
        return (self._file.heads if self._file else self._said).get(uid, 0)

    @property
    def problem(self) -> str:
        """`AuditUnavailable: why`; empty while all is written."""
        since, trouble = self._busy_since, self._trouble
        if not trouble and since is not None and monotonic() - since > STUCK_AFTER.total_seconds():
            trouble = f"no write has come back for {monotonic() - since:.0f} s"
        return f"AuditUnavailable: the audit trail cannot be written: {trouble}" if trouble else ""

    def _run(self) -> None:
        lines: list[str] = []
        pause = timedelta()
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._closing or (self._coming and not self._trouble), pause.total_seconds()
                )
                lines = list(dict.fromkeys([*lines, *self._coming]))[-LINES_MAX:]
                self._coming = []
                last = self._closing
            self._busy_since = monotonic()
            try:
                self._write(lines)
                lines, self._trouble = [], ""
            except OSError as error:
                self._trouble = f"{error.filename or 'stdout'}: {error.strerror}"
                log.error("audit_not_written", reason="AuditUnavailable", message=self._trouble, lines=len(lines))
            self._busy_since = None
            pause = RETRY if self._trouble else PROBE
            if last:
                return

    def _write(self, lines: Sequence[str]) -> None:
        """Said first: should the process end in between, the next one finds them missing in the file, and says them."""
        new = self._file.lacks(lines) if self._file else [x for x in lines if _above(x, self._said)]
        self._unsaid = list(dict.fromkeys([*self._unsaid, *new]))[-LINES_MAX:]
        try:
            self._say()
        finally:  # a broken pipe keeps nothing from the file
            if self._file:
                self._file.append(lines)

    def _say(self) -> None:
        if self._unsaid:
            self._stream.write("".join(f"{line}\n" for line in self._unsaid).encode())
            self._stream.flush()
            _remember(self._unsaid, self._said)
            self._unsaid = []


class _File:
    """An append-only file of lines, which several processes may share and others may rotate."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heads: dict[str, int] = {}
        """uid to the number of the newest record that was ever seen in it."""
        self._fd: int | None = None
        self._offset = 0

    def lacks(self, lines: Iterable[str]) -> list[str]:
        """Those of the lines that are not in it; OSError when none could be added."""
        with self._locked() as fd:
            self._catch_up(fd)
            _check_space(fd, self.path)
        return [line for line in lines if _above(line, self.heads)]

    def append(self, lines: Iterable[str]) -> None:
        """Append what is not there. OSError when it cannot be done: then nothing was appended."""
        with self._locked() as fd:
            self._catch_up(fd)
            if new := [line for line in lines if _above(line, self.heads)]:
                self._extend(fd, "".join(f"{line}\n" for line in new).encode())
                _remember(new, self.heads)

    def _extend(self, fd: int, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):  # else the next one does it
                os.ftruncate(fd, self._offset)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self._offset += len(data)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        fd = self._opened()
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield fd
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _opened(self) -> int:
        """The file of that name as it is now: one that was moved away is let go."""
        if self._fd is not None:
            try:
                if os.path.samestat(os.fstat(self._fd), os.stat(self.path)):
                    return self._fd
            except FileNotFoundError:
                pass
            os.close(self._fd)
        self._fd = None
        self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._offset = 0
        _sync_directory(self.path.parent)
        return self._fd

    def _catch_up(self, fd: int) -> None:
        """Read what is new in it; the beginning of a line whose writer died goes, it comes again from the status."""
        if os.fstat(fd).st_size < self._offset:
            self._offset = 0
        rest = b""
        while data := os.pread(fd, CHUNK, self._offset + len(rest)):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            _remember(whole.decode(errors="replace").split("\n") if newline else (), self.heads)
            self._offset += len(whole) + len(newline)
        if rest:
            os.ftruncate(fd, self._offset)


def _remember(lines: Iterable[str], heads: dict[str, int]) -> None:
    for line in lines:
        with contextlib.suppress(msgspec.MsgspecError):  # not ours: `audit verify` names it
            name = _name(line)
            heads[name.uid] = max(name.seq, heads.get(name.uid, 0))


def _above(line: str, heads: dict[str, int]) -> bool:
    name = _name(line)
    return name.seq > heads.get(name.uid, 0)


def _check_space(fd: int, path: Path) -> None:
    room = os.fstatvfs(fd)
    if room.f_blocks and room.f_bavail * room.f_frsize < SPACE_MIN:
        raise OSError(errno.ENOSPC, f"less than {SPACE_MIN >> 20} MiB are left", str(path))


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
