"""Pod templates: their revision, and the changed selector label of a canary's pods."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from controller.core.codec import JSON

HASH_LABEL = "pod-template-hash"


def revision(template: JSON) -> str:
    """Ten hex digits of a pod template as the API server defaulted it; the same for a Deployment and its ReplicaSet."""
    metadata = dict(template.get("metadata") or {})
    metadata.pop("creationTimestamp", None)
    labels = {k: v for k, v in (metadata.pop("labels", None) or {}).items() if k != HASH_LABEL}
    plain = {"metadata": {**metadata, "labels": labels}, "spec": template.get("spec")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:10]


def joint_revision(revisions: Mapping[str, str]) -> str:
    """What a decision is about: the revision of the one Deployment, or a hash over those of several, by name."""
    if len(revisions) <= 1:
        return next(iter(revisions.values()), "")
    text = ",".join(f"{name}={revision}" for name, revision in sorted(revisions.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def selector_key(selector: Mapping[str, str], services: Iterable[Mapping[str, str]]) -> str:
    """The label to alter on canary pods: one that the Deployment and every Service select by; empty: there is none."""
    chosen = [set(service) for service in services]
    usable = [key for key in selector if all(key in service for service in chosen) and len(selector[key]) <= 56]
    names = ("app.kubernetes.io/name", "app")
    return min(usable, key=lambda key: (names.index(key) if key in names else len(names), key), default="")


def canary_name(name: str) -> str:
    """Within the 63 characters that a Service may have."""
    return f"{name[:56]}-canary"


def copy_name(deployment: str, source: str) -> str:
    """The name of a canary's copy of a NetworkPolicy or PodDisruptionBudget."""
    return f"{deployment[:27]}-{source[:28]}-canary"


def job_name(change: str, revision: str, cron_job: str) -> str:
    """Of a Job before the start; within the 63 characters that a label may have."""
    name = f"{change}-{revision}-{cron_job}"
    if len(name) <= 63:
        return name
    return f"{name[:54].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def canary_value(value: str) -> str:
    return f"{value}-canary"


def obstacles(template: JSON, volumes_shared: Mapping[str, bool]) -> Sequence[str]:
    """Why a second set of pods cannot stand beside the first.

    `volumes_shared`: claim name to whether many nodes may use it.
    """
    spec = template.get("spec") or {}
    found = []
    ports = [p for c in spec.get("containers") or [] for p in c.get("ports") or [] if p.get("hostPort")]
    if spec.get("hostNetwork"):
        found.append("its pods use the host's network")
    if ports:
        found.append(f"its pods take the host's port {ports[0]['hostPort']}")
    for volume in spec.get("volumes") or []:
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim and not volumes_shared.get(claim, False):
            found.append(f"its volume {claim} can be written from one place only")
    return found
