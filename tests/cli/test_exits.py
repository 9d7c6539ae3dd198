"""The exit code of a change, wherever it is."""

from dataclasses import replace

import pytest

from controller.cli.exits import Exit, exit_of
from controller.cli.waits import TURNS
from controller.core.model import Phase
from tests.cli.journeys import BAKING, JOURNEYS


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("completed", Exit.DONE),
        ("rolled-back", Exit.ROLLED_BACK),
        ("rolling-back", Exit.ROLLED_BACK),
        ("superseded", Exit.ERROR),
        ("awaiting-approval", Exit.WAITING),
        ("not-seen-yet", Exit.WAITING),
        ("baking", Exit.WAITING),
        ("over-limit", Exit.WAITING),
        ("promoting", Exit.WAITING),
        ("no-data", Exit.HELD),
        ("admission-missing", Exit.HELD),
        ("unknown-type", Exit.HELD),
        ("rejected-revision", Exit.HELD),
    ],
)
def test_every_point_of_the_journey_has_its_code(name: str, code: Exit) -> None:
    assert exit_of(JOURNEYS[name][1]) is code


def test_every_end_has_a_code_of_its_own() -> None:
    ends = [exit_of(replace(BAKING, phase=phase)) for phase in Phase if phase.terminal]
    assert len(set(ends)) == len(ends)


def test_what_is_held_names_the_command_that_ends_it() -> None:
    assert [reason for reason, turn in TURNS.items() if turn.held and not turn.command] == []
