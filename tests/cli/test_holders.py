"""Who holds a right, by the roles and bindings of a cluster."""

from typing import Any

from controller.cli.holders import Roles, holders


def role(name: str, *verbs: str, group: str = "serin.dev", names: list[str] | None = None) -> dict[str, Any]:
    rule = {"apiGroups": [group], "resources": ["changetypes"], "verbs": list(verbs), "resourceNames": names or []}
    return {"metadata": {"name": name}, "rules": [rule]}


def binding(kind: str, role: str, *subjects: tuple[str, str]) -> dict[str, Any]:
    people = [{"kind": kind, "name": name, "namespace": "ci"} for kind, name in subjects]
    return {"roleRef": {"kind": kind, "name": role}, "subjects": people}


CLUSTER_ROLES = [
    role("normal", "approve", names=["standard", "normal"]),
    role("all", "*"),
    role("other", "approve", group="apps"),
    role("reviewer", "review"),
    {"metadata": {"name": "aggregated"}, "rules": None},
]


def test_who_may_is_whom_a_role_is_bound_to_that_gives_the_verb() -> None:
    rbac = Roles(
        CLUSTER_ROLES,
        [
            binding("ClusterRole", "normal", ("User", "bob"), ("Group", "managers")),
            binding("ClusterRole", "all", ("Group", "system:masters"), ("ServiceAccount", "bot")),
            binding("ClusterRole", "other", ("User", "mallory")),
            binding("ClusterRole", "reviewer", ("User", "carol")),
            binding("ClusterRole", "aggregated", ("User", "dave")),
        ],
        [role("local", "approve")],
        [
            binding("Role", "local", ("User", "erin")),
            binding("ClusterRole", "normal", ("User", "frank")),
            binding("Role", "normal", ("User", "mallory")),
        ],
    )
    assert holders(rbac, "approve", "normal") == ["bob", "erin", "frank", "group managers", "serviceaccount ci/bot"]
    assert holders(rbac, "approve", "emergency") == ["erin", "serviceaccount ci/bot"]
    assert holders(rbac, "review", "normal") == ["carol", "serviceaccount ci/bot"]
