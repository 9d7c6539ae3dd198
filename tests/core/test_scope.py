"""What a standard change may change; whatever is not named is outside."""

import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.codec import FieldError, parse_quantity
from controller.core.diff import Difference, differences
from controller.core.policy import Bounds, ImageStep, Policy, Scope, Step, parse_policy
from controller.core.scope import outside, refusal, version
from tests.core.templates import edited, template, templates

SCOPE = Scope(
    images=ImageStep.PATCH,
    env=("LOG_LEVEL", "*_LOG_LEVEL"),
    resources=Bounds(2, {"cpu": "1", "memory": "2Gi"}),
    annotations=("kubectl.kubernetes.io/restartedAt", "notes.test/*"),
    labels=("app.kubernetes.io/version",),
)
NOTHING = Scope()
DIGEST = "@sha256:" + "a" * 64
OTHER = "@sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("shop:1.4.2", "shop:1.4.3", True),
        ("shop:1.4.9", "shop:1.4.10", True),
        ("shop:1.4.2", "shop:1.4.2" + DIGEST, True),
        ("shop:1.4.2" + DIGEST, "shop:1.4.3" + OTHER, True),
        ("host:5000/a/shop:v1.4.2", "host:5000/a/shop:v1.4.3", True),
        ("shop:1.4.2-alpine", "shop:1.4.3-alpine", True),
        ("shop:1.4.3", "shop:1.4.2", False),
        ("shop:1.4.2", "shop:1.5.2", False),
        ("shop:1.4.2", "shop:2.4.2", False),
        ("shop:1.4.2", "shop:v1.4.3", False),
        ("shop:1.4.2", "shop:1.4.3-alpine", False),
        ("shop:1.4.2-alpine", "shop:1.4.3-debian", False),
        ("shop:1.4.3-rc.1", "shop:1.4.4-rc.1", False),
        ("shop:1.4.2", "shop:1.4.3-beta2", False),
        ("shop:1.4.2", "shop:1.4.3.1", False),
        ("shop:1.4", "shop:1.4", False),
        ("shop:1.4.02", "shop:1.4.3", False),
        ("shop:1.4.2", "shop:latest", False),
        ("shop:v1", "shop:v2", False),
        ("shop", "shop:1.4.3", False),
        ("shop:1.4.2", "shop" + DIGEST, False),
        ("shop" + DIGEST, "shop" + OTHER, False),
        ("shop:1.4.2", "shop:1.4.3@sha256:abc", False),
        ("shop:1.4.2", "evil/shop:1.4.3", False),
        ("shop:1.4.2", "docker.io/library/shop:1.4.3", False),
        ("shop:1.4.2", "shop:1.4.3\\n", False),
        ("shop:1.4.2", "", False),
        ("", "shop:1.4.3", False),
    ],
)
def test_images(before: str, after: str, allowed: bool) -> None:
    found = Difference("containers[shop].image", before, after)
    assert (refusal(found, SCOPE) == "") == allowed
    assert refusal(found, NOTHING)


@pytest.mark.parametrize(
    ("path", "before", "after", "allowed"),
    [
        ("containers[shop].env[LOG_LEVEL]", "info", "debug", True),
        ("initContainers[shop].env[SQL_LOG_LEVEL]", "", "debug", True),
        ("containers[shop].env[DATABASE_URL]", "a", "b", False),
        ("containers[shop].env[LOG_LEVEL].valueFrom", "", "{}", False),
        ("containers[shop].env", "[]", "[1]", False),
        ('containers[shop].env["A].env[LOG_LEVEL"]', "", "x", False),
        ("ephemeralContainers[shop].env[LOG_LEVEL]", "info", "debug", False),
        ("containers[shop].resources.requests.cpu", "100m", "200m", True),
        ("containers[shop].resources.requests.cpu", "0.1", "50m", True),
        ("containers[shop].resources.limits.memory", "1Gi", "2Gi", True),
        ("containers[shop].resources.limits[ephemeral-storage]", "1Gi", "2Gi", True),
        ("containers[shop].resources.requests.cpu", "100m", "201m", False),
        ("containers[shop].resources.requests.cpu", "100m", "49m", False),
        ("containers[shop].resources.requests.cpu", "800m", "1100m", False),
        ("containers[shop].resources.limits.memory", "1500Mi", "2049Mi", False),
        ("containers[shop].resources.limits.memory", "", "1Gi", False),
        ("containers[shop].resources.limits.memory", "1Gi", "", False),
        ("containers[shop].resources.limits.memory", "1e3", "2e3", False),
        ("containers[shop].resources.limits[nvidia.com/gpu]", "1", "2", False),
        ("containers[shop].resources.limits", "", '{"cpu": "1"}', False),
        ("resources.limits.cpu", "100m", "100m", False),
        ("metadata.annotations[kubectl.kubernetes.io/restartedAt]", "", "now", True),
        ("metadata.annotations[notes.test/why]", "a", "b", True),
        ("metadata.annotations[sidecar.istio.io/inject]", "", "false", False),
        ("metadata.annotations", "", '{"notes.test/why": "b"}', False),
        ("metadata.labels[app.kubernetes.io/version]", "1", "2", True),
        ("metadata.labels[app]", "shop", "cart", False),
        ("containers[shop].command", "", '["sh"]', False),
        ("containers[shop].imagePullPolicy", "Always", "Never", False),
        ("serviceAccountName", "shop", "admin", False),
        ("…", "", "31 more differences are not kept here", False),
    ],
)
def test_fields(path: str, before: str, after: str, allowed: bool) -> None:
    found = Difference(path, before, after)
    assert (refusal(found, SCOPE) == "") == allowed
    assert outside([found], SCOPE) == (() if allowed else (found,))
    assert outside([found], NOTHING) == (found,)


def test_values_of_the_environment_are_not_repeated() -> None:
    assert "hunter2" not in refusal(Difference("containers[shop].env[PASSWORD]", "hunter2", "hunter3"), SCOPE)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_a_step_of_a_patch_is_a_patch_that_is_not_lower(
    minor: int, patch: int, next_minor: int, next_patch: int
) -> None:
    found = Difference("containers[a].image", f"r/a:1.{minor}.{patch}", f"r/a:1.{next_minor}.{next_patch}")
    assert bool(outside([found], SCOPE)) == ((minor, patch) > (minor, next_patch) or minor != next_minor)


# --- No template that differs in something that is not allowed gets through ---


def allowed_only(new: Any, stable: Any) -> Any:
    """`new` with all that SCOPE allows put back as stable has it: found by walking the template, not by paths."""
    new = copy.deepcopy(new)
    for was, now in zip(stable["spec"]["containers"], new["spec"]["containers"], strict=True):
        before, after = version(was["image"]), version(now["image"])
        if before and after and replace(after, patch=before.patch) == before and after.patch >= before.patch:
            now["image"] = was["image"]
        for then, entry in zip(was.get("env", []), now.get("env", []), strict=True):
            if entry["name"] == "LOG_LEVEL" and set(entry) == {"name", "value"}:
                entry["value"] = then["value"]
        for part, quantities in now.get("resources", {}).items():
            for name, quantity in quantities.items():
                then = parse_quantity(was["resources"][part][name])
                if then / 2 <= parse_quantity(quantity) <= then * 2:
                    quantities[name] = was["resources"][part][name]
    new["metadata"]["annotations"].pop("kubectl.kubernetes.io/restartedAt", None)
    return new


def variants() -> st.SearchStrategy[Any]:
    """The usual edits of a template, allowed and not, any number of them at once."""

    def set_(*path: Any) -> Any:
        def edit(new: Any) -> None:
            *above, last, value = path
            for part in above:
                new = new[part]
            new[last] = value

        return edit

    shop = ("spec", "containers", 0)
    edits = [
        set_(*shop, "image", "registry.test/shop:1.4.3"),
        set_(*shop, "image", "registry.test/shop:1.5.0"),
        set_(*shop, "image", "evil.test/shop:1.4.3"),
        set_(*shop, "env", 0, "value", "debug"),
        set_(*shop, "env", 1, "value", "http://evil"),
        set_(*shop, "env", 0, {"name": "LOG_LEVEL", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
        set_(*shop, "resources", "requests", "cpu", "200m"),
        set_(*shop, "resources", "requests", "cpu", "900m"),
        set_(*shop, "resources", "limits", "memory", "512Mi"),
        set_(*shop, "command", ["sh"]),
        set_("metadata", "annotations", {"kubectl.kubernetes.io/restartedAt": "now"}),
        set_("spec", "serviceAccountName", "admin"),
        set_("spec", "containers", 1, "image", "envoy:v1.31.1"),
    ]
    return st.lists(st.sampled_from(edits), max_size=4)


@given(variants())
def test_what_passes_is_stable_but_for_what_is_allowed(edits: list[Any]) -> None:
    stable = template()
    stable["metadata"]["annotations"] = {}
    new = copy.deepcopy(stable)
    for edit in edits:
        edit(new)
    passes = not outside(differences(stable, new), SCOPE)
    assert passes == (allowed_only(new, stable) == stable)


@given(templates(), st.data())
def test_no_difference_passes_a_scope_that_allows_nothing(one: Any, data: st.DataObject) -> None:
    other = data.draw(edited(one))
    found = differences(one, other)
    assert outside(found, NOTHING) == found


# --- The policy ---

SPEC: dict[str, Any] = {"steps": [{"weight": 100, "bake": "5m"}]}


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({"images": "minor"}, "spec.scope.images"),
        ({"env": ["*"]}, "spec.scope.env[0]"),
        ({"env": ["LOG_LEVEL", "a[b]"]}, "spec.scope.env[1]"),
        ({"annotations": ["*/*"]}, "spec.scope.annotations[0]"),
        ({"labels": [""]}, "spec.scope.labels[0]"),
        ({"resources": {"factor": 0.5}}, "spec.scope.resources.factor"),
        ({"resources": {"max": {"cpu": "lots"}}}, "spec.scope.resources.max.cpu"),
        ({"resources": {"max": {"cpu": 2}}}, "spec.scope.resources.max.cpu"),
        ({"resources": {"max": {"gpu": "2"}}}, "spec.scope.resources.max"),
        ({"replicas": 3}, "spec.scope.replicas"),
    ],
)
def test_a_scope_that_cannot_be_used_is_named(scope: Any, path: str) -> None:
    with pytest.raises(FieldError) as refused:
        parse_policy({**SPEC, "scope": scope}, frozenset({"envoy"}))
    assert refused.value.path == path


def test_a_form_names_its_fields() -> None:
    with pytest.raises(
        FieldError, match=r"spec.form.required\[1\] is 'risk': no such field of the form; known are .*risk"
    ):
        parse_policy({**SPEC, "form": {"required": ["description", "risk"]}}, frozenset({"envoy"}))
    assert Policy((Step(100, timedelta(minutes=5)),)).form.required == ()


@pytest.mark.parametrize(
    ("text", "more"),
    [("1", "1000m"), ("1500m", "1.5"), ("1Ki", "1024"), ("2Gi", "2048Mi"), ("1G", "1000M"), ("0.5", "500m")],
)
def test_quantities(text: str, more: str) -> None:
    assert parse_quantity(text) == parse_quantity(more)


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1 Gi", "Gi", "1.", "0x1", "1g", "٣"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"^"):
        parse_quantity(text)
