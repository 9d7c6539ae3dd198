"""Waiting for a cluster to get somewhere."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


def eventually(read: Callable[[], T], within: timedelta = timedelta(seconds=15)) -> T:
    """The first true answer of `read`, asked ten times a second. Raises TimeoutError with the last one."""
    deadline = time.monotonic() + within.total_seconds()
    while not (answer := read()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {answer!r} after {within.total_seconds():.0f} s")
        time.sleep(0.1)
    return answer
