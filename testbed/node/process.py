"""Processes that die with this one, each in a process group of its own."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

LOG_BYTES_MAX = 1 << 20
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A command that was started."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], log: Path | None) -> None:
        """Start it, its output appended to `log`. Raises OSError when it cannot be started."""
        with (log or Path(os.devnull)).open("ab") as output:
            self._popen = subprocess.Popen(
                argv,
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
                preexec_fn=_die_with_parent,
            )
        # A pidfd becomes readable when the process ends: no thread a child, as asyncio's own watcher has on 3.11.
        self._pidfd = os.pidfd_open(self._popen.pid)
        self._exit_code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        code = self._popen.wait()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._kill_group()  # a container's other processes do not outlive its first
        self._exit_code.set_result(code if code >= 0 else 128 - code)

    async def wait(self) -> int:
        """The exit code; 128 + n when signal n ended it."""
        return await asyncio.shield(self._exit_code)

    def terminate(self) -> None:
        """Ask the first process to end, as a container runtime does."""
        if not self._exit_code.done():
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if not self._exit_code.done():
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def bound_log(log: Path) -> None:
    """Keep the last half of a log that has grown too long; its writers append, so they go on behind it."""
    if log.stat().st_size <= LOG_BYTES_MAX:
        return
    with log.open("r+b") as file:
        file.seek(-LOG_BYTES_MAX // 2, os.SEEK_END)
        file.readline()
        tail = file.read()
        file.seek(0)
        file.truncate()
        file.write(tail)
