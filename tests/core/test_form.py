"""The form: what annotations fill, what people wrote, and what is missing."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.change import PREFIX, check_form, check_spec
from controller.core.form import FIELDS, filled, forward_only, merge, missing, not_before, text_of, unverified
from controller.core.model import Change
from controller.core.policy import ChangeType, Form, Policy, Step

POLICY = Policy((Step(100, timedelta(minutes=5)),), form=Form(("description", "impact.risk", "testing.bdd")))
CHANGE = Change("demo", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL)


def asked(deployment: str = "shop", kind: str = "normal", by: str = "alice", **form: str) -> dict[str, Any]:
    """What a held Deployment asks for; `impact_risk` is impact.risk."""
    named = {name.replace("_", "."): text for name, text in form.items()}
    base = {"changeId": "CHG-20261123-001", "type": kind, "requestedBy": by, "deployments": [deployment]}
    return {**base, **filled(named)}


def said(spec: Any, *names: str) -> list[str]:
    return [text_of(spec, name) for name in names]


def test_annotations_fill_a_new_record_and_are_marked_as_claims() -> None:
    spec = merge({}, asked(description="v2", impact_risk="low"))
    assert said(spec, "type", "requestedBy", "description", "impact.risk") == ["normal", "alice", "v2", "low"]
    assert unverified(spec) == ("description", "impact.risk")


def test_what_the_requester_wrote_beforehand_stays() -> None:
    written = {
        "changeId": "CHG-20261123-001",
        "type": "emergency",
        "requestedBy": "bob",
        "description": "as bob wrote it",
        "impact": {"risk": "high"},
        "testing": {"unit": "green"},
    }
    spec = merge(written, asked(description="v2", impact_risk="low", impact_downtime="no", priority="P1"))
    assert {**spec, "impact": {"risk": "high"}, **dict.fromkeys(("priority", "deployments", "fromAnnotations"))} == {
        **written,
        **dict.fromkeys(("priority", "deployments", "fromAnnotations")),
    }
    assert said(spec, "priority", "impact.downtime") == ["P1", "no"]
    assert unverified(spec) == ("priority", "impact.downtime")
    assert spec["deployments"] == ["shop"]


def test_an_amended_annotation_amends_what_it_filled() -> None:
    spec = merge({}, asked(description="v2", priority="P1"))
    spec = merge(spec, asked(description="v3", by="carol", kind="standard"))
    assert said(spec, "description", "priority", "requestedBy", "type") == ["v3", "", "carol", "standard"]


def test_what_was_edited_by_hand_since_is_no_longer_the_annotations() -> None:
    spec = merge({}, asked(description="v2"))
    spec = merge({**spec, "description": "mended by hand"}, asked(description="v3"))
    assert said(spec, "description") == ["mended by hand"]
    assert unverified(spec) == ()


def test_two_deployments_do_not_write_over_each_other() -> None:
    spec = merge({}, asked("shop", description="of shop"))
    both = merge(spec, asked("cart", kind="standard", by="bob", description="of cart", priority="P2"))
    assert said(both, "description", "priority", "type", "requestedBy") == ["of shop", "P2", "normal", "alice"]
    assert both["deployments"] == ["cart", "shop"]
    assert merge(both, asked("shop", description="of shop")) == both


def test_the_jobs_of_all_are_run_and_each_takes_back_its_own() -> None:
    spec = merge({"jobs": ["backup"]}, {**asked("shop"), "jobs": ["tests", "backup"]})
    spec = merge(spec, {**asked("cart"), "jobs": ["slo", "tests"]})
    assert spec["jobs"] == ["backup", "tests", "slo"]
    spec = merge(spec, {**asked("shop"), "jobs": []})
    assert spec["jobs"] == ["backup", "slo"]
    spec = merge(spec, {**asked("cart"), "jobs": ["tests"]})
    assert spec["jobs"] == ["backup", "tests"]


def test_a_problem_goes_when_it_is_mended() -> None:
    spec = merge({}, {**asked(), "problem": "UnknownType: x"})
    assert "problem" in spec
    assert "problem" not in merge(spec, asked())


TEXTS = st.sampled_from(["", "a", "b"])
FORMS = st.fixed_dictionaries({f.name: TEXTS for f in FIELDS})
CALLS = st.lists(st.tuples(st.sampled_from(["shop", "cart"]), FORMS), max_size=4)


@given(FORMS, CALLS)
def test_nothing_that_a_person_wrote_is_ever_erased_and_a_repeated_merge_changes_nothing(
    written: Any, calls: Any
) -> None:
    spec: Any = {"changeId": "CHG-20261123-001", "type": "normal", "requestedBy": "bob", **filled(written)}
    for deployment, form in calls:
        wanted = {**asked(deployment), **filled(form)}
        spec = merge(spec, wanted)
        assert merge(spec, wanted) == spec
        for name, text in written.items():
            assert not text or text_of(spec, name) == text
            assert text or text_of(spec, name) == "" or name in unverified(spec)


def test_what_is_missing_is_named() -> None:
    assert missing(CHANGE, POLICY) == ("description", "impact.risk", "testing.bdd")
    spec = {"description": "v2", "impact": {"risk": "low"}, "testing": {"bdd": " \n"}}
    assert missing(replace(CHANGE, spec=spec), POLICY) == ("testing.bdd",)


@pytest.mark.parametrize(
    ("annotation", "text", "says"),
    [
        ("priority", "high", "annotation serin.dev/priority is 'high': write P0, P1, P2 or P3"),
        ("risk", "who knows", "annotation serin.dev/risk is 'who knows': write low, medium or high"),
        ("rollback", "never", "annotation serin.dev/rollback is 'never': write automatic or forwardOnly"),
        ("not-before", "2026-12-06T02:00:00", "write a moment with a zone, like 2026-12-06T02:00:00Z"),
        ("testing-bdd", "x" * 1025, "has 1025 characters: write at most 1024, and link to the rest"),
        ("description", "a\u202eb", "has the control character \\u202e: write plain text"),
    ],
)
def test_text_that_cannot_be_used_is_named_where_it_stands(annotation: str, text: str, says: str) -> None:
    problem = check_form({PREFIX + annotation: text})
    assert problem
    assert (problem.reason, says in problem.message) == ("InvalidAnnotation", True)
    name = next(f.name for f in FIELDS if f.annotation == annotation)
    written = check_spec(filled({name: text}))
    assert written
    assert written.reason == "InvalidForm"
    assert written.message.startswith(f"spec.{name} ")


@pytest.mark.parametrize("text", ["p1", "P1"])
def test_choices_are_taken_in_any_case(text: str) -> None:
    assert check_form({PREFIX + "priority": text}) is None
    assert FIELDS[0].normal(text) == "P1"


def test_moments_and_forward_only() -> None:
    spec = {"notBefore": "2026-12-06T03:00:00+01:00", "rollback": "forwardonly"}
    assert (forward_only(spec), forward_only({})) == (True, False)
    moment = not_before(spec)
    assert moment
    assert moment.isoformat() == "2026-12-06T02:00:00+00:00"
    assert not_before({"notBefore": "soon"}) is None
