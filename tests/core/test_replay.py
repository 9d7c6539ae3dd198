"""A judgement is made again from its record alone, and a record that was tampered with, or cut, is noticed."""

import copy
import json
from typing import Any

import pytest

from controller.core.policy import Analysis
from controller.core.replay import replay
from tests.simulation.test_world import play, policy
from tests.simulation.world import Trouble, World

ERRORS = Trouble(errors_from=120, usual_ratio=0.001)


def records(trouble: Trouble, **changes: object) -> list[dict[str, Any]]:
    """What the controller would have logged, read back."""
    world = World(policy("normal", **changes), trouble)
    play(world)
    return [json.loads(json.dumps(each)) for each in world.judgements]


@pytest.mark.parametrize(
    "trouble", [ERRORS, Trouble(errors_from=25 * 60), Trouble(restarts=(200, 400)), Trouble(rps=1)]
)
def test_each_judgement_is_the_same_when_it_is_made_again(trouble: Trouble) -> None:
    made = records(trouble, analysis=Analysis())
    again = [each for record in made for each in replay(record)]
    assert len(made) > 5
    assert [each for each in again if each.differs] == []
    assert {each.rule for each in again} == {
        "error-rate",
        "availability",
        "latency",
        "errors-vs-stable",
        "latency-vs-stable",
    }


def test_the_limit_of_the_process_fails_again() -> None:
    last = records(ERRORS)[-1]
    (failed,) = (each for each in replay(last) if each.verdict == "FAIL" and each.rule == "error-rate")
    assert not failed.differs
    assert failed.found.startswith("above 0.01 for 5m")


def test_what_was_changed_afterwards_differs() -> None:
    record = next(r for r in records(ERRORS, analysis=Analysis()) if r["comparisons"][0]["failed"])
    assert not any(each.differs for each in replay(record))
    fewer = copy.deepcopy(record)
    for sample in fewer["comparisons"][0]["arms"][0]["canary"]:
        sample[1] = 0
    assert "e-value was" in next(each.differs for each in replay(fewer) if each.rule == "errors-vs-stable")
    shorter = copy.deepcopy(record)
    shorter["limits"][0]["badFor"] = "4m"
    assert "recorded was 4m" in next(each.differs for each in replay(shorter) if each.rule == "error-rate")


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match="no judgement that can be replayed"):
        list(replay({"limits": [{}], "comparisons": []}))
