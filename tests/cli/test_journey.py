"""What is shown of a change at every point of its journey, and of the waits what a reader has to know."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from controller.cli.journey import explanation, journey, length
from controller.cli.listing import COMMAND, CONTEXT, NAMESPACE, PLAIN, WIDE, Column, Row, brief, listing
from controller.cli.waits import TURNS, waiting
from controller.core.model import Phase, State
from controller.core.policy import LowTraffic
from tests.cli.journeys import BAKING, CHANGE, GOLDEN, JOURNEYS, NOW, POLICY, TARGET, WAITING, after, render


@pytest.mark.parametrize("name", JOURNEYS)
def test_the_journey_is_shown_as_the_golden_text(name: str) -> None:
    assert render(name) == (GOLDEN / f"{name}.txt").read_text()


def test_there_is_no_golden_text_of_nothing() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(JOURNEYS)


def test_every_phase_is_shown_somewhere() -> None:
    assert {state.phase for _, state, _ in JOURNEYS.values()} == set(Phase)


@pytest.mark.parametrize("name", JOURNEYS)
def test_nothing_is_wider_than_the_terminal(name: str) -> None:
    assert max(map(len, render(name).splitlines())) <= 80


def test_a_terminal_gets_colour() -> None:
    console = Console(width=80, force_terminal=True, color_system="standard", highlight=False)
    with console.capture() as shown:
        console.print(journey(*JOURNEYS["rolled-back"], NOW))
    assert "\x1b[1;31mRolledBack" in shown.get()


@pytest.mark.parametrize("reason", TURNS)
def test_every_command_can_be_read_by_a_shell(reason: str) -> None:
    """Also where it is broken over lines: nothing is left to fill in but what only the reader can know."""
    state = replace(WAITING, reason=reason, message="annotation serin.dev/risk is … by CHG-20261122-004")
    console = Console(width=80, color_system=None)
    with console.capture() as shown:
        console.print(journey(CHANGE, state, POLICY, NOW))
    commands = re.findall(r"^  (kubectl (?:.*\\\n)*.*)$", shown.get(), re.M)
    assert len(commands) == 1 + bool(TURNS[reason].command)
    for command in commands:
        assert "{" not in command
        told = subprocess.run(["bash", "-nc", command], capture_output=True, text=True, check=False)
        assert (told.returncode, told.stderr) == (0, "")
        words = f'kubectl() {{ echo "$#"; }}; {command.split(" #")[0]}'
        assert int(subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True).stdout) >= 3


def test_what_a_request_claims_is_not_pasted_into_a_shell() -> None:
    hostile = replace(CHANGE, change_id="CHG-1; rm -rf ~", deployments=("shop; rm -rf ~", "$(id)"), type=None)
    for reason in TURNS:
        wait = waiting(hostile, State(reason=reason, message="by CHG-20261122-004"), None)
        assert wait is not None
        assert not {"rm", "$(id)"} & set(f"{wait.command} {wait.way_back}".split())


def test_a_wait_names_the_approver_of_the_type() -> None:
    for name, turn in (("normal", "an engineering manager's"), ("emergency", "the CTO's")):
        wait = waiting(replace(CHANGE, type=type(CHANGE.type)(name)), WAITING, POLICY)  # type: ignore[misc]
        assert wait is not None
        assert wait.turn == turn


def test_low_traffic_that_is_held_has_no_end_of_its_own() -> None:
    state = replace(BAKING, reason="LowTraffic", policy=replace(POLICY, low_traffic=LowTraffic.HOLD))
    wait = waiting(CHANGE, state, state.policy)
    assert wait is not None
    assert wait.until is None


def test_a_wait_in_a_rollback_is_serins() -> None:
    state = replace(BAKING, phase=Phase.ROLLING_BACK, reason="NoData")
    wait = waiting(CHANGE, state, POLICY)
    assert wait is not None
    assert (wait.turn, wait.command, wait.way_back) == ("Serin's, by itself", "", "")


def test_what_has_ended_waits_for_nothing() -> None:
    assert waiting(CHANGE, replace(BAKING, phase=Phase.COMPLETED), POLICY) is None


def test_what_has_no_stable_version_cannot_go_back() -> None:
    state = replace(WAITING, targets=(replace(TARGET, stable_revision=""),))
    wait = waiting(CHANGE, state, POLICY)
    assert wait is not None
    assert wait.way_back == ""


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(seconds=-3), "0s"),
        (timedelta(seconds=59.9), "59s"),
        (timedelta(minutes=12, seconds=30), "12m30s"),
        (timedelta(hours=3, minutes=5, seconds=7), "3h5m"),
        (timedelta(days=2, hours=4, minutes=9), "2d4h"),
    ],
)
def test_lengths_have_two_units(duration: timedelta, text: str) -> None:
    assert length(duration) == text


KNOWN = [
    (replace(CHANGE, uid="1"), BAKING),
    (replace(CHANGE, change_id="CHG-20261123-002", created_at=after(-1500)), WAITING),
    (replace(CHANGE, change_id="\x1b[31m", type=None, created_at=None), State()),
]
ROWS = [Row(change, state, waiting(change, state, POLICY), "prod") for change, state in KNOWN]


def rows(columns: Sequence[Column]) -> list[str]:
    console = Console(width=400, color_system=None, highlight=False)
    with console.capture() as shown:
        console.print(listing(ROWS, NOW, columns))
    return [line.rstrip() for line in shown.get().splitlines()]


def test_a_change_is_one_row_of_the_list() -> None:
    assert [re.split(r"\s{2,}", row) for row in rows([NAMESPACE, *PLAIN])] == [
        ["NAMESPACE", "CHANGE", "TYPE", "PHASE", "STEP", "WEIGHT", "REASON", "AGE"],
        ["shop", "CHG-20261123-001", "normal", "Progressing", "2/3", "50 %", "Baking", "15m"],
        ["shop", "CHG-20261123-002", "normal", "Waiting", "0 %", "AwaitingApproval", "1d1h"],
        ["shop", "\\x1b[31m", "?", "Waiting", "0 %"],
    ]
    assert max(map(len, rows(PLAIN))) <= 80


def test_a_wide_row_says_who_asked_whose_turn_it_is_and_until_when() -> None:
    row = re.split(r"\s{2,}", rows([CONTEXT, *PLAIN, *WIDE, COMMAND])[2])
    assert row[:1] + row[7:] == [
        "prod",
        "alice@example.com",
        "0 of 1",
        "an engineering manager's",
        "21h15m ago",
        "needs an approval by who may approve changetypes/normal, but not alice@example.com",
        "kubectl serin approve CHG-20261123-002 -n shop",
    ]


def test_a_program_gets_what_is_known_and_nothing_that_is_empty() -> None:
    assert brief(ROWS[1]) == {
        "context": "prod",
        "namespace": "shop",
        "change": "CHG-20261123-002",
        "type": "normal",
        "phase": "Waiting",
        "step": 0,
        "weight": 0,
        "reason": "AwaitingApproval",
        "message": WAITING.message,
        "requestedBy": "alice@example.com",
        "approval": "0 of 1",
        "deployments": ["shop"],
        "revision": "5d41402abc",
        "createdAt": "2026-11-22T07:00:00.000Z",
        "exit": 5,
        "waiting": {
            "for": f"AwaitingApproval: {WAITING.message}",
            "turn": "an engineering manager's",
            "verb": "approve",
            "until": "2026-11-22T11:00:00.000Z",
            "then": "engineering-managers is told; time never approves",
            "command": "kubectl serin approve CHG-20261123-002 -n shop",
            "wayBack": "kubectl serin revert shop -n shop",
        },
    }


WHO = ["alice@example.com", "bob", "group managers"]


def explained(name: str, me: str, *, may: bool) -> str:
    change, state, policy = JOURNEYS[name]
    console = Console(width=80, color_system=None, highlight=False)
    with console.capture() as shown:
        console.print(
            explanation(change, state, waiting(change, state, state.policy or policy), me, NOW, may=may, who=WHO)
        )
    return "\n".join(line.rstrip() for line in shown.get().splitlines())


def test_explain_tells_why_for_whom_until_when_and_how() -> None:
    assert (
        explained("awaiting-approval", "alice@example.com", may=False)
        == """\
CHG-20261123-001  normal change in namespace shop  Waiting
waiting for     AwaitingApproval: needs an approval by who may approve
                changetypes/normal, but not alice@example.com
turn            an engineering manager's
you             may not, alice@example.com: it takes someone who may approve
                changetypes.serin.dev/normal in namespace shop and did not ask
                for it
who may         bob, group managers
until           12:00:00 UTC, in 3h45m: engineering-managers is told; time never
                approves
ends with
  kubectl serin approve CHG-20261123-001 -n shop
or go back
  kubectl serin revert shop -n shop"""
    )
    assert "you             may do it, bob" in explained("awaiting-approval", "bob", may=True)
    assert "you             need do nothing, bob" in explained("baking", "bob", may=False)
    assert "outcome" in explained("rolled-back", "bob", may=False)


TROUBLESHOOTING = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text()


def test_no_turn_is_told_of_a_reason_that_does_not_exist() -> None:
    moves = {"Started", "Advanced", "Judged", "Promoting", "Returning", "Draining", "CleaningUp"}
    assert [reason for reason in TURNS if f"\n### {reason}\n" not in TROUBLESHOOTING and reason not in moves] == []
