"""The pure parts of the long run (`python -m benchmarks.soak`): its plan, and what it makes of what it sees."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.soak.figures import Census, Exposure, Failed, Played, exposures, failures, inexcusable, slope
from benchmarks.soak.plan import WAYS, Harm, Shape, Turn, make, possible
from benchmarks.soak.play import ACTS
from testbed.history import Version
from testbed.laws import LAWS
from testbed.load import Counts

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
HALF_AN_HOUR = timedelta(minutes=30)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


# --- The plan ---


def test_the_same_seed_gives_the_same_plan() -> None:
    assert make(7, HALF_AN_HOUR, 20) == make(7, HALF_AN_HOUR, 20)
    assert make(7, HALF_AN_HOUR, 20) != make(8, HALF_AN_HOUR, 20)


@pytest.mark.parametrize("seed", range(20))
def test_kills_end_in_time_for_a_process_that_lives(seed: int) -> None:
    plan = make(seed, HALF_AN_HOUR, 20)
    kills = [h.at for h in plan.platform if h.what == "killed"]
    assert len(kills) > 10
    assert max(kills) <= plan.last_kill <= plan.halfway - timedelta(minutes=9)
    assert max(h.at for h in plan.platform) > plan.halfway
    assert sum(len(w.names) for w in plan.workloads) == 20
    assert {w.shape for w in plan.workloads} == set(Shape)
    assert len({w.namespace for w in plan.workloads}) == 5


def test_every_workload_goes_through_all_that_it_can() -> None:
    for workload in make(1, HALF_AN_HOUR, 20).workloads:
        can = {way for way in WAYS if possible(way, workload.shape)}
        bag = sum(WAYS[way].share for way in can)
        assert {turn.way for turn in workload.turns[:bag]} == can


def test_people_have_an_act_for_all_that_is_not_about_the_version_alone() -> None:
    assert ACTS.keys() == {name for name, way in WAYS.items() if not way.version} - {"good"}
    laws = {law.__name__ for each in LAWS.values() for law in each}
    assert {law for way in WAYS.values() for law in way.breaks} <= laws


# --- Memory ---


def test_the_slope_of_a_line_has_no_error() -> None:
    found = slope((at(10 * n), 50e6 + 10 * n * 1000) for n in range(60))
    assert found.an_hour == pytest.approx(3.6e6)
    assert found.error == pytest.approx(0, abs=1)
    assert found.exceeds(3.5e6)
    assert found.shown_below(3.7e6)
    assert not found.exceeds(3.7e6)


def test_what_goes_up_and_down_shows_nothing() -> None:
    found = slope((at(10 * n), 50e6 + (n // 3 % 2) * 1e6) for n in range(60))
    assert not found.exceeds(1e6)
    assert not found.shown_below(1e6)


def test_a_slope_needs_three_blocks() -> None:
    with pytest.raises(ValueError, match="2 blocks"):
        slope((at(n), 1.0) for n in range(50))


def test_a_census_tells_what_there_is_more_of() -> None:
    before, after = Census(kinds={"dict": 5, "list": 9}), Census(kinds={"dict": 35, "list": 8, "Change": 12, "set": 1})
    assert after.grown(before, least=10) == [("dict", 30), ("Change", 12)]


# --- What is excused ---


def turn(way: str, *, began: float = 0, ended: float = 60, harmed: Sequence[float] = ()) -> Played:
    return Played(
        ("w05",), "soak-2", Turn(way, timedelta()), "v2", at(began), at(ended), harmed_at=[at(s) for s in harmed]
    )


def failed(version: str, second: float, *played: Played) -> list[Failed]:
    counts = Counts(10, 9, 1, {version: 10}, {version: 1}, {"500": 1})
    return list(failures("w05", [(at(second), counts)], played, [Exposure("w05", at(10), at(30))]))


@pytest.mark.parametrize(
    ("way", "version", "second", "excused"),
    [
        ("errors", "v2", 20, True),
        ("errors", "v2", 33, True),  # sent before
        ("errors", "v2", 45, False),
        ("errors", "v2", 5, False),
        ("errors", "v1", 20, False),
        ("errors", "none", 20, False),
        ("good", "v2", 20, False),
        ("crashes at start", "v2", 20, False),  # it never gets traffic
        ("crashes again and again", "none", 20, True),
        ("crashes again and again", "v1", 20, False),
        ("crashes again and again", "none", 50, False),
        ("stable pod killed", "none", 20, False),  # that was at 40
        ("stable pod killed", "none", 42, True),
        ("stable pod killed", "none", 51, False),
        ("canary deleted", "none", 33, True),  # it has weight until 30
        ("canary deleted", "none", 12, False),  # and is deleted at 15
        ("canary deleted", "none", 40, False),
    ],
)
def test_a_request_may_fail_only_by_a_bad_canary_or_a_pod_that_was_taken_away(
    way: str, version: str, second: float, excused: bool
) -> None:
    harmed = {"stable pod killed": [40.0], "canary deleted": [15.0]}.get(way, [])
    [found] = failed(version, second, turn(way, harmed=harmed))
    assert (found.because, found.count) == (way if excused else "", 1)


def test_every_way_that_harms_is_by_its_version_or_by_people() -> None:
    for name, way in WAYS.items():
        assert not way.harm or way.version or name in ACTS, name
        assert way.harm in (Harm.PODS, Harm.CANARY) or not way.breaks, name


def route(weight: int | None, second: float, *, deleted: bool = False) -> Version:
    refs = [{"name": "w05", "weight": 100 - (weight or 0)}]
    refs += [] if weight is None else [{"name": "w05-canary", "weight": weight}]
    found: Mapping[str, Any] = {"spec": {"rules": [{"backendRefs": refs}]}}
    return Version(int(second), "HTTPRoute", "soak-2", "w05", dict(found), deleted, at(second))


def test_a_canary_is_exposed_while_its_route_gives_it_weight() -> None:
    history = [route(None, 1), route(0, 2), route(10, 3), route(50, 6), route(0, 9), route(10, 12), route(None, 13)]
    found = exposures([*history, route(10, 20)], "w05", at(25))
    assert [(e.began_at, e.ended_at) for e in found] == [(at(3), at(9)), (at(12), at(13)), (at(20), at(25))]


def test_a_law_is_broken_by_a_version_or_a_person_only_in_their_time() -> None:
    breach = "7 soak-2 who_has_traffic_can_answer: 10 % for the canary of w05, which has no ready pod"
    crashing, killed = turn("crashes again and again"), turn("canary pod killed", harmed=[5])
    for second, played, excused in (
        (20, crashing, True),
        (80, crashing, False),
        (8, killed, True),
        (3, killed, False),
        (8, turn("good"), False),
    ):
        assert inexcusable([breach], {7: at(second)}, [played]) == ([] if excused else [breach])
    other = breach.replace("who_has_traffic_can_answer", "weights_sum_to_100")
    assert inexcusable([other, breach.replace("w05", "w06")], {7: at(20)}, [crashing]) != []
    assert len(inexcusable([other, breach.replace("w05", "w06")], {7: at(20)}, [crashing])) == 2
