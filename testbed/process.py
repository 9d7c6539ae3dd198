"""A process of the bed: started, watched, hurt on purpose, ended; never one that somebody else started."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from testbed.errors import BedError

GRACE = timedelta(seconds=5)
_START = timedelta(seconds=60)
_POLL = 0.05


class Process:
    """One long-running program of the bed, its output in a log file.

    It dies with the process that started it, however that one ends (parent-death signal). With `contain`, it is the
    first process of a PID namespace: all that it starts, and what those start, die with it too.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        ready: Callable[[], object] = lambda: True,
        env: Mapping[str, str] | None = None,
        contain: bool = False,
    ) -> None:
        """`ready` tells whether it does its work by now; an OSError of it counts as not yet."""
        self.name = name
        self.log = log
        self._ready = ready
        wrapper = ["setpriv", "--pdeathsig", "KILL", "--"]
        if contain:
            wrapper += ["unshare", "--pid", "--fork", "--kill-child", "--"]
        self._argv = [*wrapper, *argv]
        self.environment = {**os.environ, **(env or {})}
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise BedError(f"{self.name}: start it from the main thread, it dies with the thread that started it")
        with self.log.open("ab") as out:
            self._popen = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Leader of the program's process group."""
        if self._popen is None:
            raise BedError(f"{self.name} was not started")
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def pause(self) -> None:
        """Stop it as a hung process is stopped: its sockets stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def reload(self) -> None:
        self._signal(signal.SIGHUP)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait(GRACE)

    def stop(self, grace: timedelta = GRACE) -> None:
        """End it: SIGTERM, and after `grace` SIGKILL. Returns when it has ended."""
        self.terminate()
        if not self._wait(grace):
            self.kill()

    def terminate(self) -> None:
        """Ask it to end; `stop` waits for that."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)

    def restart(self) -> None:
        """End it if it runs, start it, and return when it is ready."""
        self.stop()
        self.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Raises BedError as `wait_until` does."""
        self.wait_until("readiness", self._ready, _START)

    def wait_until(self, what: str, check: Callable[[], object], within: timedelta) -> None:
        """Poll `check` until it returns something true. OSError counts as not yet.

        Raises BedError with the tail of the log when the process ends first or the time is up.
        """
        deadline = time.monotonic() + within.total_seconds()
        last: object = None
        while time.monotonic() < deadline:
            if not self.alive:
                code = self._popen.returncode if self._popen else None
                raise BedError(f"{self.name} ended with code {code} before {what}:\n{self.tail()}")
            try:
                if last := check():
                    return
            except OSError as error:
                last = error
            time.sleep(_POLL)
        raise BedError(f"{self.name}: no {what} within {within.total_seconds():.0f} s ({last}):\n{self.tail()}")

    def tail(self, lines: int = 20) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(f"  {self.log.name}| {line[:400]}" for line in text.splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.killpg(self.pid, number)

    def _wait(self, within: timedelta) -> bool:
        if self._popen is None:
            return True
        try:
            self._popen.wait(within.total_seconds())
        except subprocess.TimeoutExpired:
            return False
        return True
