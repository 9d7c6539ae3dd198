"""A control plane for these tests alone, with `policies/admission` and the rights of `manifests/` as they ship."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from testbed.bed import CONTROL_PLANE, Bed, Options
from tests.admission.cluster import HELD, REPOSITORY, User, change_request, deployment, wait_for

# Every right on what the policies guard, and none of Serin's verbs: so the policies answer, not RBAC.
WORKLOADS = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "test-workloads"},
    "rules": [
        {
            "apiGroups": ["", "apps", "networking.k8s.io", "policy"],
            "resources": [
                *("deployments", "deployments/status", "deployments/scale"),
                *("replicasets", "replicasets/status", "replicasets/scale"),
                *("pods", "pods/status", "services", "services/status"),
                *("networkpolicies", "poddisruptionbudgets", "poddisruptionbudgets/status"),
            ],
            "verbs": ["*"],
        },
        {"apiGroups": ["serin.dev"], "resources": ["changerequests", "changerequests/status"], "verbs": ["*"]},
    ],
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "test-workloads"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test-workloads"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user} for user in ("alice", "bob")],
}


@pytest.fixture(scope="session")
def cluster(in_namespace: None) -> Iterator[Bed]:
    with Bed(Options(components=CONTROL_PLANE, users={"alice": (), "bob": ()})) as bed:
        bed.apply(WORKLOADS, BINDING)
        for part in ("namespace.yaml", "crds/", "rbac.yaml"):
            bed.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "manifests" / part))
        bed.kubectl("apply", "--server-side", "-k", str(REPOSITORY / "policies" / "admission"))
        await_policies(bed)
        yield bed


def await_policies(bed: Bed) -> None:
    """The policies act some time after they are applied: mutation and refusals are seen before a test starts."""
    alice = User(bed, "alice", "default")
    labelled = deployment(labels={"serin.dev/change": "auto"})
    canary = deployment(labels={"serin.dev/run": "CHG-20261123-001"})
    dry = "?dryRun=All"

    def act() -> bool:
        held = alice.create("deployments", labelled, dry).body["metadata"].get("annotations", {}).get(HELD) == "true"
        rollback = deployment(
            labels={"serin.dev/change": "auto"}, annotations={"deprecated.deployment.rollback.to": "1"}
        )
        guarded = not alice.create("deployments", rollback, dry).ok
        owned = not alice.create("deployments", canary, dry).ok
        stamped = alice.create("changerequests", change_request(), dry).ok  # 503 until the new kind is known everywhere
        return held and guarded and owned and stamped

    wait_for("the admission policies", act, timedelta(seconds=90))
