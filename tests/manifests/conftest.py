"""A control plane of these tests' own: the chart and `kubectl apply -k` both want to be the first on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.bed import CONTROL_PLANE, Bed, Options

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty_cluster(in_namespace: None) -> Iterator[Bed]:
    with Bed(Options(components=CONTROL_PLANE)) as bed:
        yield bed
