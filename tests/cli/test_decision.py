"""The ChangeDecision that is made of a change, and what is shown before."""

from dataclasses import replace

import pytest

from controller.cli.decision import ASKS, decision, form_of, pointless
from controller.core.model import Action, Change, Phase, State
from controller.core.policy import Approval, Policy, When
from controller.errors import PermanentError
from tests.cli.journeys import BAKING, CHANGE, POLICY, WAITING, after

ASKED = replace(CHANGE, uid="b4a1")
AFTERWARDS = replace(POLICY, approval=Approval(when=When.AFTER))


def test_a_decision_names_the_change_its_revision_and_its_type() -> None:
    assert decision(ASKED, WAITING, Action.APPROVE, tests="https://ci/7", expires_at=after(240)) == {
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
        decision(change, state, Action.APPROVE)


def test_every_action_can_be_asked_for() -> None:
    assert set(ASKS) == set(Action)


ENDED = replace(BAKING, phase=Phase.COMPLETED, policy=POLICY)
A, D, R, P, U, G, V, B = (
    Action.APPROVE,
    Action.DENY,
    Action.ROLLBACK,
    Action.PROMOTE,
    Action.PAUSE,
    Action.RESUME,
    Action.REVIEW,
    Action.BYPASS,
)


@pytest.mark.parametrize(
    ("state", "policy", "possible"),
    [
        (WAITING, POLICY, {A, D, U, G, B}),
        (BAKING, POLICY, {R, P, U, G}),
        (replace(BAKING, policy=AFTERWARDS), None, {A, D, R, P, U, G}),
        (replace(BAKING, phase=Phase.PROMOTING), POLICY, {R}),
        (replace(BAKING, phase=Phase.ROLLING_BACK), POLICY, set()),
        (ENDED, POLICY, {V}),
        (replace(ENDED, policy=AFTERWARDS), None, {A, D, V}),
        (replace(ENDED, closed_at=after(20)), POLICY, set()),
    ],
)
def test_what_would_not_count_is_not_asked_for(state: State, policy: Policy | None, possible: set[Action]) -> None:
    assert {action for action in Action if not pointless(state, action, policy)} == possible


def test_what_cannot_be_rolled_back_is_told_another_way() -> None:
    assert "kubectl serin deny" in pointless(WAITING, R, POLICY)
    assert "kubectl serin revert" in pointless(ENDED, R, POLICY)


def test_an_author_is_shown_as_the_claim_that_it_is() -> None:
    form = {"impact": {"risk": "high"}, "rollbackPlan": "apply v1"}
    shown = dict(form_of(replace(ASKED, author="carol", spec=form), WAITING, POLICY))
    assert shown["author"] == "carol (claimed, not verified)"
    assert (shown["risk"], shown["rollback plan"]) == ("high", "apply v1")
    assert shown["differs"] == "containers[shop].env[DEBUG]: – → 1"
    assert shown["deployment"] == "shop, 10 replicas: revision 7d793037a0 → 5d41402abc"
