"""`kubectl serin lint` names what Serin would hold, before anything is applied."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.cli.lint import judge
from controller.core.form import filled
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
POLICIES = [ROOT / "policies"]
ID = "CHG-20261123-001"
FORM = {
    "serin.dev/description": "v2",
    "serin.dev/systems-affected": "checkout",
    "serin.dev/users-affected": "all",
    "serin.dev/downtime": "no",
    "serin.dev/risk": "low",
    "serin.dev/rollback-plan": "automatic",
    "serin.dev/testing-plan": "BDD",
    "serin.dev/success-criteria": "SLOs hold",
}


def deployment(image: str = "shop:1.4.2", change: str = ID, **annotations: str) -> dict[str, Any]:
    named = {f"serin.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
    labels = {"serin.dev/change": change} if change else {}
    template = {"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "shop", "image": image}]}}
    meta = {"name": "shop", "labels": labels, "annotations": named}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"template": template}}


def request(name: str = ID.lower(), **spec: Any) -> dict[str, Any]:
    full = {"changeId": ID, "type": "normal", **spec}
    return {"apiVersion": "serin.dev/v1alpha1", "kind": "ChangeRequest", "metadata": {"name": name}, "spec": full}


def linted(
    folder: Path, *objects: dict[str, Any], stable: dict[str, Any] | None = None, checked: bool = True
) -> list[tuple[bool, str]]:
    path, running = folder / "new.yaml", folder / "stable.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    running.write_text(yaml.safe_dump(stable))
    found = judge([path], POLICIES if checked else [], running if stable else None)
    return [(finding.good, finding.text) for finding in found]


def test_a_good_standard_change(tmp_path: Path) -> None:
    new = deployment("shop:1.4.3", type="standard")
    assert linted(tmp_path, new, stable=deployment()) == [
        (True, f"standard change {ID}, 1 difference to what runs"),
    ]
    assert linted(tmp_path, deployment(change="auto", type="standard")) == [(True, "standard change auto")]


def test_what_is_outside_the_scope_is_named(tmp_path: Path) -> None:
    new = deployment("shop:2.0.0", type="standard")
    new["spec"]["template"]["spec"]["hostNetwork"] = True
    assert linted(tmp_path, new, stable=deployment()) == [
        (False, "NotStandard: containers[shop].image is no step of a patch version (from shop:1.4.2 to shop:2.0.0)"),
        (False, "NotStandard: hostNetwork may not change"),
    ]


@pytest.mark.parametrize(
    ("change", "annotations", "says"),
    [
        ("CHG-1", {}, "InvalidChangeID: label serin.dev/change is 'CHG-1'"),
        (ID, {"type": "hotfix"}, "UnknownType: annotation serin.dev/type is 'hotfix'"),
        (ID, {"priority": "P9"}, "InvalidAnnotation: annotation serin.dev/priority is 'P9': write P0, P1, P2 or P3"),
        (ID, {"jobs": "Back Up"}, "InvalidAnnotation: annotation serin.dev/jobs names 'Back Up'"),
        (
            ID,
            {"discription": "x"},
            "annotation serin.dev/discription is none of Serin's: did you mean serin.dev/description?",
        ),
        (ID, {"xyzzy": "x"}, "annotation serin.dev/xyzzy is none of Serin's: known are "),
        (ID, {"held": "true"}, "annotation serin.dev/held is written by admission: leave it out"),
    ],
)
def test_what_is_wrong_with_a_deployment(tmp_path: Path, change: str, annotations: dict[str, str], says: str) -> None:
    found = linted(tmp_path, deployment(change=change, **annotations), checked=False)
    assert any(text.startswith(says) for good, text in found if not good), found
    assert not any(good for good, _ in found)


def test_a_label_that_is_nearly_ours(tmp_path: Path) -> None:
    new = deployment(change="")
    new["metadata"]["labels"]["serin.dev/chagne"] = ID
    found = linted(tmp_path, new, checked=False)
    assert found == [(False, "label serin.dev/chagne is none of Serin's: did you mean serin.dev/change?")]


def test_the_form_is_filled_by_both_together(tmp_path: Path) -> None:
    new = deployment(description="v2")
    assert [text.split(" ")[2] for good, text in linted(tmp_path, new) if not good] == list(FORM)[1:]
    new["metadata"]["annotations"] = dict(list(FORM.items())[:4])
    written = request(
        impact={"risk": "low"}, **filled({"rollbackPlan": "a", "testingPlan": "b", "successCriteria": "c"})
    )
    assert linted(tmp_path, written, new) == [(True, f"normal change {ID}")] * 2
    assert {text.partition(" is missing")[0] for good, text in linted(tmp_path, written) if not good} == {
        "FormIncomplete: spec.description",
        "FormIncomplete: spec.impact.systemsAffected",
        "FormIncomplete: spec.impact.usersAffected",
        "FormIncomplete: spec.impact.downtime",
    }


def test_a_change_request_is_checked(tmp_path: Path) -> None:
    assert linted(tmp_path, request("another"), checked=False) == [
        (False, f"metadata.name is 'another': write {ID.lower()}, the change ID in lower case"),
    ]
    (bad,) = linted(tmp_path, request(notBefore="soon"), checked=False)
    assert bad == (
        False,
        "InvalidForm: spec.notBefore is 'soon': write a moment with a zone, like 2026-12-06T02:00:00Z",
    )
    (unknown,) = linted(tmp_path, request(type="urgent"), checked=False)
    assert unknown == (False, "spec.type is 'urgent': write standard, normal, emergency")
    assert linted(tmp_path, request(), checked=False) == [
        (True, f"normal change {ID}; form and scope are not checked without --policy"),
    ]


def test_two_types_of_one_change(tmp_path: Path) -> None:
    found = linted(tmp_path, request(type="emergency", description="x"), deployment())
    assert (False, "asks for a change of type normal, and the ChangeRequest is of type emergency") in found


@pytest.mark.parametrize("broken", ["metadata", "spec"])
def test_objects_of_no_known_shape_are_no_crash(tmp_path: Path, broken: str) -> None:
    for d in (deployment(), request()):
        odd = copy.deepcopy(d)
        values: tuple[Any, ...] = (None, [], "x")
        for value in values:
            odd[broken] = value
            assert linted(tmp_path, odd, stable=deployment())


def test_the_command_ends_as_the_files_are(tmp_path: Path, run: Run) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump({"kind": "List", "items": [deployment(type="standard")]}))
    bad.write_text(yaml.safe_dump(deployment(type="hotfix")))
    code, out, _ = run("lint", str(good), "--policy", str(POLICIES[0]))
    assert (code, out) == (0, f"ok    {good}: Deployment shop: standard change {ID}\n")
    code, out, _ = run("lint", str(good), str(bad), str(tmp_path / "none.yaml"))
    assert code == 1
    assert "none.yaml: cannot be read: No such file or directory" in out
    (tmp_path / "empty.yaml").write_text("kind: Service\n")
    assert "has no Deployment and no ChangeRequest in it" in run("lint", str(tmp_path / "empty.yaml")).out


def test_a_policy_that_cannot_be_used_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("kind: ChangePolicy\nmetadata: {name: normal}\nspec: {}\n")
    found = list(judge([], [path], None))
    assert [(f.good, "spec.steps is None: this field is required" in f.text) for f in found] == [(False, True)]
