"""Whether the canary is worse than stable, asked at every scrape, with a bounded chance to say so of a good one.

A bet against the canary. The hypothesis H0 is that in every block `p_c <= tolerated * (p_s + slack)`; p_s may move
freely. Capital is staked, a little at a time, on alternatives: that the canary is r times worse than tolerated. Each
alternative's capital is multiplied, block by block, by a factor whose mean under H0 is at most 1, however many requests
there were and whatever share the canary had. So under H0 the capital (the e-value) ever reaches 1/budget with a chance
of at most `budget`: Ville's inequality; it may be looked at as often as one likes.

Of a Poisson or binomial count, or one less dispersed, E[a^x] <= exp(n p (a - 1)). With a = r q for the canary's bad
requests and b = q for stable's, the mean of the factor is at most exp((p_s + slack) * (n_c * tolerated * (r q - 1)
- n_s * (1 - q))), and `q` below is what makes that exp(0). When bad requests come in clusters of one arm, no larger
than `phi`, counts divided by phi keep it so (convexity). Caps only lower a factor; phi, caps and the guard against
shocks look at earlier blocks only.

Sources: Lindon and Malek, arXiv 2011.03567; Turner, Ly and Grünwald, 2106.02693; Shin, Ramdas and Rinaldo, 2203.03532
(starting anew at each moment); Shafer, "Testing by betting" (the words).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.core import slo
from controller.core.blocks import BY_CHANCE, NO_REQUESTS, Block, Counts, Cursor, Dispersion, History, form
from controller.core.samples import Arm


@dataclass(frozen=True)
class Terms:
    """What is bet on, and how much. All shares are between 0 and 1.

    `tolerated`, `slack`: what a good canary may do, see H0. `alternatives`: multiples of it, r. `budget`: the chance of
    a false alarm in a whole rollout. `stake…`: the share of the rest that is staked at the first block, at a new step,
    after a shock and at any other block. `pace`, `cap`: one block proves at most `pace` (twice that if stable is calm)
    times ln r, and `cap` nats; in the first `warm_blocks` of a step `warm` of that. `shock`, `shock_bad_min`: so many
    times its usual share of stable's requests are bad in a shock, and so many at least. `limit`: the bad share that the
    process allows. `severe`, `burns`: multiples of it for a canary without stable beside it; `severe=None`: it is not
    judged then.
    """

    budget: float = 0.007
    tolerated: float = 1.2
    slack: float = 0.0002
    alternatives: tuple[float, ...] = (1.5, 2.5, 5.0, 15.0, 100.0)
    stake_first: float = 0.5
    stake_step: float = 0.25
    stake_shock: float = 0.2
    stake: float = 0.01
    pace: float = 1.0
    cap: float = 3.4
    warm: float = 0.5
    warm_blocks: int = 2
    shock: float = 4.0
    shock_bad_min: float = 5.0
    limit: float = 0.01
    severe: float | None = 5.0
    burns: float = 3.0

    @property
    def e_value_max(self) -> float:
        """A monitor that reaches it fails."""
        return 1 / self.budget


ERRORS = Terms()
LATENCY = tuple(
    Terms(budget=0.003, tolerated=tolerated, slack=slack, severe=None)
    for tolerated, slack in ((1.15, 0.02), (1.3, 0.01), (1.5, 0.002))
)
"""For the edges of buckets next to stable's p50, p90 and p99; the mean of their e-values counts."""

_CALM_BLOCKS, _CALM_PHI = 30, 1.2
_ALONE_SHARE = 0.95
"""With more than this share of the requests, the canary has no stable to be compared with."""
_SEVERE_OF_STABLE, _BURN_OF_STABLE = 3.0, 2.0
BURN_WINDOWS = timedelta(minutes=1), timedelta(minutes=5)
_BURN_BAD_MIN = 20.0
_CAPITAL_MAX = 1e9
"""More proves no more. Less than it is proves nothing either, so this keeps the bound."""


@dataclass(frozen=True)
class Monitor:
    """Everything that is remembered of one bet; it goes to status as it is.

    `at`: the end of the last block, or when the canary began. `capital`: by alternative; `rest` is not staked yet.
    `step_at`, `step_blocks`: the step of the last block and its blocks so far. `canary`, `stable`: requests in this
    step; `known`: of stable in its history and since. `shocked`: stable had far more bad requests than it ever had.
    `alone`: stable was not scraped; `compared`: the last block held enough of stable to compare with.
    """

    at: datetime
    capital: tuple[float, ...] = ()
    rest: float = 1.0
    step_at: datetime | None = None
    step_blocks: int = 0
    canary: Counts = NO_REQUESTS
    stable: Counts = NO_REQUESTS
    known: Counts = NO_REQUESTS
    dispersion: Dispersion = BY_CHANCE
    spacing: timedelta = timedelta()
    calm: bool = False
    shocked: bool = False
    alone: bool = False
    compared: bool = True

    @property
    def e_value(self) -> float:
        """At least 1/budget: the canary fails. Below 1 there is no evidence against it."""
        return sum(self.capital) + self.rest

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.at, self.spacing, first=self.step_blocks == 0, alone=self.alone)


def begin(history: History, at: datetime) -> Monitor:
    """The monitor of a canary that gets its first requests at `at`.

    Without a history phi begins at 1 and stable is not called calm; where stable's pods cannot be told apart (a proxy
    counts for them) phi stays what the history says.
    """
    calm = history.dispersion.blocks >= _CALM_BLOCKS and history.dispersion.phi <= _CALM_PHI
    return Monitor(at, known=history.stable, dispersion=history.dispersion, spacing=history.spacing, calm=calm)


def observe(monitor: Monitor, canary: Arm, stable: Arm, step_at: datetime, terms: Terms = ERRORS) -> Monitor:
    """The monitor after the samples that are later than `monitor.at`; `step_at`: when the present weight was set.

    Samples that come in order may come in any number of calls.
    """
    return extend(monitor, form(canary, stable, monitor.cursor), step_at, terms)


def extend(monitor: Monitor, blocks: Iterable[Block], step_at: datetime, terms: Terms = ERRORS) -> Monitor:
    """The monitor after `blocks`, which begin where it ended."""
    for block in blocks:
        monitor = _settle(monitor, block, step_at, terms)
    return monitor


def _settle(m: Monitor, block: Block, step_at: datetime, terms: Terms) -> Monitor:
    canary, stable, compared = block.canary, block.stable, not is_alone(block)
    new_step = block.at > step_at and m.step_at != step_at
    step_blocks = 0 if new_step else m.step_blocks
    unusual = m.known.total > 0 and stable.ratio > terms.shock * m.known.ratio
    shocked = stable.bad >= terms.shock_bad_min and unusual
    capital, rest = m.capital, m.rest
    if compared or terms.severe is not None:
        staked = rest * _stake(m, terms, new_step=new_step, shocked=shocked)
        capital = _bet(m, block, terms, staked, warm=step_blocks < terms.warm_blocks)
        rest -= staked
    return Monitor(
        at=block.at,
        capital=capital,
        rest=rest,
        step_at=step_at if new_step else m.step_at,
        step_blocks=step_blocks + 1,
        canary=canary if new_step else m.canary + canary,
        stable=stable if new_step else m.stable + stable,
        known=m.known + stable,
        dispersion=m.dispersion.after(block.spread),
        spacing=m.spacing,
        calm=m.calm,
        shocked=shocked,
        alone=block.alone,
        compared=compared,
    )


def _bet(m: Monitor, block: Block, terms: Terms, staked: float, *, warm: bool) -> tuple[float, ...]:
    """The capital after the block. Just after a shock nothing is won or lost: it need not hit both arms at once."""
    alternatives = terms.alternatives
    capital = [had + staked / len(alternatives) for had in m.capital or (0.0,) * len(alternatives)]
    if not m.shocked:
        factors, ceilings = log_factors(block, m, terms), _ceilings(terms, calm=m.calm, warm=warm)
        capital = [had * math.exp(min(*pair)) for had, *pair in zip(capital, factors, ceilings, strict=True)]
    return tuple(min(had, _CAPITAL_MAX) for had in capital)


def is_alone(block: Block) -> bool:
    """Whether there is too little of stable in the block to compare with."""
    return block.canary.total >= _ALONE_SHARE * (block.canary.total + block.stable.total) > 0 or block.alone


def _stake(m: Monitor, terms: Terms, *, new_step: bool, shocked: bool) -> float:
    """The share of the rest that is staked now: how likely it is that the canary turned bad just before this block."""
    if not m.capital:
        return terms.stake_first
    if new_step:
        return terms.stake_step
    if m.shocked:  # nothing is bet on this block; on the next one it is, unless the shock goes on
        return 0.0 if shocked else terms.stake_shock
    return terms.stake


def _ceilings(terms: Terms, *, calm: bool, warm: bool) -> list[float]:
    """What a block may prove: small effects must persist, and no single burst of a single scrape can be enough."""
    pace = terms.pace * (2 if calm else 1)
    return [(terms.warm if warm else 1.0) * min(pace * math.log(r), terms.cap) for r in terms.alternatives]


def log_factors(block: Block, m: Monitor, terms: Terms) -> list[float]:
    """The logarithm of what each alternative's capital is multiplied by, before caps."""
    canary, stable, phi = block.canary, block.stable, m.dispersion.phi
    if is_alone(block):
        usual = severe_ratio(m, terms)
        return [(canary.bad * math.log(r) - canary.total * usual * (r - 1)) / phi for r in terms.alternatives]
    both = canary.total + stable.total
    share = canary.total / both if both else 0.0
    even = 1 - share + share * terms.tolerated
    factors = []
    for r in terms.alternatives:
        q = even / (even + share * terms.tolerated * (r - 1))
        bet = canary.bad * math.log(r) + (canary.bad + stable.bad) * math.log(q)
        factors.append((bet - terms.slack * stable.total * (1 - q)) / phi)
    return factors


def severe_ratio(m: Monitor, terms: Terms) -> float:
    """The bad share above which a canary is bad even when there is no stable to compare it with."""
    assert terms.severe is not None
    return max(terms.severe * terms.limit, _SEVERE_OF_STABLE * terms.tolerated * (m.known.ratio + terms.slack))


# --- What it means ---


def fails(monitors: Sequence[Monitor], terms: Terms) -> bool:
    """Whether the e-value of one monitor, or the mean of several that share a budget, proves a worse canary."""
    return mean_e_value(monitors) >= terms.e_value_max


def suspects(monitors: Sequence[Monitor], terms: Terms) -> bool:
    """Whether there is a tenth of what it takes to fail: too much to advance."""
    return mean_e_value(monitors) >= terms.e_value_max / 10


def mean_e_value(monitors: Sequence[Monitor]) -> float:
    return sum(monitor.e_value for monitor in monitors) / len(monitors)


def burning(monitor: Monitor, canary: Arm, since: datetime, terms: Terms) -> datetime | None:
    """The first moment after `since` at which a canary without stable beside it fails too much to wait; None: never.

    Over one minute its bad share is above B, and over five it has more bad requests than B accounts for by chance.
    Samples must reach five minutes back before `since`. Source: "multiwindow" in Google's SRE workbook, chapter 5.
    """
    if monitor.compared:
        return None
    ratio_max = burn_ratio_max(monitor, terms)
    moments = (sample.at for sample in canary.samples if sample.at > since)
    return next((at for at in moments if _burns(canary, at, ratio_max, monitor.dispersion.phi)), None)


def burn_ratio_max(m: Monitor, terms: Terms) -> float:
    """B: the bad share over a minute that is too much to wait, without stable to compare with."""
    return max(terms.burns * terms.limit, _BURN_OF_STABLE * m.known.ratio)


def _burns(canary: Arm, at: datetime, ratio_max: float, phi: float) -> bool:
    short, long = (Counts(*slo.window(canary.samples, at, length)) for length in BURN_WINDOWS)
    times = BURN_WINDOWS[1] / BURN_WINDOWS[0]
    usual = ratio_max * max(long.total, times * short.total)
    return short.ratio > ratio_max and long.bad > max(_BURN_BAD_MIN, usual + 3 * math.sqrt(phi * usual))
