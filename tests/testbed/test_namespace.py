"""The namespace: any pod address, no way out, and a named mend where it cannot be made."""

import errno
import socket
import subprocess
import sys

import pytest

from testbed import namespace
from testbed.errors import BedError


def entering(before: str = "", prefix: tuple[str, ...] = ()) -> str:
    """What a new process says when it enters, after it ran `before`."""
    script = f"""
import threading, time
from testbed import namespace
from testbed.errors import BedError
{before}
try:
    namespace.enter()
    print("entered")
except BedError as error:
    print(error)
"""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


def test_any_pod_address_can_be_bound_and_nothing_outside_reached(in_namespace: None) -> None:
    with socket.create_server(("10.244.77.7", 8080)), socket.create_connection(("10.244.77.7", 8080), timeout=2):
        pass
    with socket.socket() as outside:
        assert outside.connect_ex(("192.0.2.1", 80)) == errno.ENETUNREACH


def test_a_second_time_changes_nothing(in_namespace: None) -> None:
    with socket.create_server(("10.244.77.7", 8080)):
        namespace.enter()
        socket.create_connection(("10.244.77.7", 8080), timeout=2).close()


def test_a_process_with_threads_is_refused() -> None:
    said = entering("threading.Thread(target=time.sleep, args=(2,), daemon=True).start()")
    assert "before the process has threads" in said


def test_where_it_is_forbidden_the_mend_is_named() -> None:
    forbid = ("unshare", "--map-root-user", "sh", "-c", 'echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"', "sh")
    assert entering() == "entered"
    said = entering(prefix=forbid)
    assert said.startswith("cannot make a network namespace")
    assert "Run as root" in said


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BedError, match="`ip` is not on PATH; it comes with iproute2: apt-get install iproute2"):
        namespace.require_tools()
