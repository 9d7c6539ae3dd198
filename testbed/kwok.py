"""Thousands of pods without processes: kwok answers for one more node, on which every pod is ready at once."""

from collections.abc import Callable
from pathlib import Path

from testbed import build
from testbed.control_plane import Manifest
from testbed.process import Process

NODE = "kwok-1"
_MARK = "kwok.x-k8s.io/node"


def manifests() -> list[Manifest]:
    """The node. A pod gets there by the node selector `kubernetes.io/hostname: kwok-1`."""
    room = {"cpu": "10k", "memory": "100Ti", "pods": "100k"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}, "annotations": {_MARK: "fake"}},
            "status": {"allocatable": room, "capacity": room},
        }
    ]


def process(directory: Path, host: str, kubeconfig: Path, ready: Callable[[], bool]) -> Process:
    """kwok, not started; it runs the pods of `NODE` alone."""
    stages = [
        file
        for kind in ("node", "pod")
        for file in sorted(build.find(f"kwok-{kind}-stages").glob("*.yaml"))
        if file.name != "kustomization.yaml"
    ]
    return Process(
        "kwok",
        [
            str(build.find("kwok")),
            f"--kubeconfig={kubeconfig}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={_MARK}=fake",
            f"--node-ip={host}",
            "--cidr=10.255.0.0/16",
            f"--server-address={host}:10247",
            *(f"--config={file}" for file in stages),
            "--v=WARN",
        ],
        directory / "kwok.log",
        ready=ready,
    )
