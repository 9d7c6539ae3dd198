"""Where Prometheus finds the pods: file-based service discovery."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from testbed.node.api import Json

PORT_NAMES = ("http", "metrics")
PORT_ANNOTATION = "prometheus.io/port"
PATH_ANNOTATION = "prometheus.io/path"


def targets(pods: Iterable[tuple[Json, Json]], node: str) -> list[Json]:
    """One entry for every running pod that says where its metrics are: by the annotation prometheus.io/port, or by a
    container port named `http` or `metrics`. `pods` are manifest and reported status."""
    return [
        entry
        for manifest, status in pods
        if status.get("phase") == "Running"
        for entry in _targets_of(manifest, status["podIP"], node)
    ]


def _targets_of(manifest: Json, ip: str, node: str) -> list[Json]:
    metadata = manifest["metadata"]
    annotations, pod_labels = metadata.get("annotations", {}), metadata.get("labels", {})
    labels = {
        "namespace": metadata["namespace"],
        "pod": metadata["name"],
        "node": node,
        **{f"pod_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}": value for name, value in pod_labels.items()},
    }
    if "app" in pod_labels:
        labels["app"] = pod_labels["app"]
    if PATH_ANNOTATION in annotations:
        labels["__metrics_path__"] = annotations[PATH_ANNOTATION]
    return [
        {"targets": [f"{ip}:{port}"], "labels": {**labels, "container": container}}
        for container, port in _ports(manifest["spec"]["containers"], annotations.get(PORT_ANNOTATION))
    ]


def _ports(containers: list[Json], annotated: str | None) -> list[tuple[str, str]]:
    ports = [(container["name"], port) for container in containers for port in container.get("ports", [])]
    if annotated is None:
        return [(name, str(port["containerPort"])) for name, port in ports if port.get("name") in PORT_NAMES]
    owners = [name for name, port in ports if str(port["containerPort"]) == annotated]
    return [(owners[0] if owners else containers[0]["name"], annotated)]


def write(entries: list[Json], file: Path) -> None:
    """Replace the file in one move: Prometheus never reads half of it."""
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(entries, indent=1))
    os.replace(draft, file)
