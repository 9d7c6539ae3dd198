"""Decisions on a real API server, with the policies as they ship: what is written, by whom, and what is said of it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller.core.model import Action, Phase, Ruling, State
from testbed.bed import Bed
from testbed.waiting import eventually
from tests.cli.conftest import AS_CONTROLLER, SHOP, Run, Watching, binding, put
from tests.cli.journeys import BAKING, TARGET, WAITING

NOW = datetime.now(UTC)
ASKED = replace(WAITING, requesters=("alice",), entered_at=NOW)


@pytest.fixture
def as_bob(guarded: Bed, monkeypatch: pytest.MonkeyPatch) -> Bed:
    """The plugin as bob; no controller runs, so it does not wait long for one."""
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig("bob")))
    monkeypatch.setattr("controller.cli.decide.ANSWER", timedelta(milliseconds=300))
    return guarded


def at(bed: Bed, change_id: str, state: State, **form: Any) -> str:
    return put(bed, change_id, state, SHOP, AS_CONTROLLER, **form)


def decisions(bed: Bed, change_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = bed.get("chgd", "-n", SHOP)["items"]
    return [item["spec"] for item in items if item["spec"]["change"] == change_id]


def test_an_approval_is_about_the_change_as_it_is_now(as_bob: Bed, run: Run) -> None:
    uid = at(as_bob, "CHG-20261124-001", ASKED, author="carol", description="Checkout v2")
    code, out, err = run(
        "approve", "CHG-20261124-001", "-n", SHOP, "--tests", "https://ci/7", "--expires", "4h", "--over-budget"
    )
    assert (code, err) == (0, "")
    [made] = decisions(as_bob, "CHG-20261124-001")
    assert made["groups"]
    expires = datetime.fromisoformat(made["expiresAt"])
    assert abs(expires - datetime.now(UTC) - timedelta(hours=4)) < timedelta(minutes=1)
    assert {key: value for key, value in made.items() if key not in ("groups", "expiresAt")} == {
        "change": "CHG-20261124-001",
        "changeUid": uid,
        "revision": TARGET.revision,
        "type": "normal",
        "action": "Approve",
        "by": "bob",
        "tests": "https://ci/7",
        "overBudget": True,
    }
    for shown in (
        "requested by    alice",
        "author          carol (claimed, not verified)",
        "what            Checkout v2",
        f"revision 7d793037a0 → {TARGET.revision}",
        "you are         bob",
        "the controller has not taken it in yet",
        f"kubectl serin status -w CHG-20261124-001 -n {SHOP}",
    ):
        assert shown in out


@pytest.mark.parametrize(
    ("number", "state", "arguments", "spec"),
    [
        (11, ASKED, ["deny", "--reason", "not now"], {"action": "Deny", "reason": "not now"}),
        (12, BAKING, ["promote"], {"action": "Promote"}),
        (13, BAKING, ["pause", "-m", "users complain"], {"action": "Pause", "reason": "users complain"}),
        (14, BAKING, ["resume"], {"action": "Resume"}),
        (15, BAKING, ["rollback", "--reason", "slow"], {"action": "Rollback", "reason": "slow"}),
        (16, ASKED, ["bypass", "--reason", "outage"], {"action": "Bypass", "reason": "outage"}),
        (17, ASKED, ["bypass", "--reason", "outage", "--for", "4h"], {"action": "Bypass", "reason": "outage"}),
    ],
)
def test_every_verb_makes_its_decision(
    as_bob: Bed, run: Run, number: int, state: State, arguments: list[str], spec: dict[str, str]
) -> None:
    change_id = f"CHG-20261124-{number:03d}"
    at(as_bob, change_id, replace(state, revision=TARGET.revision))
    code, _, err = run(*arguments, change_id, "-n", SHOP)
    assert (code, err) == (0, "")
    [made] = decisions(as_bob, change_id)
    assert {key: made[key] for key in spec} == spec
    assert ("expiresAt" in made) == (spec["action"] == "Bypass")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deny", "CHG-20261124-001"], "'--reason': say it"),
        (["bypass", "CHG-20261124-001", "--reason", "x", "--for", "5h"], "'5h': gates stay open for 4h at the most"),
        (["approve", "CHG-20261124-001", "--expires", "soon"], "'soon': write a duration"),
        (["approve", "CHG-20261124-001", "--expires", "0s"], "'0s': write a duration"),
    ],
)
def test_wrong_usage_writes_nothing(as_bob: Bed, run: Run, arguments: list[str], said: str) -> None:
    before = len(as_bob.get("chgd", "-n", SHOP)["items"])
    code, _, err = run(*arguments, "-n", SHOP)
    assert code == 2
    assert said in err
    assert len(as_bob.get("chgd", "-n", SHOP)["items"]) == before


def test_what_could_not_count_is_not_written(as_bob: Bed, run: Run) -> None:
    at(as_bob, "CHG-20261124-020", ASKED)
    code, _, err = run("rollback", "CHG-20261124-020", "-n", SHOP, "--reason", "slow")
    assert (code, decisions(as_bob, "CHG-20261124-020")) == (1, [])
    assert "it has not started; to stop it: kubectl serin deny" in err


def test_a_refusal_is_shown_as_it_is_with_the_way_on(guarded: Bed, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at(guarded, "CHG-20261124-021", ASKED)
    guarded.apply(binding("mallory", "view"), binding("mallory", "serin-requester"))
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig("mallory")))
    code, _, err = run("approve", "CHG-20261124-021", "-n", SHOP)
    assert (code, decisions(guarded, "CHG-20261124-021")) == (1, [])
    assert "error: create changedecisions.serin.dev" in err
    assert "mallory may not approve changetypes.serin.dev/normal in namespace" in err
    assert f"Who may: kubectl serin explain CHG-20261124-021 -n {SHOP}" in err


def test_who_may_decide_nothing_at_all_is_told_how_to_see_that(
    guarded: Bed, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(guarded, "CHG-20261124-022", ASKED)
    guarded.apply(binding("dave", "serin-auditor"))
    monkeypatch.setenv("KUBECONFIG", str(guarded.kubeconfig("dave")))
    code, _, err = run("approve", "CHG-20261124-022", "-n", SHOP)
    assert (code, decisions(guarded, "CHG-20261124-022")) == (1, [])
    assert 'User "dave" cannot create resource "changedecisions"' in err
    assert f"whether you may: kubectl auth can-i approve changetypes.serin.dev/normal -n {SHOP}" in err


def test_a_review_closes_with_what_was_learned(as_bob: Bed, run: Run) -> None:
    ended = replace(BAKING, phase=Phase.COMPLETED, revision=TARGET.revision, review_due_at=NOW)
    at(as_bob, "CHG-20261124-040", ended)
    given = ("--outcome", "successful", "--criteria", "errors below 0.1 %", "--lessons", "none")
    code, _, err = run("review", "CHG-20261124-040", "-n", SHOP, *given, "--follow-up", "drop the flag (dave)")
    assert (code, err) == (0, "")
    [made] = decisions(as_bob, "CHG-20261124-040")
    assert (made["action"], made["review"]) == (
        "Review",
        {
            "outcome": "Successful",
            "successCriteria": "errors below 0.1 %",
            "lessonsLearned": "none",
            "followUps": ["drop the flag (dave)"],
        },
    )
    code, _, err = run("review", "CHG-20261124-040", "-n", SHOP, "--outcome", "failed")
    assert (code, "'--criteria'" in err) == (2, True)


def test_a_review_asks_for_what_is_left_out(guarded: Bed, start: Callable[..., Watching]) -> None:
    at(guarded, "CHG-20261124-041", replace(BAKING, phase=Phase.ROLLED_BACK, revision=TARGET.revision))
    seen = start(guarded, "review", "CHG-20261124-041", "-n", SHOP, terminal=True, user="bob")
    for question, answer in (
        ("How did it go?", "perhaps"),
        ("write one of Successful, PartlySuccessful, Failed", "fail"),
        ("Which success criteria", "none"),
        ("What was learned?", "test with real carts"),
        ("What is to be done?", "a test (dave)"),
        ("What is to be done?", ""),
        ("Review and close CHG-20261124-041", "y"),
    ):
        seen.until(question)
        seen.text = ""
        seen.type(f"{answer}\n")
    assert seen.end() == 0
    [made] = decisions(guarded, "CHG-20261124-041")
    assert made["review"]["outcome"] == "Failed"
    assert made["review"]["followUps"] == ["a test (dave)"]


def rule(bed: Bed, change_id: str, state: State, action: Action, refusal: str = "") -> None:
    """Take the decision in, as the controller would."""

    def made() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = bed.get("chgd", "-n", SHOP)["items"]
        return [item for item in items if item["spec"]["change"] == change_id]

    eventually(lambda: bool(made()))
    [item] = made()
    ruling = Ruling(item["metadata"]["uid"], action, item["spec"]["by"], NOW, TARGET.revision, refusal)
    at(bed, change_id, replace(state, decisions=(ruling,)))


@pytest.fixture
def patient(as_bob: Bed, monkeypatch: pytest.MonkeyPatch) -> Bed:
    """The plugin as bob, with time for a controller that these tests play with kubectl."""
    monkeypatch.setattr("controller.cli.decide.ANSWER", timedelta(minutes=1))
    return as_bob


def test_what_the_controller_makes_of_it_is_said_and_waited_for(patient: Bed, run: Run) -> None:
    at(patient, "CHG-20261124-030", ASKED)
    running = replace(BAKING, revision=TARGET.revision)

    def play() -> None:
        rule(patient, "CHG-20261124-030", running, Action.APPROVE)
        at(patient, "CHG-20261124-030", replace(running, phase=Phase.ROLLED_BACK, message="back at stable: ErrorRate"))

    with ThreadPoolExecutor(1) as controller:
        played = controller.submit(play)
        code, out, _ = run("approve", "CHG-20261124-030", "-n", SHOP, "--tests", "ran", "--wait", "--timeout", "1m")
        played.result()
    assert code == 3
    assert "counts: it starts when all its gates are open" in out
    assert "  Progressing: Baking, 50 % until" in out
    assert "CHG-20261124-030 is RolledBack: back at stable: ErrorRate" in out


def test_a_decision_that_does_not_count_is_an_error(patient: Bed, run: Run) -> None:
    at(patient, "CHG-20261124-031", ASKED)
    refusal = "AnotherRevision: the change is about 1234 now"
    with ThreadPoolExecutor(1) as controller:
        played = controller.submit(rule, patient, "CHG-20261124-031", ASKED, Action.APPROVE, refusal)
        code, _, err = run("approve", "CHG-20261124-031", "-n", SHOP, "--tests", "ran")
        played.result()
    assert (code, f"does not count: {refusal}" in err) == (1, True)


def test_on_a_terminal_people_are_asked_and_may_say_no(guarded: Bed, start: Callable[..., Watching]) -> None:
    at(guarded, "CHG-20261124-032", ASKED)
    seen = start(guarded, "deny", "CHG-20261124-032", "-n", SHOP, terminal=True, user="bob")
    seen.until("Why?")
    seen.type("not before the sale\n")
    seen.until(f"Deny CHG-20261124-032, revision {TARGET.revision}? [y/N]")
    seen.type("n\n")
    assert seen.end() == 1
    assert "nothing was written" in seen.text
    assert decisions(guarded, "CHG-20261124-032") == []
    seen = start(guarded, "deny", "CHG-20261124-032", "-n", SHOP, "-m", "no", "--yes", terminal=True, user="bob")
    eventually(lambda: len(decisions(guarded, "CHG-20261124-032")) == 1)
    assert seen.end() == 0
