"""What is read of an object of the API server."""

from typing import Any

import pytest

from controller.cluster import manifest


@pytest.mark.parametrize(
    ("entries", "ours"),
    [
        ([], False),
        ([{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:minReplicas": {}}}}], False),
        ([{"manager": "serin", "fieldsV1": {"f:spec": {"f:maxReplicas": {}}}}], False),
        ([{"manager": "serin", "fieldsV1": {"f:spec": {"f:minReplicas": {}}}}], True),
    ],
)
def test_who_wrote_min_replicas_last(entries: list[dict[str, Any]], ours: bool) -> None:
    raw = {"metadata": {"name": "shop", "managedFields": entries}, "spec": {"minReplicas": 3, "maxReplicas": 9}}
    assert manifest.autoscaler(raw).ours is ours
