"""How a command ends, for the scripts that call it."""

from collections.abc import Mapping
from enum import IntEnum

from controller.cli.waits import held
from controller.core.model import State


class Exit(IntEnum):
    """One meaning for each code, in every command. 124 is the code of `timeout`."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    ROLLED_BACK = 3
    DENIED = 4
    WAITING = 5
    HELD = 6
    TIMED_OUT = 124


ENDS: Mapping[str, Exit] = {
    "Completed": Exit.DONE,
    "RollingBack": Exit.ROLLED_BACK,
    "RolledBack": Exit.ROLLED_BACK,
    "Denied": Exit.DENIED,
    "Superseded": Exit.ERROR,
}


def exit_of(state: State) -> Exit:
    """What a change is at: ended in one way or another, held until somebody mends something, or waiting."""
    if state.phase in ENDS:
        return ENDS[state.phase]
    return Exit.HELD if held(state) else Exit.WAITING
