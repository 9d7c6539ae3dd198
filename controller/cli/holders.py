"""Who holds a right on changetypes.serin.dev, as far as the roles and bindings of a cluster say. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Roles:
    """RBAC as it was read: of the cluster, and of one namespace."""

    cluster_roles: Iterable[Json]
    cluster_bindings: Iterable[Json]
    roles: Iterable[Json] = ()
    bindings: Iterable[Json] = ()


def holders(rbac: Roles, verb: str, kind: str) -> list[str]:
    """Users by name, `group NAME`, `serviceaccount NAMESPACE/NAME`: those that may `verb` changetypes/`kind`."""
    clusterwide = {role["metadata"]["name"] for role in rbac.cluster_roles if _gives(role, verb, kind)}
    local = {role["metadata"]["name"] for role in rbac.roles if _gives(role, verb, kind)}
    giving: Mapping[str, set[str]] = {"ClusterRole": clusterwide, "Role": local}
    found: dict[str, None] = {}
    for binding in (*rbac.cluster_bindings, *rbac.bindings):
        if binding["roleRef"]["name"] in giving.get(binding["roleRef"]["kind"], ()):
            found |= dict.fromkeys(_subjects(binding))
    return sorted(found)


def _gives(role: Json, verb: str, kind: str) -> bool:
    return any(
        {verb, "*"} & set(rule.get("verbs") or ())
        and {"serin.dev", "*"} & set(rule.get("apiGroups") or ())
        and {"changetypes", "*"} & set(rule.get("resources") or ())
        and (not rule.get("resourceNames") or kind in rule["resourceNames"])
        for rule in role.get("rules") or ()
    )


def _subjects(binding: Json) -> Iterator[str]:
    for subject in binding.get("subjects") or ():
        name = subject["name"]
        match subject["kind"]:
            case "User":
                yield name
            case "Group" if name != "system:masters":
                yield f"group {name}"
            case "ServiceAccount":
                yield f"serviceaccount {subject.get('namespace', '')}/{name}"
