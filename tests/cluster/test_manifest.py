"""What is read of an object of the API server."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cluster import manifest
from controller.cluster.manifest import lax
from controller.cluster.read import REQUIRED_POLICIES

REQUIRED = {name for names in REQUIRED_POLICIES.values() for name in names}


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
    metadata = {"name": "shop", "resourceVersion": "1", "managedFields": entries}
    raw = {"metadata": metadata, "spec": {"minReplicas": 3, "maxReplicas": 9}}
    assert manifest.autoscaler(raw).ours is ours


POLICY = {"metadata": {"name": "serin-guard"}, "spec": {"failurePolicy": "Fail"}}
BINDING = {"metadata": {"name": "serin-guard"}, "spec": {"policyName": "serin-guard", "validationActions": ["Deny"]}}


def spec(raw: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**raw, "spec": {**raw["spec"], **changes}}


def test_admission_policies_as_we_ship_them_are_strict() -> None:
    for path in (Path(__file__).parents[2] / "policies/admission").glob("*.yaml"):
        for raw in yaml.safe_load_all(path.read_text()):
            if "Admission" in raw["kind"] and raw["metadata"]["name"] in REQUIRED:
                assert lax(raw) == "", raw["metadata"]["name"]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (None, "not found"),
        (spec(POLICY, failurePolicy="Ignore"), "does not fail closed"),
        (spec(BINDING, validationActions=["Warn", "Audit"]), "does not deny"),
        (spec(BINDING, policyName="something-lax"), "binds something-lax"),
        (spec(BINDING, matchResources={"namespaceSelector": {"matchLabels": {"a": "b"}}}), "leaves some objects out"),
        (spec(BINDING, matchResources={"excludeResourceRules": [{"resources": ["*"]}]}), "leaves some objects out"),
    ],
)
def test_what_is_there_and_does_nothing_is_no_policy(raw: dict[str, Any] | None, why: str) -> None:
    assert lax(raw) == why


def test_the_defaults_of_the_api_server_narrow_nothing() -> None:
    assert lax(spec(BINDING, matchResources={"namespaceSelector": {}, "objectSelector": {}})) == ""


@pytest.mark.parametrize(
    ("spec", "claimed"),
    [
        ({"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}}, ["shop"]),
        ({"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}}, ["shop"]),
        ({"targetRef": {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "shop"}}, []),
        ({"workloadRef": "shop"}, []),
        ({"workloadRef": {"kind": "Deployment"}}, []),
        (None, []),
    ],
)
def test_what_another_rollout_controller_is_told_to_roll_out(spec: Any, claimed: list[str]) -> None:
    raw = {"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": "x"}, "spec": spec}
    found = list(manifest.claims(raw))
    assert found == [(name, "Canary x (flagger.app)") for name in claimed]
