"""The plugin as people run it: in this process, or as one of its own on a terminal or in a pipeline."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controller.cli.__main__ import main
from controller.core import codec
from controller.core.model import State
from testbed import stage
from testbed.bed import CONTROL_PLANE, USERS, Bed, Options
from testbed.waiting import eventually

ROOT = Path(__file__).parents[2]
SERIN = "system:serviceaccount:serin-system:serin"
SHOP = "guarded-shop"
AS_CONTROLLER = f"--as={SERIN}"


READ = ["get", "list", "watch"]
ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "test-decider"},
    "rules": [
        {"apiGroups": ["serin.dev"], "resources": ["changedecisions"], "verbs": ["create", "get", "list"]},
        {"apiGroups": ["serin.dev"], "resources": ["changerequests"], "verbs": [*READ, "create"]},
        {"apiGroups": ["serin.dev"], "resources": ["changepolicies"], "verbs": READ},
        {"apiGroups": ["serin.dev"], "resources": ["changerequests/status"], "verbs": ["get"]},
        {"apiGroups": ["serin.dev"], "resources": ["changetypes"], "verbs": ["*"]},
    ],
}


def binding(user: str, role: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"test-{user.split(':')[-1]}-{role}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


@pytest.fixture(scope="package")
def guarded(in_namespace: None) -> Iterator[Bed]:
    """A control plane of our own, with the policies as they ship; bob may decide, alice may ask."""
    with Bed(Options(components=CONTROL_PLANE, users={**USERS, "dave": ()})) as bed:
        stage.install(bed)
        bed.apply(ROLE, binding("bob", "test-decider"), binding(SERIN, "test-decider"))
        bed.kubectl("create", "namespace", SHOP)
        yield bed


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the plugin in this process."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["kubectl-serin", *arguments])
        monkeypatch.setenv("COLUMNS", "80")
        # In a thread of its own: what runs an event loop in this one takes that of pytest-asyncio away.
        with ThreadPoolExecutor(1) as thread:
            ended = thread.submit(main).exception()
        assert ended is None or isinstance(ended, SystemExit), ended
        code = int(ended.code or 0) if ended else 0
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


def put(bed: Bed, change_id: str, state: State, namespace: str, *options: str, **form: Any) -> str:
    """A ChangeRequest with a status, as the controller would have made it; the answer is its uid.

    `options`: of kubectl, like AS_CONTROLLER where the policies see who writes.
    """
    name = change_id.lower()
    spec = {"changeId": change_id, "type": "normal", "requestedBy": "alice", "deployments": ["shop"], **form}
    made = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeRequest",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    bed.kubectl("apply", "--server-side", "--force-conflicts", *options, "-f", "-", stdin=json.dumps(made))
    patch: list[dict[str, Any]] = [{"op": "add", "path": "/status", "value": codec.encode(state)}]
    status = ("--subresource=status", "--type=json", "-p", json.dumps(patch))
    return bed.kubectl("patch", "chg", name, "-n", namespace, *options, *status, "-o", "jsonpath={.metadata.uid}")


class Watching:
    """The plugin as a process that watches a change; its output so far is `text`."""

    def __init__(self, bed: Bed, *arguments: str, terminal: bool, user: str = "admin") -> None:
        environment = {**os.environ, "KUBECONFIG": str(bed.kubeconfig(user)), "TERM": "xterm", "COLUMNS": "80"}
        command = [sys.executable, "-m", "controller.cli", *arguments]
        self._end, theirs = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=ROOT,
        )
        os.close(theirs)
        os.set_blocking(self._end, False)
        self.text = ""

    def type(self, text: str) -> None:
        """On its terminal."""
        os.write(self._end, text.encode())

    def until(self, text: str) -> None:
        eventually(lambda: text in self.read())

    def end(self) -> int:
        """The exit code; `text` is all that was written then."""
        eventually(lambda: (self.read(), self.process.poll() is not None)[1])
        self.read()
        return self.process.returncode

    def read(self) -> str:
        with suppress(BlockingIOError, OSError):  # nothing there now, or nothing any more
            while more := os.read(self._end, 65536):
                self.text += more.decode(errors="replace")
        return self.text

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def start() -> Iterator[Callable[..., Watching]]:
    """Run the plugin as a process of its own: `start(bed, *arguments, terminal=…, user=…)`."""
    started: list[Watching] = []

    def start(bed: Bed, *arguments: str, terminal: bool, user: str = "admin") -> Watching:
        started.append(Watching(bed, *arguments, terminal=terminal, user=user))
        return started[-1]

    yield start
    for each in started:
        each.close()
