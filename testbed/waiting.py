"""Waiting for a cluster to get somewhere."""

import http
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
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


def answers(url: str, *, host: str | None = None, certificates: Path | None = None) -> bool:
    """Whether a GET of `url` is answered with 200, by a server that one of `certificates` vouches for.

    Raises OSError when nobody listens, nothing comes in 2 s, or there is no such file.
    """
    context = ssl.create_default_context(cafile=str(certificates)) if certificates else None
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=2, context=context) as response:
            return bool(response.status == http.HTTPStatus.OK)
    except urllib.error.HTTPError as error:
        error.close()
        return False
