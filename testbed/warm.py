"""The controller in a tenth of the time: a process that has imported it forks for each start.

    controller = Warm(stage.controller(bed))        # as a Process: start, alive, pid, kill, stop, tail

What a start does besides importing is the same, and nothing of one life is left in the next. For those who kill it
hundreds of times. `python -m testbed.warm` is the parent; it writes the pid of a child for each line that it reads.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from datetime import timedelta

from testbed.errors import BedError
from testbed.process import Process

_PR_SET_PDEATHSIG = 1


class Warm(Process):
    """A Process whose program is the controller, started by a fork."""

    def __init__(self, controller: Process) -> None:
        super().__init__(controller.name, [sys.executable, "-m", "testbed.warm"], controller.log)
        self.environment = controller.environment
        self._parent: subprocess.Popen[bytes] | None = None
        self._child = 0

    def start(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise BedError(f"{self.name}: start it from the main thread, it dies with the thread that started it")
        if self._parent is None:
            with self.log.open("ab") as out:
                self._parent = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=out,
                    env={**self.environment, "SERIN_TESTBED_LOG": str(self.log)},
                )
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(b"start\n")
        self._parent.stdin.flush()
        self._child = int(self._parent.stdout.readline() or 0)
        if not self._child:
            raise BedError(f"{self.name} does not start:\n{self.tail()}")

    @property
    def pid(self) -> int:
        return self._child

    @property
    def alive(self) -> bool:
        if not self._child:
            return False
        try:
            os.kill(self._child, 0)  # its parent lets it go as soon as it is dead
        except ProcessLookupError:
            self._child = 0
        return bool(self._child)

    def close(self) -> None:
        """End the parent too."""
        self.stop()
        if self._parent and self._parent.stdin and self._parent.stdout:
            self._parent.stdin.close()
            self._parent.stdout.close()
            self._parent.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it was alive a moment ago
            super()._signal(number)

    def _wait(self, within: timedelta) -> bool:
        deadline = time.monotonic() + within.total_seconds()
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.alive


def main() -> None:
    from controller import __main__, app, settings, telemetry  # noqa: F401 (that is what takes the time)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are let go when they end
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _live()
        print(pid, flush=True)


def _live() -> None:
    """The life of one controller, as `serin run`."""
    from controller.__main__ import run

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(os.environ["SERIN_TESTBED_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(number, target)
    code = 0
    try:
        run()
    except SystemExit as end:
        print(end, file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
