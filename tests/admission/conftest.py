"""A control plane for these tests alone, with `policies/admission` and the rights of `manifests/` as they ship."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from testbed.bed import CONTROL_PLANE, Bed, Options
from tests.admission.cluster import HELD, REPOSITORY, User, change_request, decision, deployment, wait_for

# Every right on what the policies guard, so that the policies answer, not RBAC; Serin's verbs come with its own roles.
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
        {
            "apiGroups": ["serin.dev"],
            "resources": ["changerequests", "changerequests/status", "changedecisions"],
            "verbs": ["*"],
        },
    ],
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "test-workloads"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test-workloads"},
    "subjects": [
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user} for user in ("alice", "bob", "carol")
    ],
}
ROLES = {  # carol has none
    "alice": ("serin-approver-normal", "serin-reviewer"),
    "bob": ("serin-requester", "serin-approver-normal", "serin-reviewer"),
    "dora": ("serin-approver-emergency", "serin-reviewer"),
    "olaf": ("serin-on-call",),
}

ENFORCED = [  # the API server's admission knows a namespace's label when this refuses
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "test-enforced"},
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"serin.dev/enforce": "required"}},
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
                ],
            },
            "validations": [{"expression": "object.metadata.name != 'enforced'"}],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "test-enforced"},
        "spec": {"policyName": "test-enforced", "validationActions": ["Deny"]},
    },
]


@pytest.fixture(scope="session")
def cluster(in_namespace: None) -> Iterator[Bed]:
    users = {"alice": ("managers",), "bob": (), "carol": (), "dora": (), "olaf": ()}
    with Bed(Options(components=CONTROL_PLANE, users=users)) as bed:
        bed.apply(WORKLOADS, BINDING, *ENFORCED)
        for part in ("namespace.yaml", "crds/", "rbac.yaml"):
            bed.kubectl("apply", "--server-side", "-f", str(REPOSITORY / "manifests" / part))
        for user, roles in ROLES.items():
            for role in roles:
                bed.kubectl("create", "clusterrolebinding", f"{user}-{role}", f"--clusterrole={role}", f"--user={user}")
        robot = ("--clusterrole=cluster-admin", "--serviceaccount=default:robot")
        bed.kubectl("create", "clusterrolebinding", "robot", *robot)
        bed.kubectl("apply", "--server-side", "-k", str(REPOSITORY / "policies"))
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
        nobody = alice.create("changedecisions", decision(), dry).message
        decided = "there is no CHG-" in nobody  # the stamps and the refusal
        return held and guarded and owned and stamped and decided

    wait_for("the admission policies", act, timedelta(seconds=90))
