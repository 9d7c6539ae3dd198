"""How early a bad canary is found, and how often a good one is called bad: the rules of others, and Serin's own code.

    uv run python -m benchmarks.judge [--quick] [--seed N] [--only detection,good,…]

The whole takes about 25 minutes of one core, --quick two. Everything is drawn from the seed.
"""

import argparse
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from statistics import median

import numpy as np

from benchmarks.judge import boundary, cost, published
from benchmarks.judge.ours import (
    LATENCIES,
    PROCESS,
    PROPOSAL,
    RULES,
    STATISTICS,
    judged_by,
)
from benchmarks.judge.peers import PEERS, Played, Rule
from benchmarks.judge.published import Figure
from benchmarks.judge.world import Scenario
from benchmarks.meter import header, heading, row, say
from controller.core.blocks import Counts
from controller.core.interval import share_interval
from controller.core.sequential import ERRORS
from controller.lab.service import NOISES, Noise

SERIN, SEED_RULE = "Serin", "the process's rule"
ALL: Mapping[str, Rule] = {**PEERS, **RULES}
RATES, STABLES = (0.5, 5, 50, 500, 2000), (0.0, 0.001, 0.005, 0.009)
NEAR = 1.1
"""As good as published: not more than a tenth above."""
BURSTY = NOISES["bursty"]


@dataclass(frozen=True)
class Size:
    """Rollouts a cell."""

    bad: int
    good_peers: int
    good_ours: int
    pairs: int
    boundary: int


FULL, QUICK = Size(1000, 200, 500, 120, 20_000), Size(60, 10, 20, 6, 200)


class Draw:
    """Random numbers for each cell by its name, so that `--only` changes nothing."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, *name: object) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(repr(name).encode())])


def found(played: Played, onset: float = 0.0) -> Figure:
    """The figure of what was played; None where the quantile was never found."""
    late = np.where(np.isnan(played.found_at), np.inf, played.found_at - onset)
    p50, p90 = (float(q) for q in np.quantile(late, [0.5, 0.9], method="inverted_cdf"))
    return Figure(p50 if p50 < np.inf else None, p90 if p90 < np.inf else None, float(played.failed.mean()))


def shown(figure: Figure, missed: float | None = None) -> str:
    if figure.p50 is None:
        return "never" + (f" ({missed:.0%})" if missed is not None else "")
    p90 = "-" if figure.p90 is None else f"{figure.p90:.0f}"
    return f"{figure.p50:.0f}/{p90}" + (f", {figure.failed:.0f}" if figure.failed is not None else "")


def reaches(figure: Figure, goal: Figure) -> str:
    pairs = ((figure.p50, goal.p50), (figure.failed, goal.failed))
    over = [have is None or have > want * NEAR for have, want in pairs if want is not None]
    return "no" if any(over) else "yes"


def detection(size: Size, draw: Draw) -> None:
    heading("Bad canaries: seconds from the onset p50/p90, bad requests of the canary (mean)")
    say("Stable fails 0.1 %, bursty, 30 s lag, bad from the start; in brackets what ANALYSIS gives.\n")
    header("req/s, canary", *ALL, "as good")
    for i, (rate, share) in enumerate(published.CASES):
        scenario = Scenario(rate, (0.001,), (share,), BURSTY)
        cells, verdict = [], ""
        for name, rule in ALL.items():
            played = rule(scenario, size.bad, draw("detection", i))
            goal = published.DETECTION[name][i] if name in published.DETECTION else None
            missed = float(np.isnan(played.found_at).mean())
            cells.append(shown(found(played), missed) + (f" [{shown(goal)}]" if goal else ""))
            if name == SERIN and goal:
                verdict = reaches(found(played), goal)
        row(f"{rate:g}, {share:.3g}", *cells, verdict)


def good(size: Size, draw: Draw) -> None:
    heading("Good canaries taken back, mean over 5 rates and 4 shares of stable (0 to 0.9 %), percent")
    say("In brackets what ANALYSIS gives. Statistics: Serin's own verdicts, without the process's rule and the burn.\n")
    columns = [name for name in ALL if name != "Argo docs"]
    header("noise", *columns, "of which statistics", "worst cell", "95 % of all", "within 1 %")
    for noise, goals in published.GOOD.items():
        cells = []
        for name in columns:
            rollouts = size.good_ours if name == SERIN else size.good_peers
            results = [
                ALL[name](
                    Scenario(rate, (stable,), (stable,), NOISES[noise]), rollouts, draw("good", noise, rate, stable)
                )
                for rate in RATES
                for stable in STABLES
            ]
            share = 100 * float(np.mean([(~np.isnan(played.found_at)).mean() for played in results]))
            cells.append(f"{share:.2g} [{goals[name]:g}]")
        by_statistics = [played.why.count(STATISTICS) for played in results]
        counts = Counts(sum(by_statistics), size.good_ours * len(by_statistics))
        low, high = share_interval(counts)
        worst = 100 * max(by_statistics) / size.good_ours
        row(
            noise,
            *cells,
            f"{100 * counts.ratio:.2g} [{goals['statistics']:g}]",
            f"{worst:.2g} [{goals['worst']:g}]",
            f"{100 * low:.2g} to {100 * high:.2g}",
            "yes" if high <= 0.01 else "no",
        )


def pairs(size: Size, draw: Draw, times: float) -> Iterator[tuple[Scenario, float]]:
    """Services with everything drawn at random, and the bad share of their bad canaries.

    Each kind of noise is between none and `times` as strong as the method names it.
    """
    most = NOISES["hostile"]
    for n in range(size.pairs):
        random = draw("pair", n)
        noise = Noise(
            swing=times * random.uniform(0, most.swing),
            shock=times * random.uniform(0, most.shock),
            shock_every=random.uniform(1, 3) / times * most.shock_every,
            shock_lasts=times * random.uniform(1 / 3, 1) * most.shock_lasts,
            cluster=1 + times * random.uniform(0, most.cluster - 1),
            hiccup=times * random.uniform(0.1, most.hiccup),
            blip=times * random.uniform(0, most.blip),
            blip_lasts=times * random.uniform(1 / 4, 1) * most.blip_lasts,
        )
        stable = float(np.exp(random.uniform(np.log(0.0001), np.log(0.005))))
        rate = float(np.exp(random.uniform(np.log(5), np.log(2000))))
        bad = float(np.exp(random.uniform(np.log(max(0.004, 2 * stable)), 0)))
        yield Scenario(rate, (stable,), (stable,), noise, lag=random.uniform(0, 60), lost=random.uniform(0, 0.1)), bad


def at_random(size: Size, draw: Draw) -> None:
    heading(f"{size.pairs} services with everything at random, 40 rollouts each: percent taken back (median s)")
    say("Each kind of noise between none and as strong as the method names it; in the second column up to twice that.")
    say("In brackets what ANALYSIS gives; its ranges are not known.\n")
    bands = ((0.0, 0.01), (0.01, 0.03), (0.03, 0.1), (0.1, 1.01))
    header("rule", "good", "good, twice", *(f"bad {low:.0%} to {min(high, 1):.0%}" for low, high in bands))
    drawn = list(pairs(size, draw, 1.0))
    for name, rule in ALL.items():
        goal = f" [{published.RANDOM[name]:g}]" if name in published.RANDOM else ""
        cells = [_spared(rule, [scenario for scenario, _ in drawn], draw) + goal]
        cells.append(_spared(rule, [scenario for scenario, _ in pairs(size, draw, 2.0)], draw))
        for low, high in bands:
            at = [
                rule(replace(scenario, canary=(bad,)), 40, draw("bad", n)).found_at
                for n, (scenario, bad) in enumerate(drawn)
                if low <= bad < high
            ]
            every = np.concatenate(at) if at else np.array([np.nan])
            middle = np.nanmedian(every) if not np.isnan(every).all() else np.nan
            cells.append(f"{100 * (~np.isnan(every)).mean():.0f} ({middle:.0f})")
        row(name, *cells)


def _spared(rule: Rule, scenarios: Sequence[Scenario], draw: Draw) -> str:
    """Percent of good canaries that are taken back, and of them by statistics, with its interval at 95 %."""
    played = [rule(scenario, 40, draw("random", n)) for n, scenario in enumerate(scenarios)]
    taken = 100 * float(np.mean([(~np.isnan(each.found_at)).mean() for each in played]))
    by_statistics = Counts(sum(each.why.count(STATISTICS) for each in played), 40 * len(played))
    if rule is not ALL[SERIN]:
        return f"{taken:.2g}"
    low, high = share_interval(by_statistics)
    return f"{taken:.2g} (statistics {100 * by_statistics.ratio:.2g}, {100 * low:.2g} to {100 * high:.2g})"


def _service(rate: float, bad: float, noise: str = "bursty", stable: float = 0.001) -> Scenario:
    return Scenario(rate, (stable,), (bad,), NOISES[noise])


_SUITES: Mapping[str, Scenario] = {
    "5 % from 12 min on, 500/s": replace(_service(500, 0.05), onset=720),
    "100 % from 21 min on, 500/s": replace(_service(500, 1.0), onset=1260),
    "20 % from 21 min on, 500/s": replace(_service(500, 0.2), onset=1260),
    "5 % from 21 min on, 500/s": replace(_service(500, 0.05), onset=1260),
    "1.5 % from 21 min on, 500/s": replace(_service(500, 0.015), onset=1260),
    "clusters, 5 %, 50/s, stable 0.1 %": _service(50, 0.05, "cluster"),
    "clusters, 5 %, 50/s, stable 0.5 %": _service(50, 0.05, "cluster", 0.005),
    "clusters, 20 %, 50/s, stable 0.1 %": _service(50, 0.2, "cluster"),
    "no lag, 5 %, 500/s": replace(_service(500, 0.05), lag=0),
    "lag of 90 s, 5 %, 500/s": replace(_service(500, 0.05), lag=90),
}
SUITES: Mapping[str, tuple[Scenario, Rule]] = {title: (scenario, RULES[SERIN]) for title, scenario in _SUITES.items()}
MORE: Mapping[str, tuple[Scenario, Rule]] = {
    "5 %, 50/s, each scrape late by up to 10 s anew": (replace(_service(50, 0.05), jitter=True), RULES[SERIN]),
    "0.5 %, 500/s, each scrape late by up to 10 s anew": (replace(_service(500, 0.005), jitter=True), RULES[SERIN]),
    "5 %, 50/s, pods cannot be told apart": (_service(50, 0.05), judged_by(replace(PROPOSAL, dispersion=False))),
}


def suites(size: Size, draw: Draw) -> None:
    heading("Bad canaries in other circumstances: seconds from the onset p50/p90")
    say("Clean but for bursts, unless it says clusters. Found before the onset counts as a false alarm.\n")
    header("what", SEED_RULE, SERIN, "ANALYSIS", "as good", "found before the onset")
    for title, (scenario, rule) in {**SUITES, **MORE}.items():
        both = (each(scenario, size.bad, draw("suite", title)) for each in (rule, ALL[SEED_RULE]))
        ours, seed = (_after(played, scenario.onset) for played in both)
        goal = published.SUITES.get(title)
        early = np.mean(~np.isnan(ours[1]))
        row(
            title,
            shown(replace(seed[0], failed=None)),
            shown(replace(ours[0], failed=None)),
            shown(goal) if goal else "–",
            reaches(ours[0], goal) if goal else "–",
            f"{early:.1%}",
        )


def _after(played: Played, onset: float) -> tuple[Figure, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """The figure of those that were not taken back before the onset, and when the others were."""
    early = played.found_at < onset
    rest = replace(played, found_at=played.found_at[~early], failed=played.failed[~early])
    return found(rest, onset), np.where(early, played.found_at, np.nan)


def data(size: Size, draw: Draw) -> None:
    heading("Good canaries and bad data: percent taken back; 5/s, stable 0.5 %, clean")
    header("what", SEED_RULE, SERIN, "of which statistics")
    base = Scenario(5, (0.005,), (0.005,))
    cases = {
        "nothing wrong": base,
        "30 % of the scrapes lost": replace(base, lost=0.3),
        "no metrics for 3 minutes": replace(base, outage=(400.0, 580.0)),
        "no metrics for 10 minutes": replace(base, outage=(400.0, 1000.0)),
        "lag of 90 s": replace(base, lag=90),
        "pods cannot be told apart, clusters, 50/s": replace(base, rate=50, noise=NOISES["cluster"]),
    }
    for title, scenario in cases.items():
        rule = judged_by(replace(PROPOSAL, dispersion=False)) if title.startswith("pods") else RULES[SERIN]
        ours, seed = (r(scenario, size.good_ours, draw("data", title)) for r in (rule, ALL[SEED_RULE]))
        taken = [f"{100 * (~np.isnan(played.found_at)).mean():.2g}" for played in (seed, ours)]
        row(title, *taken, f"{100 * ours.why.count(STATISTICS) / size.good_ours:.2g}")
    both = Scenario(50, (0.02,), (0.02,), BURSTY)
    played = RULES[SERIN](both, size.bad, draw("data", "both"))
    say(f"\nBoth arms at 2 %, 50/s: the process's rule takes back {played.why.count(PROCESS) / size.bad:.1%},")
    say(f"statistics {played.why.count(STATISTICS) / size.bad:.1%}.")


# --- Latency ---

EDGES = (0.1, 0.25, 0.5)
_SIGMA = 0.7
_MEDIAN = 0.4 / math.exp(2.326 * _SIGMA)


def slower(edge: float, times: float = 1.0, delayed: float = 0.0) -> float:
    """Share of requests slower than `edge` (s): lognormal, p99 400 ms; `times` slower, and a share 1 s later."""

    def above(limit: float) -> float:
        if limit <= 0:
            return 1.0
        return 0.5 * math.erfc(math.log(limit / times / _MEDIAN) / _SIGMA / math.sqrt(2))

    return (1 - delayed) * above(edge) + delayed * above(edge - 1)


LATENCY_CASES: Mapping[str, tuple[float, float, float]] = {
    "x2 at 50/s": (50, 2, 0),
    "x4 at 5/s": (5, 4, 0),
    "x1.5 at 500/s": (500, 1.5, 0),
    "10 % of requests +1 s, 50/s": (50, 1, 0.1),
    "2 % of requests +1 s, 50/s": (50, 1, 0.02),
    "x1.25 at 500/s, tolerated": (500, 1.25, 0),
}


def latency(size: Size, draw: Draw) -> None:
    heading("Latency: lognormal, p99 400 ms, edges at 100, 250 and 500 ms; seconds p50/p90")
    rule = judged_by(LATENCIES)
    stable = tuple(slower(edge) for edge in EDGES)
    say(f"Stable is slower than the edges with {', '.join(f'{share:.2%}' for share in stable)} of its requests.\n")
    header("what", SERIN, "ANALYSIS", "as good", "not found")
    for title, (rate, times, delayed) in LATENCY_CASES.items():
        canary = tuple(slower(edge, times, delayed) for edge in EDGES)
        played = rule(Scenario(rate, stable, canary, BURSTY), size.bad, draw("latency", title))
        goal, figure = published.LATENCY.get(title), found(played)
        missed = float(np.isnan(played.found_at).mean())
        row(
            title,
            shown(replace(figure, failed=None)),
            shown(goal) if goal else "–",
            reaches(figure, goal) if goal else "–",
            f"{missed:.0%}",
        )
    falsely = [
        rule(Scenario(rate, stable, stable, NOISES[noise]), size.good_peers, draw("latency", rate, noise)).why
        for rate in (5, 50, 500)
        for noise in ("clean", "bursty", "hiccup", "hostile")
    ]
    worst = max(why.count(STATISTICS) for why in falsely) / size.good_peers
    say(f"\nGood canaries taken back in the worst of {len(falsely)} cells: {worst:.2%} of {size.good_peers}.")


# --- The bound, and the cost ---


def bound(size: Size, draw: Draw) -> None:
    heading(f"At the boundary of what is tolerated: false alarms of {size.boundary} rollouts, percent; at most 0.7")
    header("cell", "without caps", "95 %", "as shipped", "95 %", "within the budget", "took")
    for cell in boundary.CELLS:
        began = time.monotonic()
        cells, inside = [], True
        for terms in (boundary.UNCAPPED, ERRORS):
            alarms = boundary.false_alarms(cell, terms, size.boundary, draw("boundary", cell.title))
            low, high = share_interval(Counts(alarms, size.boundary))
            cells += [f"{100 * alarms / size.boundary:.3g}", f"{100 * low:.2g} to {100 * high:.2g}"]
            inside &= low <= terms.budget
        row(cell.title, *cells, "yes" if inside else "no", f"{time.monotonic() - began:.0f} s")


def price(_: Size, __: Draw) -> None:
    heading("What it costs (CPU time)")
    say(f"- one update of a monitor: {cost.update() / timedelta(microseconds=1):.1f} us")
    took = median(tick / timedelta(milliseconds=1) for tick in cost.tick())
    say(f"- a tick of {cost.CHANGES} changes x 4 monitors, samples to verdict: {took:.0f} ms")


PARTS: Mapping[str, Callable[[Size, Draw], None]] = {
    "detection": detection,
    "suites": suites,
    "latency": latency,
    "data": data,
    "cost": price,
    "good": good,
    "random": at_random,
    "boundary": bound,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rollouts a cell: to see that it works")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS), help="some of the parts, with commas")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.only.split(",")) - set(PARTS):
        parser.error(f"--only is {chosen.only}: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    size = QUICK if chosen.quick else FULL
    say(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {chosen.seed}, {size}")
    for name in chosen.only.split(","):
        began = time.monotonic()
        PARTS[name](size, Draw(chosen.seed))
        say(f"\n({name}: {time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
