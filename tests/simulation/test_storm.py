"""Thousands of runs by seed: nothing that must hold breaks, every rule speaks, and every rule is needed.

SERIN_SEEDS says how many; `make sim SEEDS=200000` is the long form. A seed that fails is played again with
`python -m tests.simulation.storm --from SEED --seeds 1`.
"""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest

from controller.core.model import Phase, Stage
from tests.simulation.storm import plans
from tests.simulation.storm.__main__ import TRIES, Tally, caught, one
from tests.simulation.storm.plans import POLICY, Happening, Moment, Plan
from tests.simulation.storm.run import HAPPEN, play, report, rows

SEEDS = int(os.environ.get("SERIN_SEEDS", "2000"))


@pytest.fixture(scope="module")
def tally() -> Tally:
    found = Tally()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(one, range(SEEDS), chunksize=50):
            found.add(result)
    return found


def test_nothing_that_must_hold_breaks(tally: Tally) -> None:
    assert not tally.broken, "\n".join(report(result) for result in tally.failures[:3])


def test_every_row_of_the_rules_table_speaks(tally: Tally) -> None:
    print(tally.table())
    assert [f"{phase} {name}" for phase, name in rows() if not tally.seeds(phase, name)] == []


def test_every_happening_meets_every_phase(tally: Tally) -> None:
    phases = ("Waiting", "Progressing", "Promoting", "RollingBack")
    met: Counter[tuple[str, str]] = Counter()
    for (what, place), count in tally.met.items():
        met[what, place.split()[0]] += count
    everywhere = set(plans.VERSION_FAULTS + plans.PLATFORM_FAULTS + plans.PEOPLE)
    assert everywhere <= set(HAPPEN)
    assert [f"{what} in {phase}" for what in sorted(everywhere) for phase in phases if not met[what, phase]] == []


@pytest.mark.parametrize(("phase", "name"), rows(), ids=[f"{phase}-{name}" for phase, name in rows()])
def test_without_a_row_something_breaks(tally: Tally, phase: Phase, name: str) -> None:
    """The control of every rule: the simulator notices that it was taken out."""
    assert caught(phase, name, tally.seeds(phase, name)[:TRIES])


WATCHED, SECOND_STEP = Moment(Phase.PROMOTING, Stage.WATCH), Moment(Phase.PROGRESSING, step=2)
FOUND = {
    "a watch that ended while no pod was ready": Plan(
        93, POLICY, happenings=(Happening("unready", replace(WATCHED, after=17), lasts=5),)
    ),
    "a step up while the canary's pods were not ready": Plan(
        144,
        POLICY,
        workloads=("cart", "shop"),
        happenings=(Happening("unready", replace(SECOND_STEP, after=22), lasts=5),),
    ),
    "status written every second while scaled to zero": Plan(
        288,
        POLICY,
        workloads=("cart", "shop"),
        happenings=(Happening("scale to zero", replace(SECOND_STEP, after=6), lasts=120),),
    ),
    "status written every second without a route, where nothing goes back": Plan(
        494,
        POLICY,
        spec=(("rollback", "forwardOnly"),),
        happenings=(Happening("route deleted", Moment(Phase.PROGRESSING, step=1, after=18)),),
    ),
    "a canary that was given weight by the way back, for someone had un-paused the Deployment": Plan(
        439,
        POLICY,
        workloads=("cart", "shop"),
        happenings=(Happening("un-pause", Moment(Phase.PROGRESSING, step=1, after=0)),),
    ),
    "a promotion that was sent before, and passed in the middle of the way back": Plan(
        1,
        POLICY,
        happenings=(
            Happening("stopped leader", Moment(Phase.PROGRESSING, step=3, after=24), lasts=7),
            Happening("rollback", Moment(Phase.PROMOTING, Stage.ROLL)),
        ),
    ),
    "a change that never ended over a template that got past admission": Plan(
        1006,
        POLICY,
        happenings=(Happening("template past admission", Moment(Phase.PROMOTING, Stage.RETURN, after=1)),),
    ),
}


@pytest.mark.parametrize("plan", FOUND.values(), ids=FOUND)
def test_what_was_found_once_stays_mended(plan: Plan) -> None:
    result = play(plan)
    assert not result.broken, report(result)
    assert {what for what, _ in result.met} == {happening.what for happening in plan.happenings}
