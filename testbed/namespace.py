"""The network namespace that a bed lives in.

The process that wants a bed moves *itself* into a new network namespace (`enter`), once, early, before it has threads.
Everything that it starts and every socket that it opens afterwards is in there: a pytest process talks to its bed with
ordinary clients, no traffic leaves, and nothing outside can be reached. As root only the network namespace is new;
without root a user namespace comes with it, in which the process is root.
"""

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path

from testbed.errors import BedError

HOSTS = "10.243.{slot}.1"
PODS = "10.{net}.0.0/16"
ROUTED = "10.240.0.0/12"
SLOTS = 11

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

_entered = False


def enter() -> None:
    """Move this process into a network namespace of its own, in which any address of `ROUTED` can be bound.

    Repeatable: the second call does nothing. Raises BedError, with the mend, where it is not possible.
    """
    global _entered
    if _entered:
        return
    require_tools()
    if threading.active_count() > 1:
        raise BedError(
            "the testbed must enter its network namespace before the process has threads: call enter() earlier"
        )
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BedError(
            f"cannot make a network namespace ({reason}). Run as root (a container: --privileged), "
            "or allow user namespaces: "
            "sysctl -w user.max_user_namespaces=15000 kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if flags & _CLONE_NEWUSER:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _ip("link", "set", "lo", "up")
    _ip("route", "add", "local", ROUTED, "dev", "lo")
    for name in _PROXY_VARIABLES:  # no proxy can be reached from here; clients that honour one would only fail
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    _entered = True


def entered() -> bool:
    return _entered


def require_tools() -> None:
    """Raise BedError when a system tool that the testbed runs is missing."""
    for tool, package in (
        ("ip", "iproute2"),
        ("setpriv", "util-linux"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
    ):
        if shutil.which(tool) is None:
            raise BedError(
                f"`{tool}` is not on PATH; it comes with {package}: apt-get install {package}, dnf install {package}"
            )


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BedError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
