"""The product's own rules on simulated rollouts: controller.core as it is, and what the controller does with its word.

A canary is taken back a slot after the data that shows it bad could be read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from benchmarks.judge.peers import BOTH_HALVES, LIMIT, STEP, STEPS, Played, Rule
from benchmarks.judge.world import CANARY, SCRAPE, SLOT, SLOTS, Bools, Floats, Scenario, World
from controller.core import slo
from controller.core.blocks import BY_CHANCE, History, form, recall
from controller.core.policy import Policy
from controller.core.samples import Arm, Sample
from controller.core.sequential import (
    ERRORS,
    LATENCY,
    Monitor,
    Terms,
    begin,
    burning,
    extend,
    fails,
    suspects,
)

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
HISTORY = 30 * 60
MOMENTS = [START + timedelta(seconds=(n + 1) * SLOT) for n in range(SLOTS)]
MINUTE, SUSTAINED, STALE = timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=1)
EVERY = timedelta(seconds=SCRAPE)
MIN_REQUESTS = Policy(steps=()).min_requests
_BACK = timedelta(minutes=5, seconds=SCRAPE)
"""Of the canary's samples, what the rules look back at."""

STATISTICS, PROCESS, BURN = "statistics", "process", "burn"


@dataclass(frozen=True)
class Rules:
    """Which are in force. `errors`: terms of the monitor; `latency`: of those for each edge; `process`: the 5 minutes
    above 1 %; `burn`: without stable beside it.
    """

    errors: Terms | None = ERRORS
    latency: tuple[Terms, ...] = ()
    process: bool = True
    burn: bool = True
    dispersion: bool = True
    """False: stable's pods cannot be told apart, as behind a proxy."""
    clusters: bool = True
    """False: bad requests are taken to come one by one, whatever the history shows."""


PROPOSAL = Rules()
SEED = Rules(errors=None, burn=False)
PLAIN = Rules(
    replace(
        ERRORS,
        tolerated=1.0,
        slack=0.0,
        pace=np.inf,
        cap=100.0,
        shock=np.inf,
        severe=None,
        stake_first=1.0,
        stake_step=0.0,
        stake_shock=0.0,
        stake=0.0,
    ),
    burn=False,
    dispersion=False,
    clusters=False,
)
"""The likelihood ratio alone: no margins, no dispersion, no caps, no change of time."""
LATENCIES = Rules(errors=None, latency=LATENCY, process=False, burn=False)


@dataclass
class Rollout:
    """One rollout under the eyes of the product: `monitors` of errors, or of the three latencies."""

    monitors: list[Monitor]
    step: int = 0
    step_at: float = 0.0
    breach: slo.Breach = field(default_factory=lambda: slo.Breach("error-rate", "service", last_at=START))
    canary: list[Sample] = field(default_factory=list)
    stable: list[Sample] = field(default_factory=list)
    scrapes: list[tuple[list[Sample], list[Sample]]] = field(default_factory=list)
    found_at: float = np.nan
    why: str = ""
    promoted_at: float = np.nan

    @property
    def over(self) -> bool:
        return bool(self.why) or not np.isnan(self.promoted_at)


def judged_by(rules: Rules) -> Rule:
    def play(scenario: Scenario, rollouts: int, random: np.random.Generator) -> Played:
        terms = (rules.errors,) if rules.errors else rules.latency
        histories = _histories(scenario, rollouts, random, rules) if terms else []
        world = World(scenario, rollouts, random)
        running = [
            Rollout([begin(history[k], START) for k in range(len(terms))], scrapes=[([], []) for _ in terms])
            for history in (histories or [()] * rollouts)
        ]
        while world.slot < SLOTS and not all(rollout.over for rollout in running):
            world.play(np.array([STEPS[rollout.step] for rollout in running]), SCRAPE // SLOT)
            for r, rollout in enumerate(running):
                if not rollout.over:
                    _look(world, r, rollout, rules, terms)
        found_at = np.array([rollout.found_at for rollout in running])
        ended_at = np.array([r.promoted_at if np.isnan(r.found_at) else r.found_at for r in running])
        return Played(found_at, world.failed_until(ended_at), tuple(rollout.why for rollout in running))

    return play


def _look(world: World, r: int, rollout: Rollout, rules: Rules, terms: Sequence[Terms]) -> None:
    """What the controller does at the end of a chunk of slots: take in what came, judge, and move on if it may."""
    lag, now = world.scenario.lag, world.slot * SLOT
    known = int(now - lag) // SLOT
    fresh = range(max(0, known - SCRAPE // SLOT), max(0, known))
    found: list[tuple[datetime, str]] = []
    step_at = START + timedelta(seconds=rollout.step_at)
    for k, one in enumerate(terms):
        canary, stable = rollout.scrapes[k]
        canary += samples(world.bad[r, :, :, k], world.total[r], world.scraped[r], [CANARY], fresh)
        stable += samples(world.bad[r, :, :, k], world.total[r], world.scraped[r], BOTH_HALVES, fresh, rules.dispersion)
        monitor = rollout.monitors[k]
        for block in form(Arm(tuple(canary)), Arm(tuple(stable)), monitor.cursor):
            monitor = extend(monitor, [block], step_at, one)
            if fails([*rollout.monitors[:k], monitor, *rollout.monitors[k + 1 :]], one):
                found.append((block.at, STATISTICS))
        rollout.monitors[k] = monitor
        for side in (canary, stable):
            side[:] = [sample for sample in side if sample.at > monitor.at]
    news = list(samples(world.bad[r, :, :, -1], world.total[r], world.scraped[r], [CANARY], fresh))
    if news and (rules.process or rules.burn):
        rollout.canary = [sample for sample in rollout.canary if sample.at > news[-1].at - _BACK] + news
        found += _by_limits(rollout, news, rules)
    if found:
        at, rollout.why = min(found)
        rollout.found_at = (at - START).total_seconds() + lag + SLOT
    elif now - rollout.step_at >= STEP and _may_advance(rollout, terms, now, lag):
        if rollout.step + 1 == len(STEPS):
            rollout.promoted_at = now
        else:
            rollout.step, rollout.step_at = rollout.step + 1, now


def _by_limits(rollout: Rollout, news: Sequence[Sample], rules: Rules) -> Iterator[tuple[datetime, str]]:
    arm = Arm(tuple(rollout.canary))
    if rules.process:
        rollout.breach = slo.extend(rollout.breach, arm, ratio_max=LIMIT, window=MINUTE, gap_max=STALE)
        if rollout.breach.bad_for >= SUSTAINED:
            yield news[-1].at, PROCESS
    if rules.burn and rules.errors:
        since = news[0].at - timedelta(seconds=1)
        if (at := burning(rollout.monitors[0], arm, since, rules.errors)) is not None:
            yield at, BURN


def _may_advance(rollout: Rollout, terms: Sequence[Terms], now: float, lag: float) -> bool:
    """As `controller.core.checks` has it: not without new data, on a doubt or above a limit; late with few requests."""
    if not terms:
        return True
    last = max((monitor.at - START).total_seconds() for monitor in rollout.monitors)
    if now - lag - last > STALE.total_seconds() or suspects(rollout.monitors, terms[0]) or rollout.breach.last_bad:
        return False
    first = rollout.monitors[0]
    begun = first.step_at == START + timedelta(seconds=rollout.step_at)
    enough = (begun and first.canary.total >= MIN_REQUESTS) or terms[0].severe is None
    return enough or now - rollout.step_at >= 2 * STEP


def samples(
    bad: Floats, total: Floats, scraped: Bools, targets: Sequence[int], slots: range, by_pod: bool = False
) -> Iterator[Sample]:
    """Of one rollout: the scrapes of some targets as one Arm has them."""
    for slot in slots:
        seen = [target for target in targets if scraped[target, slot]]
        if seen:
            counts = [(str(target), float(bad[target, slot]), float(total[target, slot])) for target in seen]
            pods = tuple(counts) if by_pod else ()
            yield Sample(MOMENTS[slot], sum(c[1] for c in counts), sum(c[2] for c in counts), pods)


def _histories(
    scenario: Scenario, rollouts: int, random: np.random.Generator, rules: Rules
) -> list[tuple[History, ...]]:
    """Half an hour of stable before each rollout, by level."""
    quiet = replace(
        scenario, canary=scenario.stable, noise=replace(scenario.noise, blip=0), onset=0.0, outage=(0.0, 0.0)
    )
    world = World(quiet, rollouts, random)
    world.play(np.zeros(rollouts), HISTORY // SLOT)

    def known(r: int, k: int) -> History:
        counts = world.bad[r, :, :, k], world.total[r], world.scraped[r]
        arm = samples(*counts, BOTH_HALVES, range(HISTORY // SLOT), rules.dispersion)
        history = recall(Arm(tuple(arm), scraped_every=EVERY))
        return history if rules.clusters else replace(history, dispersion=BY_CHANCE)

    return [tuple(known(r, k) for k in range(world.levels)) for r in range(rollouts)]


RULES: dict[str, Rule] = {
    "the process's rule": judged_by(SEED),
    "plain mSPRT": judged_by(PLAIN),
    "Serin": judged_by(PROPOSAL),
}
