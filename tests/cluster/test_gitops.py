"""What Argo CD and Flux do to a field that a change writes, by the words of their objects; and what our YAML adds."""

from typing import Any

import pytest
import yaml

from controller.cluster.gitops import Owner, Written, owners, revert

Json = dict[str, Any]
GROUP = "gateway.networking.k8s.io"
TRACKED = {"argocd.argoproj.io/tracking-id": f"shop:{GROUP}/HTTPRoute:demo/shop"}
BY_FLUX = {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
BY_HELM = {"helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "demo"}


def route(labels: Json | None = None, annotations: Json | None = None) -> Json:
    meta = {"name": "shop", "namespace": "demo", "labels": labels or {}, "annotations": annotations or {}}
    return {"kind": "HTTPRoute", "metadata": meta}


def rules_of(raw: Json) -> Written:
    return Written(raw, GROUP, "/spec/rules")


def named(kind: str, spec: Json, *, namespace: str, name: str, resources: bool = True) -> Json:
    listed = [{"group": GROUP, "version": "v1", "kind": "HTTPRoute", "namespace": "demo", "name": "shop"}]
    status = {"resources": listed} if resources and kind == "Application" else {}
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec, "status": status}


def application(spec: Json, *, resources: bool = True) -> Json:
    return named("Application", spec, namespace="argocd", name="shop", resources=resources)


def merged(left: Any, right: Any) -> Any:
    """What someone makes of a spec who adds a snippet to it."""
    if isinstance(left, dict) and isinstance(right, dict):
        return {**left, **{key: merged(left[key], value) if key in left else value for key, value in right.items()}}
    return [*left, *right] if isinstance(left, list) and isinstance(right, list) else right


HEALING = {"syncPolicy": {"automated": {"prune": True, "selfHeal": True}, "syncOptions": ["CreateNamespace=true"]}}
RESPECTING = merged(HEALING, {"syncPolicy": {"syncOptions": ["RespectIgnoreDifferences=true"]}})
DETECTING = {"driftDetection": {"mode": "enabled"}}
REVERTING: list[tuple[str, Json, Json]] = [
    ("Argo CD's Application argocd/shop", route(annotations=TRACKED), application(HEALING)),
    (
        "Flux's Kustomization flux-system/apps",
        route(BY_FLUX),
        named("Kustomization", {"interval": "10m"}, namespace="flux-system", name="apps"),
    ),
    ("Flux's HelmRelease demo/shop", route(BY_HELM), named("HelmRelease", DETECTING, namespace="demo", name="shop")),
]


@pytest.mark.parametrize(("who", "raw", "found"), REVERTING, ids=["argo", "kustomize", "helm"])
def test_it_is_found_and_the_yaml_that_is_shown_ends_it(who: str, raw: Json, found: Json) -> None:
    (owner,) = owners(raw)
    seen = revert(rules_of(raw), owner, [found])
    assert seen is not None
    assert (seen.what, seen.by, seen.known) == ("/spec/rules of HTTPRoute/demo/shop", who, True)
    added = merged(found, yaml.safe_load(seen.snippet))
    assert revert(rules_of(raw), owner, [added]) is None
    for other in (
        merged(found, yaml.safe_load(seen.snippet.replace("name: shop", "name: other"))),
        merged(found, yaml.safe_load(seen.snippet.replace("/spec/rules", "/spec/hostnames"))),
    ):
        assert revert(rules_of(raw), owner, [other]) == seen


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"syncPolicy": {"automated": {}}},
        {"syncPolicy": {"automated": {"selfHeal": False}}},
        {"syncPolicy": {"automated": {"selfHeal": True, "enabled": False}}},
    ],
)
def test_argo_without_self_heal_is_let_be(spec: Json) -> None:
    raw = route(annotations=TRACKED)
    assert revert(rules_of(raw), next(owners(raw)), [application(spec)]) is None


RULE = {"group": GROUP, "kind": "HTTPRoute"}


@pytest.mark.parametrize(
    ("rule", "ignored"),
    [
        ({**RULE, "jsonPointers": ["/spec/rules"]}, True),
        ({**RULE, "jsonPointers": ["/spec"]}, True),
        ({"group": "*", "kind": "*", "managedFieldsManagers": ["serin"]}, True),
        ({**RULE, "jqPathExpressions": [".spec.rules[]?.backendRefs"]}, True),
        ({**RULE, "namespace": "demo", "name": "shop", "jqPathExpressions": [".spec.rules"]}, True),
        # The canary is an entry more: without the weights the lists still differ.
        ({**RULE, "jqPathExpressions": [".spec.rules[].backendRefs[].weight"]}, False),
        ({**RULE, "jsonPointers": ["/spec/rules/0/backendRefs/0/weight"]}, False),
        ({**RULE, "managedFieldsManagers": ["kubectl"]}, False),
        ({**RULE, "namespace": "other", "jsonPointers": ["/spec/rules"]}, False),
        ({"group": "apps", "kind": "HTTPRoute", "jsonPointers": ["/spec/rules"]}, False),
        ({"kind": "HTTPRoute", "jsonPointers": ["/spec/rules"]}, False),
    ],
)
def test_what_argo_ignores(rule: Json, ignored: bool) -> None:
    raw = route(annotations=TRACKED)
    spec = merged(RESPECTING, {"ignoreDifferences": [rule]})
    assert (revert(rules_of(raw), next(owners(raw)), [application(spec)]) is None) is ignored


@pytest.mark.parametrize(
    ("base", "option", "fights"),
    [
        (HEALING, "", True),
        (RESPECTING, "", False),
        (HEALING, "Prune=false, RespectIgnoreDifferences=true", False),
        (RESPECTING, "RespectIgnoreDifferences=false", True),
    ],
)
def test_ignored_differences_are_respected_by_a_sync_only_if_it_is_told_to(
    base: Json, option: str, fights: bool
) -> None:
    raw = route(annotations={**TRACKED, "argocd.argoproj.io/sync-options": option})
    spec = merged(base, {"ignoreDifferences": [{**RULE, "jsonPointers": ["/spec/rules"]}]})
    assert (revert(rules_of(raw), next(owners(raw)), [application(spec)]) is not None) is fights


def test_what_cannot_be_read_here_is_not_known() -> None:
    for raw in (route(annotations=TRACKED), route(BY_FLUX)):
        seen = revert(rules_of(raw), next(owners(raw)), [])
        assert seen is not None
        assert (seen.known, seen.snippet) == (False, "")
    helm = route(BY_HELM)
    assert revert(rules_of(helm), next(owners(helm)), []) is None, "it detects drift only if it is told to"


def test_the_label_that_many_tools_write_means_argo_only_if_an_application_lists_the_object() -> None:
    raw = route({"app.kubernetes.io/instance": "shop"})
    (owner,) = owners(raw)
    assert owner == Owner("Application", "", "shop", sure=False)
    assert revert(rules_of(raw), owner, []) is None
    assert revert(rules_of(raw), owner, [application(HEALING, resources=False)]) is None
    assert revert(rules_of(raw), owner, [application(HEALING)]) is not None


def test_an_application_of_any_namespace_is_named_with_it_and_a_copied_mark_means_nothing() -> None:
    tracked = {"argocd.argoproj.io/tracking-id": f"team-a_shop:{GROUP}/HTTPRoute:demo/shop"}
    assert list(owners(route(annotations=tracked))) == [Owner("Application", "team-a", "shop")]
    copied = {"argocd.argoproj.io/tracking-id": f"shop:{GROUP}/HTTPRoute:demo/template"}
    assert list(owners(route(annotations=copied))) == []


@pytest.mark.parametrize("name", ["a,metadata.namespace=x", "../x", "A", "", "x" * 254, "a\nb"])
def test_what_is_no_name_is_asked_for_nowhere(name: str) -> None:
    tracked = {"argocd.argoproj.io/tracking-id": f"{name}:{GROUP}/HTTPRoute:demo/shop"}
    labels = dict.fromkeys((*BY_FLUX, *BY_HELM), name)
    assert list(owners(route(labels, tracked))) == []


@pytest.mark.parametrize(
    ("key", "value", "fights"),
    [
        ("kustomize.toolkit.fluxcd.io/reconcile", "disabled", False),
        ("kustomize.toolkit.fluxcd.io/reconcile", "enabled", True),
        ("kustomize.toolkit.fluxcd.io/ssa", "IfNotPresent", False),
        ("kustomize.toolkit.fluxcd.io/ssa", "ignore", False),
        ("kustomize.toolkit.fluxcd.io/ssa", "Merge", True),  # rules is one atomic list
    ],
)
def test_marks_of_flux(key: str, value: str, fights: bool) -> None:
    found = [named("Kustomization", {}, namespace="flux-system", name="apps")]
    for raw in (route({**BY_FLUX, key: value}), route(BY_FLUX, {key: value})):
        assert (revert(rules_of(raw), next(owners(raw)), found) is not None) is fights


@pytest.mark.parametrize(
    ("target", "leaves"),
    [
        (None, True),
        ({"kind": "HTTPRoute|GRPCRoute", "name": "sh.*"}, True),
        ({"kind": "^(HTTPRoute)$"}, True),
        ({"kind": "Deployment"}, False),
        ({"kind": "HTTPRoute", "name": "other"}, False),
        ({"name": "(a+)+$"}, True),  # not read, and above all not run
    ],
)
def test_the_rules_of_flux(target: Json | None, leaves: bool) -> None:
    raw = route(BY_FLUX)
    spec = {"ignore": [{"paths": ["/spec/rules"], **({"target": target} if target else {})}]}
    found = [named("Kustomization", spec, namespace="flux-system", name="apps")]
    assert (revert(rules_of(raw), next(owners(raw)), found) is None) is leaves


def test_what_is_suspended_reverts_nothing() -> None:
    for raw, kind in ((route(BY_FLUX), "Kustomization"), (route(BY_HELM), "HelmRelease")):
        found = [named(kind, {**DETECTING, "suspend": True}, namespace="demo", name="shop")]
        assert revert(rules_of(raw), next(owners(raw)), found) is None
