"""What people ask for, and what is remembered of it: annotations, labels, ChangeRequests and their status."""

import asyncio
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster import manifest
from controller.cluster.read import _known
from controller.core.change import KNOWN, check_id
from controller.core.codec import FieldError, decode, encode
from controller.core.decide import decide
from controller.core.form import merge
from controller.core.intake import Ask, Record, intake
from controller.core.model import Held, Observation, Phase, State
from tests.fuzz.junk import FUZZ, Json, plain, spoilt, texts
from tests.manifests.test_crds import FULL
from tests.simulation.test_world import NORMAL
from tests.simulation.world import BEGIN, World

DAY = date(2026, 11, 23)
notes = st.dictionaries(st.sampled_from(KNOWN) | texts, texts, max_size=6)


@FUZZ
@given(texts, notes, st.sampled_from([h.value for h in Held]) | texts)
def test_whatever_a_deployment_claims_is_recorded_or_refused_in_plain_words(
    label: str, annotations: dict[str, str], held: str
) -> None:
    world = World(NORMAL)
    made = world.deployment()
    assert made is not None
    d = replace(made, change=label, annotations=annotations, held=held)
    found = intake(Ask(d, world.replica_sets(), [], []), DAY)
    if not isinstance(found, Record):
        return
    spec = merge({}, found.spec)
    raw = manifest.change_request("demo", found.name, spec)
    raw["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    change, state = manifest.change(raw)
    assert plain(f"{change.change_id}{change.requested_by}{change.problem}")
    assert check_id(change.change_id) is None or change.problem
    seen = replace(asyncio.run(world.observe(change, state, None)).targets["shop"], deployment=d)
    after = decide(state, Observation(change, {"shop": seen}, NORMAL), NORMAL, BEGIN)
    assert after.reason
    assert plain(after.message), after.message
    assert all(plain(who) for who in after.requesters)


CHANGE = {
    "apiVersion": "serin.dev/v1alpha1",
    "kind": "ChangeRequest",
    "metadata": {"name": "chg-20261123-001", "namespace": "demo", "uid": "u", "resourceVersion": "1"},
    "spec": {
        "changeId": "CHG-20261123-001",
        "type": "normal",
        "requestedBy": "alice",
        "author": "bob",
        "deployments": ["shop"],
        "jobs": ["backup"],
        "description": "Checkout v2",
        "notBefore": "2026-12-06T02:00:00Z",
        "impact": {"risk": "low", "systemsAffected": "shop"},
    },
    "status": encode(FULL),
}


@FUZZ
@given(spoilt({"status": CHANGE["status"]}))
def test_a_status_with_something_wrong_is_left_alone_or_is_what_it_says(odd: Json) -> None:
    known = _known({**CHANGE, "status": odd.get("status")})
    assert plain(known.unreadable)
    if known.unreadable:
        assert (known.state, known.unreadable.startswith("UnknownStatus: ")) == (State(), True)
    else:
        assert repr(decode(State, encode(known.state))) == repr(known.state)


@FUZZ
@given(spoilt({"spec": CHANGE["spec"]}))
def test_a_request_with_something_wrong_says_what(odd: Json) -> None:
    """What the schema of the kind lets through; the cache calls the rest unreadable."""
    try:
        change, state = manifest.change({**CHANGE, "spec": odd.get("spec"), "status": {}})
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    assert state.phase is Phase.WAITING
    assert plain(change.problem), change.problem


@FUZZ
@given(texts)
def test_a_field_error_is_one_line(text: str) -> None:
    for wrong in ({"phase": f"{text}!"}, {f"{text}!": 1}, {"targets": [{text: text}]}, {"startedAt": f"{text}!"}):
        with pytest.raises(FieldError) as refused:
            decode(State, wrong, "status")
        assert plain(str(refused.value))
