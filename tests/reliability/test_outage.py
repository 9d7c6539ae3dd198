"""An API server that is away for longer than the lease, in the middle of changes."""

import time
from datetime import timedelta

import pytest

from testbed.kills import SCENARIOS, Arena
from testbed.laws import broken
from testbed.proxy import Act, hang, refuse, text

LONG = timedelta(minutes=3)
HOUR = timedelta(hours=1)
OUTAGE = 10.0


@pytest.mark.parametrize("act", [refuse, text(503), hang], ids=["refused", "503", "hangs"])
def test_an_outage_longer_than_the_lease_holds_all_and_then_they_go_on(arena: Arena, act: Act) -> None:
    """The controller leaves its lease, ends, and is started again, as its Deployment would do."""
    healthy, hurt = plays = arena.set_up([SCENARIOS["complete"]] * 2)
    with arena.policy(bakes=(HOUR, HOUR, HOUR)):
        bad = hurt.ask("v2")
        arena.go_on([], lambda: hurt.status(bad).get("reason") == "Baking", LONG)
    good = healthy.ask("v2")
    arena.go_on([], lambda: healthy.weight() == 10, LONG)
    fault = arena.proxy.inject(act)
    time.sleep(0.5)  # what was on its way
    before = [(play.weight(), play.status(play.changes[0])["step"]) for play in plays]
    hurt.roll_back(bad)
    time.sleep(OUTAGE)
    assert not arena.controller.alive, "it does not lead any more, and says so by its end"
    assert [(play.weight(), play.status(play.changes[0])["step"]) for play in plays] == before
    arena.proxy.lift(fault)
    arena.go_on([], lambda: all(play.over() for play in plays), LONG)
    assert [healthy.phase(good), hurt.phase(bad)] == ["Completed", "RolledBack"]
    assert broken(arena.recorder.history([play.namespace for play in plays])) == []
