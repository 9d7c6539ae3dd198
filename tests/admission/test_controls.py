"""The refusals are the rules' doing: with its rule taken away, each attack succeeds.

Every policy without a rule is installed beside the real one and bound to namespaces of its own, out of which the real
one is bound: so all of them are there at once and one wait is enough.
"""

import copy
import hashlib

import pytest
import yaml

from testbed.bed import Bed
from tests.admission.attacks import ATTACKS, Attack
from tests.admission.cluster import (
    BY,
    HELD,
    ID,
    LABEL,
    REPOSITORY,
    Object,
    Scene,
    annotate,
    deployment,
    new_image,
    wait_for,
)

WITHOUT = "test.serin.dev/without"
NO_HOLD, NO_HOLD_NOR_GUARD = "hold", "hold-and-guard"
NO_HOLD_NOR_AMENDMENT = "hold-and-amendment"
NO_DECIDER = "decider"
STAMPED = ("it does not say who decides", "its groups are not those of")
AMENDMENT = "does not name who asks"
SHIPPED: list[Object] = [
    each
    for path in sorted((REPOSITORY / "policies" / "admission").glob("*.yaml"))
    for each in yaml.safe_load_all(path.read_text())
    if each["kind"].startswith(("Mutating", "Validating"))
]


def named(kind: str, name: str) -> Object:
    (found,) = [each for each in SHIPPED if each["kind"] == kind and each["metadata"]["name"] == name]
    return copy.deepcopy(found)


def control(policy: str, removed: tuple[str, ...]) -> str:
    """The name of `policy` without the rules that say `removed`, and of the namespaces where it is bound."""
    return f"{policy}-{hashlib.sha256('|'.join(sorted(removed)).encode()).hexdigest()[:8]}"


def message(rule: Object) -> str:
    """The message expression with the literals joined that were broken over lines."""
    return str(rule["messageExpression"]).replace("' + '", "")


def without(policy: str, removed: tuple[str, ...]) -> Object:
    """`policy` without those rules; every one of them must be there to be removed."""
    variant = named("ValidatingAdmissionPolicy", policy)
    rules = variant["spec"]["validations"]
    kept = [rule for rule in rules if not any(words in message(rule) for words in removed)]
    assert len(rules) - len(kept) == len(removed), (policy, removed)
    variant["spec"]["validations"] = kept or [{"expression": "true"}]
    variant["metadata"]["name"] = control(policy, removed)
    return variant


def bound(binding: Object, policy: str, operator: str, namespaces: list[str]) -> Object:
    expression = {"key": WITHOUT, "operator": operator, "values": namespaces}
    binding["metadata"]["name"] = policy
    binding["spec"] |= {
        "policyName": policy,
        "matchResources": {"namespaceSelector": {"matchExpressions": [expression]}},
    }
    return binding


VARIANTS = {policy: {(attack.says, *attack.behind) for attack in attacks} for policy, attacks in ATTACKS.items()}
VARIANTS["serin-guard"].add((AMENDMENT,))
VARIANTS["serin-decisions"].add(STAMPED)


@pytest.fixture(scope="session")
def controls(cluster: Bed) -> Bed:
    """They stay: outside of the namespaces that are labelled for them the policies are as they ship."""
    objects: list[Object] = []
    for policy, variants in VARIANTS.items():
        shipped = named("ValidatingAdmissionPolicyBinding", policy)
        names = {control(policy, removed): removed for removed in variants}
        extra = {"serin-guard": [NO_HOLD_NOR_GUARD, NO_HOLD_NOR_AMENDMENT]}.get(policy, [])
        objects.append(bound(copy.deepcopy(shipped), policy, "NotIn", [*names, *extra]))
        for name, removed in names.items():
            objects.append(without(policy, removed))
            places = [name, NO_HOLD_NOR_AMENDMENT] if removed == (AMENDMENT,) else [name]
            objects.append(bound(copy.deepcopy(shipped), name, "In", places))
    no_hold = [NO_HOLD, NO_HOLD_NOR_GUARD, NO_HOLD_NOR_AMENDMENT]
    objects.append(bound(named("MutatingAdmissionPolicyBinding", "serin-hold"), "serin-hold", "NotIn", no_hold))
    no_decider = [NO_DECIDER, control("serin-decisions", STAMPED)]
    decider = named("MutatingAdmissionPolicyBinding", "serin-decider")
    objects.append(bound(decider, "serin-decider", "NotIn", no_decider))
    cluster.apply(*objects)
    _await_controls(cluster)
    return cluster


def _await_controls(cluster: Bed) -> None:
    scene = Scene(cluster, namespace_labels={WITHOUT: NO_HOLD_NOR_GUARD}).running()
    path = f"apis/apps/v1/namespaces/{scene.namespace}/deployments/shop?dryRun=All"

    def unheld() -> bool:
        body = {**new_image(), **annotate(rollback="1")}
        answer = scene.attacker.request("PATCH", path, body, "application/strategic-merge-patch+json")
        return answer.ok and HELD not in answer.body["metadata"]["annotations"]

    wait_for("the narrowed bindings", unheld)


CASES = [(policy, attack) for policy, attacks in ATTACKS.items() for attack in attacks]


@pytest.mark.parametrize(("policy", "attack"), CASES, ids=[attack.name for _, attack in CASES])
def test_attack_succeeds_without_its_rule(controls: Bed, policy: str, attack: Attack) -> None:
    place = control(policy, (attack.says, *attack.behind))
    scene = attack.start(Scene(controls, attack.by[0], {WITHOUT: place}))
    answer = attack.act(scene)
    assert answer.ok, answer


def test_a_template_that_slips_past_the_hold_is_refused(controls: Bed) -> None:
    scene = Scene(controls, namespace_labels={WITHOUT: NO_HOLD}).running()
    answer = scene.attacker.patch("deployments", "shop", new_image(), "strategic-merge-patch")
    assert "serin: the new pod template of CHG-20261123-001 was refused: it was not held" in answer.message


def test_marks_written_by_hand_do_not_pass_for_the_hold_of_someone_else(controls: Bed) -> None:
    scene = Scene(controls, namespace_labels={WITHOUT: NO_HOLD}).running()
    forged = {**new_image(), "metadata": {"annotations": {HELD: "true", BY: "bob"}}}
    forged["spec"]["paused"] = True
    answer = scene.attacker.patch("deployments", "shop", forged, "strategic-merge-patch")
    assert "it was not held" in answer.message


def test_without_hold_and_guard_a_new_template_runs(controls: Bed) -> None:
    scene = Scene(controls, namespace_labels={WITHOUT: NO_HOLD_NOR_GUARD}).running()
    assert scene.attacker.patch("deployments", "shop", new_image(), "strategic-merge-patch").ok
    assert scene.replica_set("shop:2")


@pytest.mark.parametrize(("place", "passes"), [(NO_HOLD, False), (NO_HOLD_NOR_AMENDMENT, True)])
def test_an_amendment_that_slips_past_the_hold_is_refused(controls: Bed, place: str, passes: bool) -> None:
    scene = Scene(controls, namespace_labels={WITHOUT: place})
    held = deployment(labels={LABEL: ID}, annotations={HELD: "true", BY: "bob"}, paused=True)
    assert scene.serin.create("deployments", held).ok
    answer = scene.attacker.patch("deployments", "shop", annotate(type="standard"))
    assert answer.ok is passes, answer
    assert passes or AMENDMENT in answer.message


def test_a_name_that_slips_past_the_stamp_is_refused(controls: Bed) -> None:
    scene = Scene(controls, "alice", {WITHOUT: NO_DECIDER}).asked()
    groups = ["managers", "system:authenticated"]
    for forged, says in (
        (scene.decision(by="dora", groups=groups), STAMPED[0]),
        (scene.decision(by="alice", groups=["system:masters"]), STAMPED[1]),
    ):
        answer = scene.attacker.create("changedecisions", forged)
        assert says in answer.message
        assert "kubectl get mutatingadmissionpolicybindings serin-decider" in answer.message
    assert scene.attacker.create("changedecisions", scene.decision(by="alice", groups=groups)).ok


def test_without_the_stamp_and_its_rules_anyone_is_somebody_else(controls: Bed) -> None:
    scene = Scene(controls, "alice", {WITHOUT: control("serin-decisions", STAMPED)}).asked()
    made = scene.attacker.create("changedecisions", scene.decision(by="dora", groups=["system:masters"]))
    assert made.ok, made
    assert made.body["spec"]["by"] == "dora"


def test_every_rule_has_an_attack() -> None:
    """No rule without a test of it; those about a missed hold or stamp are tested above."""
    above = {"serin-guard": {"it was not held", AMENDMENT}, "serin-decisions": set(STAMPED)}
    for policy, attacks in ATTACKS.items():
        words = {attack.says for attack in attacks} | above.get(policy, set())
        for rule in named("ValidatingAdmissionPolicy", policy)["spec"]["validations"]:
            assert any(each in message(rule) for each in words), rule
