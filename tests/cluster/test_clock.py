"""Moments are the API server's, whatever this machine's clock says."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from controller.cluster.clock import HEARD_MAX, Clock

TRUE = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Machine:
    """A clock that may be set."""

    def __init__(self, off: timedelta) -> None:
        self.true, self.off = TRUE, off

    def __call__(self) -> datetime:
        return self.true + self.off


def hear(clock: Clock, machine: Machine, answers: int, *, late: timedelta = timedelta()) -> None:
    for _ in range(answers):
        sent = machine.true
        machine.true += late
        clock.heard(format_datetime(sent, usegmt=True))
        machine.true += timedelta(seconds=1)


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1), timedelta(seconds=30), timedelta(days=-365)])
def test_a_clock_that_is_off_is_not_gone_by(off: timedelta) -> None:
    machine = Machine(off)
    clock = Clock(machine)
    assert clock.now() - machine.true == off, "before anything was heard"
    hear(clock, machine, 1)
    assert abs(clock.now() - machine.true) <= timedelta(seconds=1)
    assert abs(clock.behind + off) <= timedelta(seconds=1)


@pytest.mark.parametrize("off", [timedelta(), timedelta(seconds=1), timedelta(seconds=-1)])
def test_what_the_dates_cannot_tell_is_no_difference(off: timedelta) -> None:
    machine = Machine(off)
    clock = Clock(machine)
    hear(clock, machine, 5)
    assert clock.now() == machine()


def test_one_answer_that_was_long_on_its_way_moves_nothing() -> None:
    machine = Machine(timedelta())
    clock = Clock(machine)
    hear(clock, machine, HEARD_MAX)
    hear(clock, machine, 1, late=timedelta(seconds=9))
    assert clock.now() == machine()


def test_a_clock_that_is_set_is_followed_within_some_answers() -> None:
    machine = Machine(timedelta())
    clock = Clock(machine)
    hear(clock, machine, 50)
    machine.off = timedelta(hours=-1)  # a step back
    hear(clock, machine, HEARD_MAX // 2 + 1)
    assert abs(clock.now() - machine.true) <= timedelta(seconds=1)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 23 Nov 2026 12:00:00 -0000", "2026-11-23T12:00:00Z"])
def test_what_is_no_date_says_nothing(date: str | None) -> None:
    machine = Machine(timedelta(hours=1))
    clock = Clock(machine)
    clock.heard(date)
    assert clock.now() == machine()
