"""The ChangeDecision that is made of a change, and what is shown before."""

from dataclasses import replace

import pytest

from controller.cli.decision import (
    APPROVE,
    BYPASS,
    DENY,
    PAUSE,
    PROMOTE,
    RESUME,
    REVIEW,
    ROLLBACK,
    Act,
    about,
    decision,
    form_of,
    images,
    pointless,
)
from controller.core.model import Change, Phase, State
from controller.errors import PermanentError
from tests.cli.journeys import BAKING, CHANGE, NATIVE, POLICY, TARGET, WAITING, after

ASKED = replace(CHANGE, uid="b4a1")
ACTS = [APPROVE, DENY, PROMOTE, PAUSE, RESUME, ROLLBACK, BYPASS, REVIEW]


def test_a_decision_names_the_change_its_revision_and_its_type() -> None:
    assert decision(ASKED, WAITING, APPROVE, tests="https://ci/7", expires_at=after(240)) == {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "ChangeDecision",
        "metadata": {"generateName": "chg-20261123-001-approve-", "namespace": "shop"},
        "spec": {
            "change": "CHG-20261123-001",
            "changeUid": "b4a1",
            "revision": "5d41402abc",
            "type": "normal",
            "action": "Approve",
            "tests": "https://ci/7",
            "expiresAt": "2026-11-23T12:00:00.000Z",
        },
    }


def test_of_several_deployments_it_names_all_their_revisions() -> None:
    two = replace(WAITING, targets=(TARGET, replace(NATIVE, name="cart")))
    turned = replace(WAITING, targets=two.targets[::-1])
    other = replace(WAITING, targets=(TARGET, replace(NATIVE, name="cart", revision="other")))
    assert about(two) == about(turned)
    assert len({about(WAITING), about(two), about(other)}) == 3


@pytest.mark.parametrize(
    ("change", "state", "why"),
    [
        (replace(ASKED, type=None, problem="UnknownType: write normal"), WAITING, "UnknownType"),
        (replace(ASKED, change_id="; rm -rf ~"), WAITING, "InvalidChangeID"),
        (ASKED, State(), "apply a Deployment that is labelled with it first"),
    ],
)
def test_what_is_no_usable_request_is_not_decided_about(change: Change, state: State, why: str) -> None:
    with pytest.raises(PermanentError, match=why):
        decision(change, state, APPROVE)


@pytest.mark.parametrize("act", ACTS)
def test_what_has_ended_is_reviewed_and_nothing_else(act: Act) -> None:
    ended = pointless(replace(BAKING, phase=Phase.COMPLETED), act)
    assert (ended == "") == (act is REVIEW)
    assert (pointless(BAKING, act) == "") == (act is not REVIEW)


def test_what_has_not_started_is_not_rolled_back() -> None:
    assert "kubectl serin deny" in pointless(WAITING, ROLLBACK)
    assert pointless(WAITING, PROMOTE)
    assert pointless(WAITING, APPROVE) == ""


def test_an_author_is_shown_as_the_claim_that_it_is() -> None:
    form = {"author": "carol", "impact": {"risk": "high"}, "rollbackPlan": "apply v1"}
    shown = dict(form_of(replace(ASKED, spec=form), WAITING, POLICY))
    assert shown["author"] == "carol (claimed, not verified)"
    assert (shown["risk"], shown["rollback plan"]) == ("high", "apply v1")
    assert shown["deployment"] == "shop, 10 replicas: revision 7d793037a0 → 5d41402abc"


def test_images_are_shown_from_stable_to_new() -> None:
    def template(**images: str) -> dict[str, object]:
        return {"spec": {"containers": [{"name": name, "image": image} for name, image in images.items()]}}

    before, now = template(shop="shop:v1", log="log:1"), template(shop="shop:v2", log="log:1", proxy="envoy:3")
    assert list(images(before, now)) == [("log", "log:1"), ("proxy", "– → envoy:3"), ("shop", "shop:v1 → shop:v2")]
    assert list(images(None, template(shop="shop:v1"))) == [("shop", "– → shop:v1")]
