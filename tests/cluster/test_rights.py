"""What the controller reads and asks for at its start is what manifests/rbac.yaml gives it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.app import RIGHTS
from controller.cluster import kinds
from controller.cluster.client import Resource

RBAC = Path(__file__).resolve().parents[2] / "manifests" / "rbac.yaml"
READ = [value for value in vars(kinds).values() if isinstance(value, Resource) and value is not kinds.EVENTS]


def granted() -> set[tuple[str, str]]:
    """(verb, label of the resource) of the controller's ClusterRole."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(RBAC.read_text()))
    (role,) = (d for d in documents if d["kind"] == "ClusterRole" and d["metadata"]["name"] == "serin")
    return {
        (verb, f"{resource}.{group}" if group else resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("resource", READ, ids=lambda r: r.label)
def test_every_kind_that_is_read_may_be_listed(resource: Resource) -> None:
    assert ("list", resource.label) in granted()


def test_the_rights_asked_for_at_the_start_are_granted() -> None:
    assert {(verb, resource.label) for verb, resource in RIGHTS} <= granted()
