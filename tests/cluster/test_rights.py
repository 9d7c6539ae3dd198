"""manifests/rbac.yaml gives the controller what it asks for at its start, all that the code needs, and nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller import app
from controller.app import IDENTITY, RIGHTS
from controller.cluster import kinds
from controller.cluster.client import Client, Resource
from controller.cluster.read import REQUIRED_POLICIES
from controller.errors import PermanentError
from testbed.bed import Bed
from tests.cluster.conftest import Connect

ROOT = Path(__file__).resolve().parents[2]
RBAC = ROOT / "manifests" / "rbac.yaml"
CLUSTER = ROOT / "controller" / "cluster"
SUBRESOURCES = {("patch", "changerequests/status.serin.dev"), ("update", "changerequests/finalizers.serin.dev")}
CANARYS = (kinds.DEPLOYMENTS, kinds.SERVICES)
DECIDED = (kinds.DECISIONS, kinds.ACCESS_REVIEWS)
ASKED = {(verb, resource.label) for resource, verbs in RIGHTS.items() for verb in verbs.split()}
FORBIDDEN = (
    ("get", "", "secrets"),
    ("get", "", "configmaps"),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
    ("patch", "apps", "replicasets"),
    ("create", "serin.dev", "changedecisions"),
    ("patch", "serin.dev", "changepolicies"),
    ("approve", "serin.dev", "changetypes"),
    ("delete", "admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ("impersonate", "", "users"),
)


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


def requests() -> Iterator[tuple[str, Resource]]:
    """Every request in the code of controller/cluster whose kind stands there by name."""
    verbs = {"_items": ["list"], "_create": ["create", "get"], "_delete": ["delete"], "Cache": ["list", "watch"]}
    for path in (CLUSTER / "read.py", CLUSTER / "write.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rpartition(".")[2]
                asked = verbs.get(called, [called] if re.search(r"_client\.", ast.unparse(node.func)) else [])
                for argument in node.args[:2]:
                    found = re.fullmatch(r"kinds\.([A-Z_]+)(\[kind\]|\[(intent|owner)\.kind\])?", ast.unparse(argument))
                    value = getattr(kinds, found[1]) if found else None
                    for resource in value.values() if isinstance(value, dict) else [value] if value else []:
                        yield from ((verb, resource) for verb in asked)


def test_what_is_granted_is_what_is_asked_for() -> None:
    assert granted() == ASKED | SUBRESOURCES


def test_what_the_code_requests_is_asked_for() -> None:
    found = {(verb, resource.label) for verb, resource in requests()}
    assert len(found) > 30
    assert found <= ASKED
    by_variable = (*REQUIRED_POLICIES, *kinds.ROUTES.values(), *kinds.COMPANIONS.values(), *CANARYS, *DECIDED)
    assert {label for _, label in ASKED - found} <= {resource.label for resource in by_variable}


@pytest.fixture
def installed(control_plane: Bed) -> Bed:
    for part in ("namespace.yaml", "rbac.yaml", "crds/"):
        control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests" / part))
    control_plane.await_crds()
    return control_plane


async def test_the_api_server_agrees(installed: Bed, connect: Connect) -> None:
    serin: Client = await connect(installed.kubeconfig(), impersonate=IDENTITY)
    await app.check_cluster(serin)
    for verb, group, resource in FORBIDDEN:
        assert not await serin.access_review(verb, group, resource, "serin-system"), (verb, resource)


async def test_a_missing_right_is_named_at_the_start(installed: Bed, connect: Connect) -> None:
    nobody = await connect(installed.kubeconfig("mallory"))
    with pytest.raises(
        PermanentError, match=r"may not .*delete replicasets\.apps|may not .*list changepolicies"
    ) as why:
        await app.check_cluster(nobody)
    assert why.value.reason == "PermissionDenied"
