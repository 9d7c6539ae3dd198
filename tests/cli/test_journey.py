"""What is shown of a change at every point of its journey, and of the waits what a reader has to know."""

import re
import subprocess
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.console import Console

from controller.cli.journey import journey, length
from controller.cli.listing import listing
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


def test_a_change_is_one_row_of_the_list() -> None:
    known = [
        (CHANGE, BAKING),
        (replace(CHANGE, change_id="CHG-20261123-002", created_at=after(-1500)), WAITING),
        (replace(CHANGE, change_id="\x1b[31m", type=None, created_at=None), State()),
    ]

    def rows(everywhere: bool) -> list[str]:
        console = Console(width=250, color_system=None, highlight=False)
        with console.capture() as shown:
            console.print(listing(known, NOW, everywhere=everywhere))
        return [line.rstrip() for line in shown.get().splitlines()]

    assert [re.split(r"\s{2,}", row) for row in rows(everywhere=True)] == [
        ["NAMESPACE", "CHANGE", "TYPE", "PHASE", "STEP", "WEIGHT", "REASON", "AGE"],
        ["shop", "CHG-20261123-001", "normal", "Progressing", "2/3", "50 %", "Baking", "15m"],
        ["shop", "CHG-20261123-002", "normal", "Waiting", "0 %", "AwaitingApproval", "1d1h"],
        ["shop", "\\x1b[31m", "?", "Waiting", "0 %"],
    ]
    assert max(map(len, rows(everywhere=False))) <= 80
