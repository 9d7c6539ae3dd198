"""The controller killed before and after every write of every scenario: does each change end as it would have?

    uv run python -m benchmarks.kills [--scenario NAME …] [--beside N] [--together]

A golden run counts the N writes of a scenario; then it is played 2N times, each with a death of its own (SIGKILL), N of
them at a time. With `--beside 1` nobody else dies; with more, the others' deaths come on top at moments of their own.
`--together` plays all scenarios at once in one controller that dies at every write of each, as `make test` does.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from benchmarks.meter import header, machine, row, say, seconds
from testbed import namespace, stage
from testbed.bed import Bed
from testbed.errors import BedError
from testbed.kills import EVERY, SCENARIOS, Arena, Ended, Kills, Play, Point, Scenario, differences, one_each
from testbed.laws import broken

WITHIN = timedelta(minutes=8)


def points(golden: Ended) -> list[Point]:
    return [Point(n, side) for n in range(1, len(golden.writes) + 1) for side in ("before", "after")]


def played(arena: Arena, scenario: Scenario, golden: Ended, some: Sequence[Point]) -> tuple[list[str], int]:
    """Play the scenario once for each point, side by side; what was wrong, and how many points were come to."""

    def kills(plays: Sequence[Play]) -> Kills:
        return one_each({play.namespace: point for play, point in zip(plays, some, strict=True)})

    before = len(arena.played)
    try:
        ended = arena.play([scenario] * len(some), kills, within=WITHIN)
    except BedError as error:
        return [str(error)], 0
    wrong = [
        f"killed {point.side} write {point.write}: {difference}"
        for point, end in zip(some, ended, strict=True)
        for difference in differences(golden, end)
    ]
    wrong += broken(arena.recorder.history(arena.played[before:]))
    return wrong, sum(end.deaths for end in ended)


def one_by_one(arena: Arena, scenarios: Mapping[str, Scenario], beside: int) -> list[str]:
    header("scenario", "writes", "runs", "kills", "ended otherwise", "time")
    wrong: list[str] = []
    for name, scenario in scenarios.items():
        began = time.monotonic()
        [golden] = arena.play([scenario], within=WITHIN)
        found, runs, deaths = [], 0, 0
        for some in batches(points(golden), beside):
            more, died = played(arena, scenario, golden, some)
            found += more
            runs, deaths = runs + len(some), deaths + died
        took = timedelta(seconds=time.monotonic() - began)
        row(name, len(golden.writes), runs, deaths, len(found), seconds(took, 0))
        wrong += [f"{name}: {text}" for text in found]
    return wrong


def batches(found: Sequence[Point], size: int) -> list[tuple[Point, ...]]:
    return [tuple(found[i : i + size]) for i in range(0, len(found), size)]


def together(arena: Arena, scenarios: Mapping[str, Scenario]) -> list[str]:
    began = time.monotonic()
    golden = arena.play(list(scenarios.values()), within=WITHIN)
    middle = time.monotonic()
    killed = arena.play(list(scenarios.values()), EVERY, within=WITHIN)
    end = time.monotonic()
    header("scenario", "writes", "written in the end", "points hit", "audit records", "in the end", "ended otherwise")
    wrong = []
    for name, one, other in zip(scenarios, golden, killed, strict=True):
        found = differences(one, other)
        row(name, len(one.writes), len(other.writes), other.deaths, one.audit, other.audit, len(found))
        wrong += [f"{name}: {text}" for text in found]
    laws = broken(arena.recorder.history(arena.played))
    say(f"\ngolden {middle - began:.0f} s, killed {end - middle:.0f} s; laws broken: {len(laws)}")
    return wrong + laws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--beside", type=int, default=8)
    parser.add_argument("--together", action="store_true")
    arguments = parser.parse_args()
    chosen = {name: SCENARIOS[name] for name in arguments.scenario}
    namespace.enter()
    say("# Killed at every write\n")
    with Bed() as bed:
        machine(bed)
        stage.install(bed)
        with Arena(bed) as arena:
            say("")
            wrong = together(arena, chosen) if arguments.together else one_by_one(arena, chosen, arguments.beside)
    say("\n".join(["", *wrong]))
    say(f"\nload average {os.getloadavg()[0]:.1f} in the end")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
