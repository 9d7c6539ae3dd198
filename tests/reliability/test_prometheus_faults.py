"""A Prometheus that is away, slow, wrong or silent in the middle of a change: nothing moves, and then it goes on."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from testbed.kills import BAKES, SCENARIOS, Arena, Play
from testbed.laws import broken
from testbed.load import Summary
from testbed.proxy import Act, Proxy, hang, refuse, status, text
from testbed.waiting import eventually

Json = dict[str, Any]
LONG = timedelta(minutes=2)
QUICK = timedelta(seconds=25)
HOUR = timedelta(hours=1)


def warned(answer: Json) -> Json:
    """As Thanos does when a store does not answer."""
    return {**answer, "warnings": ["store 10.0.0.2:10901 did not answer"]}


WHOLE: dict[str, tuple[Callable[[Proxy], Act], str]] = {
    "refused": (lambda proxy: refuse, "PrometheusUnreachable"),
    "hangs": (lambda proxy: hang, "PrometheusUnreachable"),
    "drips": (lambda proxy: proxy.dripping(timedelta(milliseconds=100)), "PrometheusUnreachable"),
    "503": (lambda proxy: text(503, "query timed out"), "PrometheusError"),
    "429": (lambda proxy: text(429, "too many"), "PrometheusError"),
    "422": (lambda proxy: text(422, '{"status":"error","errorType":"execution","error":"too many"}'), "InvalidQuery"),
    "a login page": (lambda proxy: text(200, "<html>log in</html>"), "PrometheusError"),
    "a Status of Kubernetes": (lambda proxy: status(404, "NotFound"), "PrometheusError"),
    "cut off": (lambda proxy: proxy.cut, "Prometheus"),
    "warnings": (lambda proxy: proxy.edited(warned), "PartialData"),
    "not a vector": (lambda proxy: proxy.edited(lambda answer: {**answer, "data": {"result": 5}}), "PrometheusError"),
}


@pytest.fixture(scope="module")
def baking(arena: Arena) -> Iterator[Play]:
    """A change at 10 %, which it keeps for an hour."""
    [play] = arena.set_up([SCENARIOS["rollback-at-50"]])
    with arena.policy(bakes=(HOUR, HOUR, HOUR)):
        play.ask("v2")
        arena.go_on([], lambda: play.status(play.changes[0]).get("reason") == "Baking", LONG)
    yield play
    play.roll_back(play.changes[0])
    eventually(play.over, within=LONG)
    assert broken(arena.recorder.history([play.namespace])) == []


@pytest.mark.parametrize("name", WHOLE)
def test_while_nothing_is_known_it_holds_and_says_why(arena: Arena, baking: Play, name: str) -> None:
    make, why = WHOLE[name]
    fault = arena.prometheus.inject(make(arena.prometheus))

    def told() -> tuple[str, bool]:
        now = baking.status(baking.changes[0])
        return now["reason"], why in now["message"]

    try:
        eventually(lambda: told() == ("NoData", True), within=QUICK)
        now = baking.status(baking.changes[0])
        assert (now["phase"], now["step"], now["weight"], baking.weight()) == ("Progressing", 1, 10, 10)
    finally:
        arena.prometheus.lift(fault)
    eventually(lambda: told()[0] == "Baking", within=QUICK)


# --- What is wrong about one application alone ---


def of(play: Play, series: Json) -> bool:
    """Whether a series is of the requests to it."""
    return any(str(value).startswith(f"{play.namespace}_") for value in series["metric"].values())


def edited(play: Play, edit: Callable[[Json], Json | None]) -> Callable[[Json], Json]:
    """An answer with each series of the application as `edit` makes it."""

    def answer(found: Json) -> Json:
        result = found["data"]["result"]
        series = [edit(one) if of(play, one) else one for one in result]
        return {**found, "data": {**found["data"], "result": [one for one in series if one is not None]}}

    return answer


def not_a_number(series: Json) -> Json:
    return {**series, "values": [[at, "NaN"] for at, _ in series.get("values", [])]}


def infinite(series: Json) -> Json:
    return {**series, "values": [[at, "+Inf"] for at, _ in series.get("values", [])]}


def empty(series: Json) -> None:
    return None


def half(series: Json) -> Json | None:
    """One shard of two: the canary's series are on the other one."""
    return None if "canary" in json.dumps(series["metric"]) else series


def before(moment: float) -> Callable[[Json], Json]:
    """Stale: the newest samples are of that moment, though the answer is of now."""
    return lambda series: {**series, "values": [[at, value] for at, value in series.get("values", []) if at < moment]}


PARTS = ("NaN", "infinite", "empty", "stale", "one shard of two")
Held = list[tuple[int, str]]


@dataclass(frozen=True)
class InPart:
    """Each of PARTS on an application of its own, with (step, reason) as they were for five seconds while it lasted.

    `shaky`: one that is not a number in a fifth of the answers, for as long as it takes, and its users.
    """

    parts: dict[str, tuple[Play, Held]]
    shaky: Play
    users: Summary
    shaken: int


@pytest.fixture(scope="module")
def in_part(arena: Arena) -> InPart:
    *plays, shaky = everybody = arena.set_up([SCENARIOS["complete"]] * (len(PARTS) + 1))
    with arena.policy(bakes=(timedelta(seconds=20), *BAKES[1:])):
        arena.go_on(everybody, lambda: all(play.weight() == 10 for play in everybody), LONG)
    edits = (not_a_number, infinite, empty, before(time.time()), half)
    chain = [edited(play, edit) for play, edit in zip(plays, edits, strict=True)]
    shake, count = edited(shaky, not_a_number), itertools.count(1)

    def all_of(answer: Json) -> Json:
        for edit in chain:
            answer = edit(answer)
        return shake(answer) if next(count) % 5 == 0 else answer

    users = asyncio.run_coroutine_threadsafe(arena.bed.load(shaky.apps[0].host, rps=30), arena.thread.loop).result(20)
    fault = arena.prometheus.inject(arena.prometheus.edited(all_of))
    arena.go_on(everybody, lambda: all(now(play)[1] == "NoData" for play in plays), LONG)
    held: list[Held] = [[now(play)] for play in plays]
    for _ in range(5):
        time.sleep(1)
        for play, seen in zip(plays, held, strict=True):
            seen.append(now(play))
    chain.clear()
    arena.go_on(everybody, lambda: all(play.over() for play in everybody), LONG)
    arena.prometheus.lift(fault)
    seen_by_users = asyncio.run_coroutine_threadsafe(users.stop(), arena.thread.loop).result(20)
    parts = dict(zip(PARTS, zip(plays, held, strict=True), strict=True))
    return InPart(parts, shaky, seen_by_users, next(count) // 5)


def now(play: Play) -> tuple[int, str]:
    found = play.status(play.changes[0])
    return found["step"], found["reason"]


@pytest.mark.parametrize("name", PARTS)
def test_what_is_no_data_holds_one_change_and_is_never_good(arena: Arena, in_part: InPart, name: str) -> None:
    play, held = in_part.parts[name]
    assert {reason for _, reason in held} == {"NoData"}
    assert len({step for step, _ in held}) == 1
    done = play.status(play.changes[0])
    assert (done["phase"], done.get("cause", "")) == ("Completed", "")
    assert broken(arena.recorder.history([play.namespace])) == []


def test_not_a_number_in_a_fifth_of_the_answers_costs_a_healthy_change_nothing_but_time(in_part: InPart) -> None:
    assert in_part.shaken > 20
    assert in_part.shaky.phase(in_part.shaky.changes[0]) == "Completed"
    assert (in_part.users.failed, set(in_part.users.by_version)) == (0, {"v1", "v2"})
