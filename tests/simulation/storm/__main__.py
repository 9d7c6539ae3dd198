"""python -m tests.simulation.storm [--from N] [--seeds N] [--processes N] [--controls]"""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest

from controller.core.model import Phase
from tests.simulation.storm import plans
from tests.simulation.storm.run import Result, play, quiet, report, rows, without

TRIES = 200
"""A row that is taken out is to be noticed within so many of the seeds in which it spoke."""


@dataclass
class Tally:
    """What came of many runs."""

    fired: dict[tuple[Phase, str], dict[str, list[int]]] = field(default_factory=dict)
    """Row of the rules table to the reasons that it gave, and the seeds in which it did."""
    outcomes: Counter[str] = field(default_factory=Counter)
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    failures: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        for phase, name, reason in sorted(result.fired):
            self.fired.setdefault((phase, name), {}).setdefault(reason, []).append(result.plan.seed)
        self.outcomes.update(result.outcomes)
        self.met.update(result.met)
        if result.broken:
            self.broken[result.broken.rule] += 1
            self.failures.append(result)

    def seeds(self, phase: Phase, name: str) -> list[int]:
        """Those in which the row spoke, each once, those of every reason in turn."""
        turns = zip_longest(*self.fired.get((phase, name), {}).values())
        return list(dict.fromkeys(seed for turn in turns for seed in turn if seed is not None))

    def table(self) -> str:
        """How often each row spoke, how changes ended, and what struck where."""
        places = sorted({place for _, place in self.met})
        lines = ["rows of the rules table, and in how many seeds each spoke"]
        lines += [f"  {len(self.seeds(phase, name)):6d}  {phase} {name}" for phase, name in rows()]
        lines += ["", "how changes ended, or what they wait for"]
        lines += [f"  {count:6d}  {name}" for name, count in self.outcomes.most_common()]
        lines += ["", "what happened, and in how many seeds, by where the first change was then"]
        for what in sorted({what for what, _ in self.met}):
            met = ", ".join(f"{place} {self.met[what, place]}" for place in places if self.met[what, place])
            lines.append(f"  {what}: {met}")
        return "\n".join(lines)


def one(seed: int) -> Result:
    quiet()
    return play(plans.make(seed))


def caught(phase: Phase, name: str, seeds: list[int]) -> str:
    """At which of the seeds something breaks without this row, and what; empty: at none."""
    with without(phase, name):
        for i, seed in enumerate(seeds):
            if broken := one(seed).broken:
                return f"{i + 1}, {broken.rule}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="start", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--most", type=int, default=5, help="tell so many failures in full")
    parser.add_argument("--controls", action="store_true", help="then take out each row of the rules table in turn")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    quiet()
    began, tally = time.monotonic(), Tally()
    seeds = range(args.start, args.start + args.seeds)
    with ProcessPoolExecutor(args.processes) as pool:
        for result in pool.map(one, seeds, chunksize=20) if args.processes > 1 else map(one, seeds):
            tally.add(result)
            if result.broken and len(tally.failures) <= args.most:
                print(report(result), flush=True)
    took = time.monotonic() - began
    print(f"{args.seeds} seeds, {len(tally.failures)} broken, {took:.0f} s, {1000 * took / args.seeds:.1f} ms each")
    for rule, count in tally.broken.most_common():
        print(f"  {count:6d}  {rule}")
    print(f"\n{tally.table()}")
    alive = controls(tally) if args.controls else 0
    return 1 if tally.failures or alive else 0


def controls(tally: Tally) -> int:
    """Each row taken out, played where it spoke; how many of them nothing notices."""
    print("\nwithout this row: noticed at the n-th seed in which it spoke, by")
    alive = 0
    for phase, name in rows():
        found = caught(phase, name, tally.seeds(phase, name)[:TRIES])
        alive += not found
        print(f"  {phase} {name}: {found or f'by nothing, in {len(tally.seeds(phase, name))} seeds'}", flush=True)
    return alive


if __name__ == "__main__":
    sys.exit(main())
