"""etcd, kube-apiserver, kube-controller-manager, the users of the bed, and pods that are bound without a scheduler."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed import build
from testbed.process import Process
from testbed.waiting import answers

Manifest = dict[str, Any]

NODE = "node-1"
API_PORT = 6443
ADMIN = "admin"
PARTS = "testbed"
"""The user that the node agent, Contour and kwok are."""
_SYSTEM_USERS: Mapping[str, Sequence[str]] = {
    ADMIN: ("system:masters",),
    PARTS: ("system:masters",),
    "system:kube-controller-manager": (),
}


def write_credentials(directory: Path, users: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write the API server's token file and service-account key; the answer is the token of each user.

    `users`: name → groups. The admin and the controller manager are always there.
    """
    everyone = {**users, **_SYSTEM_USERS}
    tokens = {user: secrets.token_urlsafe(24) for user in everyone}
    lines = [f'{tokens[user]},{user},{user},"{",".join(groups)}"' for user, groups in everyone.items()]
    (directory / "tokens.csv").write_text("\n".join(lines) + "\n")
    (directory / "service-account.key").write_text(ec_private_key())
    return tokens


def write_audit_policy(directory: Path) -> None:
    """Writes to Serin's kinds and to Deployments go into the API server's `audit.log`, one JSON a line."""
    writes = {"level": "Metadata", "verbs": ["create", "update", "patch", "delete"], "omitStages": ["RequestReceived"]}
    rules = [
        {**writes, "resources": [{"group": "serin.dev"}, {"group": "apps", "resources": ["deployments"]}]},
        {"level": "None"},
    ]
    policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}
    (directory / "audit-policy.yaml").write_text(json.dumps(policy))  # JSON is YAML


def ec_private_key() -> str:
    """A new P-256 key as PEM (SEC 1, RFC 5915; the public half is optional there and computed by the reader)."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    scalar = (secrets.randbelow(order - 1) + 1).to_bytes(32, "big")
    der = bytes.fromhex("3031 020101 0420") + scalar + bytes.fromhex("a00a 0608 2a8648ce3d030107")
    body = base64.b64encode(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n"


def processes(directory: Path, host: str) -> tuple[Process, Process, Process]:
    """etcd, API server and controller manager, not started. `host` is the address that the API server listens on."""
    service_account_key = directory / "service-account.key"
    certificates = directory / "certificates"
    etcd = Process(
        "etcd",
        [
            str(build.find("etcd")),
            "--name=bed",
            f"--data-dir={directory}/etcd",
            f"--listen-client-urls=http://{host}:2379",
            f"--advertise-client-urls=http://{host}:2379",
            f"--listen-peer-urls=http://{host}:2380",
            f"--initial-advertise-peer-urls=http://{host}:2380",
            f"--initial-cluster=bed=http://{host}:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
        directory / "etcd.log",
        ready=lambda: answers(f"http://{host}:2379/health"),
    )
    api_server = Process(
        "kube-apiserver",
        [
            str(build.find("kube-apiserver")),
            f"--etcd-servers=http://{host}:2379",
            f"--bind-address={host}",
            f"--advertise-address={host}",
            f"--secure-port={API_PORT}",
            f"--cert-dir={certificates}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={directory}/tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={service_account_key}",
            f"--service-account-signing-key-file={service_account_key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            f"--audit-policy-file={directory}/audit-policy.yaml",
            f"--audit-log-path={directory}/audit.log",
            "--profiling=false",
        ],
        directory / "kube-apiserver.log",
        ready=lambda: answers(f"https://{host}:{API_PORT}/readyz", certificates=certificates / "apiserver.crt"),
    )
    controller_manager = Process(
        "kube-controller-manager",
        [
            str(build.find("kube-controller-manager")),
            f"--kubeconfig={directory}/system:kube-controller-manager.kubeconfig",
            f"--bind-address={host}",
            f"--root-ca-file={certificates}/apiserver.crt",
            f"--service-account-private-key-file={service_account_key}",
            f"--cert-dir={directory}/controller-manager",
            "--use-service-account-credentials",
            "--controllers=*,-node-lifecycle-controller,-node-ipam-controller",
            "--leader-elect=false",
            "--concurrent-deployment-syncs=20",
            "--concurrent-replicaset-syncs=20",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--profiling=false",
        ],
        directory / "kube-controller-manager.log",
    )
    return etcd, api_server, controller_manager


def kubeconfig(directory: Path, host: str, user: str, token: str) -> Manifest:
    """A kubeconfig; JSON is YAML."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "bed",
                "cluster": {
                    "server": f"https://{host}:{API_PORT}",
                    "certificate-authority": str(directory / "certificates" / "apiserver.crt"),
                },
            }
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": user}}],
        "current-context": "bed",
    }


def base_manifests(users: Mapping[str, Sequence[str]]) -> list[Manifest]:
    """What a fresh cluster gets: the users may edit workloads, and every pod is bound to a node in its own create.

    A pod says where it wants to be by the node selector `kubernetes.io/hostname`; the others go to `NODE`.
    """
    hostname = "kubernetes.io/hostname"
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "testbed-editors"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user} for user in users],
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": "testbed-bind"},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                    ]
                },
                "matchConditions": [{"name": "unbound", "expression": "object.spec.?nodeName.orValue('') == ''"}],
                "mutations": [
                    {
                        "patchType": "ApplyConfiguration",
                        "applyConfiguration": {
                            "expression": "Object{spec: Object.spec{nodeName: "
                            f"object.spec.?nodeSelector[?'{hostname}'].orValue('{NODE}')}}}}"
                        },
                    }
                ],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": "testbed-bind"},
            "spec": {"policyName": "testbed-bind"},
        },
    ]


def probe_pod() -> str:
    """A pod for a dry-run create: where it comes back bound, the binding policy acts."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "probe", "namespace": "default"},
            "spec": {"automountServiceAccountToken": False, "containers": [{"name": "probe", "image": "probe"}]},
        }
    )
