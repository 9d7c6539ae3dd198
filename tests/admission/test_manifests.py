"""What the files say, without a cluster: one controller identity, rights one by one, policies that fail closed."""

from typing import Any

import pytest
import yaml

from tests.admission.cluster import REPOSITORY, SERIN, Object
from tests.admission.test_controls import SHIPPED

RBAC: list[Object] = list(yaml.safe_load_all((REPOSITORY / "manifests" / "rbac.yaml").read_text()))
OF_DECISIONS = "changedecisions"
TELLING = ("serin-tell", "serin-tell-mistakes")
ANCHORS = ("serin-audit-decisions", "serin-audit")
POLICIES = [each for each in SHIPPED if each["kind"].endswith("Policy")]
NOT_SERIN = {"name": "not-serin", "expression": f"request.userInfo.username != '{SERIN}'"}
RIGHTS = 67


def names(objects: list[Object]) -> list[str]:
    return [each["metadata"]["name"] for each in objects]


def test_the_service_account_is_the_one_that_the_policies_know() -> None:
    (account,) = [each["metadata"] for each in RBAC if each["kind"] == "ServiceAccount"]
    assert f"system:serviceaccount:{account['namespace']}:{account['name']}" == SERIN


def resources_of(policy: Object) -> set[str]:
    return {name for rule in policy["spec"]["matchConstraints"]["resourceRules"] for name in rule["resources"]}


@pytest.mark.parametrize("policy", POLICIES, ids=names(POLICIES))
def test_every_policy_knows_the_controller_by_the_same_condition(policy: Object) -> None:
    """But for those about decisions, of which it makes none, and the anchors of what it writes."""
    excepted = NOT_SERIN in policy["spec"].get("matchConditions", [])
    assert excepted is not (OF_DECISIONS in resources_of(policy) or policy["metadata"]["name"] in ANCHORS)
    assert yaml.safe_dump(policy).count("system:serviceaccount:serin-system") == excepted


@pytest.mark.parametrize("policy", POLICIES, ids=names(POLICIES))
def test_every_policy_fails_closed_and_is_bound(policy: Object) -> None:
    """What only tells or notes something must not stand in the way of it, above all not of a rollback."""
    name = policy["metadata"]["name"]
    only_says = (*TELLING, "serin-audit")
    assert policy["spec"]["failurePolicy"] == ("Ignore" if name in only_says else "Fail")
    (binding,) = [
        each["spec"] for each in SHIPPED if each["kind"].endswith("Binding") and each["spec"]["policyName"] == name
    ]
    assert "matchResources" not in binding
    if policy["kind"].startswith("Validating"):
        actions = ["Warn"] if name in TELLING else ["Audit"] if name in ANCHORS else ["Deny", "Audit"]
        assert binding["validationActions"] == actions
        assert bool(policy["spec"].get("validations")) is (name not in ANCHORS)


@pytest.mark.parametrize("policy", POLICIES, ids=names(POLICIES))
def test_no_policy_asks_for_a_label_on_the_namespace_to_opt_in(policy: Object) -> None:
    selector = policy["spec"]["matchConstraints"].get("namespaceSelector", {})
    assert "matchLabels" not in selector or policy["metadata"]["name"] == "serin-enforce"
    assert all(each["operator"] == "NotIn" for each in selector.get("matchExpressions", []))


def test_every_file_is_in_its_kustomization() -> None:
    for folder in ("policies/admission", "policies", "manifests"):
        kustomization = yaml.safe_load((REPOSITORY / folder / "kustomization.yaml").read_text())
        generated = (file for each in kustomization.get("configMapGenerator", []) for file in each["files"])
        listed = {*kustomization["resources"], *generated}
        files = {path.name for path in (REPOSITORY / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert files <= listed, folder


def rules(role: str) -> list[dict[str, Any]]:
    return [
        rule
        for each in RBAC
        if each["kind"].endswith("Role") and each["metadata"]["name"] == role
        for rule in each["rules"]
    ]


def test_the_controllers_rights_are_few_and_named() -> None:
    rights = [
        (group, resource, verb)
        for rule in (*rules("serin"), *rules("serin-leader"))
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert len(rights) == len(set(rights)) == RIGHTS  # the peers ask for 179 and 391
    assert not any("*" in right for right in rights)
    resources = {resource for _, resource, _ in rights}
    assert not resources & {"secrets", "configmaps", "changetypes", "users", "serviceaccounts/token"}
    assert {verb for _, resource, verb in rights if resource == "changedecisions"} == {"get", "list", "watch"}
    assert not {verb for _, _, verb in rights} & {"impersonate", "bind", "escalate", "approve", "unmanage"}


def test_nothing_is_aggregated() -> None:
    for each in RBAC:
        assert "aggregationRule" not in each
        assert not any("aggregate-to" in key for key in each["metadata"].get("labels", {}))


def test_people_cannot_write_the_status_and_auditors_only_read() -> None:
    for role in ("serin-requester", "serin-auditor"):
        assert not any("/status" in resource for rule in rules(role) for resource in rule["resources"])
    assert {verb for rule in rules("serin-auditor") for verb in rule["verbs"]} == {"get", "list", "watch"}
