"""Serin on a bed of this package's own, behind a proxy that fails on demand: here the controller dies all the time."""

from collections.abc import Iterator

import pytest

from testbed import stage
from testbed.bed import Bed
from testbed.kills import Arena


@pytest.fixture(scope="package")
def installed(in_namespace: None) -> Iterator[Bed]:
    with Bed() as bed:
        stage.install(bed)
        yield bed


@pytest.fixture(scope="package")
def arena(installed: Bed) -> Iterator[Arena]:
    with Arena(installed) as arena:
        yield arena


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault outlasts its test, and the next one has a controller."""
    yield
    if "arena" in request.fixturenames:
        arena: Arena = request.getfixturevalue("arena")
        arena.proxy.heal()
        arena.prometheus.heal()
        arena.keep_alive()
