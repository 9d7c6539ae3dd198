"""Real clusters for the tests: `control_plane` is up in about 5 seconds, `bed` has pods, a gateway and Prometheus too.

pytest itself moves into a network namespace of its own when it starts, so tests reach a cluster with ordinary clients.
Nothing is built here: `serin-testbed build` does that beforehand (`make test` calls it).
"""

import asyncio
from collections.abc import Iterator

import pytest

from testbed import namespace
from testbed.bed import CONTROL_PLANE, Bed, Options
from testbed.errors import BedError

_refusal: list[BedError] = []


def pytest_configure() -> None:
    try:
        namespace.enter()
    except BedError as error:  # tests that need no cluster still run; the others fail with the reason
        _refusal.append(error)


@pytest.fixture(scope="session", autouse=True)
def loop_of_the_main_thread() -> Iterator[None]:
    """pytest-asyncio puts back the loop that it found, and makes one that nobody closes when there was none."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(scope="session")
def in_namespace() -> None:
    """This process is in a network namespace of its own; fails with the reason where that was not possible."""
    if _refusal:
        raise _refusal[0]


@pytest.fixture(scope="session")
def control_plane(in_namespace: None) -> Iterator[Bed]:
    """etcd, API server and controller manager: for admission and for what needs no running pods."""
    with Bed(Options(components=CONTROL_PLANE)) as bed:
        yield bed


@pytest.fixture(scope="session")
def bed(in_namespace: None) -> Iterator[Bed]:
    """Everything: pods that are processes, Contour and Envoy, Prometheus."""
    with Bed() as bed:
        yield bed
