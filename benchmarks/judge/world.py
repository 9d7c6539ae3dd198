"""Many rollouts of one service at once, slot by slot: requests, what went wrong with them, and what scrapes saw of it.

Three targets are scraped: the canary and two halves of stable. Arrays are (rollouts, targets, slots); a slot is 5 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from controller.lab.service import Noise

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

SLOT = 5
SCRAPE = 15
SLOTS = 75 * 60 // SLOT
"""No rollout of 30 minutes takes longer than this, holds included."""
CANARY, FIRST_HALF, SECOND_HALF = TARGETS = range(3)
_MINUTE = 60 // SLOT
_ROUND = SCRAPE // SLOT
_HALF_PODS = 5
"""Ten pods of stable, and one of the canary for each 10 % of its weight."""


@dataclass(frozen=True)
class Scenario:
    """A service and its canary.

    `stable`, `canary`: the share of bad requests, or for latency of requests slower than each edge, from the lowest
    edge up. `onset`: seconds until the canary turns from good to what `canary` says. `outage`: seconds (from, to) in
    which nothing is scraped. `lost`: share of scrapes that fail. `jitter`: each scrape is late by up to 10 s anew;
    else each target is by as much every time, as with Prometheus.
    """

    rate: float
    stable: tuple[float, ...]
    canary: tuple[float, ...]
    noise: Noise = field(default_factory=Noise)
    onset: float = 0.0
    lag: float = 30.0
    lost: float = 0.02
    jitter: bool = False
    outage: tuple[float, float] = (0.0, 0.0)


class World:
    """Rollouts of a scenario, as `play` goes on with them; `bad` and `total` hold what each slot's scrapes brought."""

    def __init__(self, scenario: Scenario, rollouts: int, random: np.random.Generator) -> None:
        self.scenario, self.rollouts, self.random, self.slot = scenario, rollouts, random, 0
        shape = (rollouts, len(TARGETS), SLOTS)
        self.levels = len(scenario.stable)
        self.bad: Floats = np.zeros((*shape, self.levels))
        self.total: Floats = np.zeros(shape)
        self.scraped: Bools = self._scrapes()
        self.failed: Floats = np.zeros((rollouts, SLOTS))
        """Bad requests of the canary in each slot, scraped or not."""
        self._bad: Floats = np.zeros((rollouts, len(TARGETS), self.levels))
        self._total: Floats = np.zeros((rollouts, len(TARGETS)))
        self._swing: Floats = np.zeros(rollouts)
        self._phase: Floats = random.uniform(0, 2 * np.pi, rollouts)
        self._shock_left: Floats = np.zeros(rollouts)
        self._multiplier: Floats = np.ones((rollouts, len(TARGETS)))

    def _scrapes(self) -> Bools:
        """Every 15 s, and up to 10 s later."""
        rounds = SLOTS // _ROUND
        shape = (self.rollouts, len(TARGETS), rounds)
        late = self.random.integers(0, 3, shape if self.scenario.jitter else (*shape[:2], 1))
        slots = np.broadcast_to(np.arange(rounds) * _ROUND + late - 1, shape)
        kept = (self.random.random(shape) >= self.scenario.lost) & (slots >= 0)
        begin, end = self.scenario.outage
        kept &= ~((slots * SLOT >= begin) & (slots * SLOT < end))
        scraped = np.zeros((self.rollouts, len(TARGETS), SLOTS), dtype=np.bool_)
        r, t, i = np.nonzero(kept)
        scraped[r, t, slots[r, t, i]] = True
        return scraped

    def play(self, weights: Floats, slots: int) -> None:
        """Goes on for so many slots; `weights`: the canary's share of the requests, by rollout."""
        for _ in range(min(slots, SLOTS - self.slot)):
            self._play(weights)

    def _play(self, weights: Floats) -> None:
        s, noise, random = self.slot, self.scenario.noise, self.random
        if s % _MINUTE == 0 and noise.hiccup:
            pods = np.stack([np.maximum(1, 10 * weights), *[np.full(self.rollouts, _HALF_PODS)] * 2], axis=1)
            shape = pods / noise.hiccup**2
            self._multiplier = random.gamma(shape) / shape
        share = self._shares()
        halves = (1 - weights) / 2
        mean = self._rate()[:, None] * np.stack([weights, halves, halves], axis=1) * SLOT
        total = random.poisson(mean).astype(float)
        bad = self._draw(total, share)
        self._total += total
        self._bad += bad
        self.failed[:, s] = bad[:, CANARY, -1]
        seen = self.scraped[:, :, s]
        self.total[:, :, s] = np.where(seen, self._total, 0)
        self.bad[:, :, s] = np.where(seen[..., None], self._bad, 0)
        self._total[seen] = 0
        self._bad[seen] = 0
        self.slot += 1

    def _rate(self) -> Floats:
        noise = self.scenario.noise
        if not noise.swing:
            return np.full(self.rollouts, self.scenario.rate)
        self._swing = 0.95 * self._swing + noise.swing * np.sqrt(1 - 0.95**2) * self.random.normal(size=self.rollouts)
        wave = noise.swing * np.sin(2 * np.pi * self.slot * SLOT / 7200 + self._phase)
        mean = np.exp(noise.swing**2 / 2) * np.i0(noise.swing)
        return np.asarray(self.scenario.rate * np.exp(self._swing + wave) / mean)

    def _shares(self) -> Floats:
        """Of bad requests: (rollouts, targets, levels)."""
        scenario, noise, at = self.scenario, self.scenario.noise, self.slot * SLOT
        turned = at >= scenario.onset
        arms = [scenario.canary if turned else scenario.stable, scenario.stable, scenario.stable]
        share = np.array(arms)[None, :, :] * self._multiplier[:, :, None]
        if noise.shock:
            begins = self.random.random(self.rollouts) < SLOT / noise.shock_every.total_seconds()
            lasts = self.random.uniform(2 / 3, 4 / 3, self.rollouts) * noise.shock_lasts.total_seconds()
            self._shock_left = np.where(begins, lasts, np.maximum(0, self._shock_left - SLOT))
            share += np.where(self._shock_left > 0, noise.shock, 0)[:, None, None]
        if noise.blip and at < noise.blip_lasts.total_seconds():
            share[:, CANARY] = np.maximum(share[:, CANARY], noise.blip)
        return np.clip(share, 0, 1)

    def _draw(self, total: Floats, share: Floats) -> Floats:
        cluster = self.scenario.noise.cluster
        bad = np.zeros((*total.shape, self.levels))
        if cluster > 1:
            events = self.random.poisson(total * share[..., 0] / cluster)
            # A sum of geometric sizes is the number of events and a negative binomial of what is beyond one of each.
            more = self.random.negative_binomial(np.maximum(events, 1), 1 / cluster)
            bad[..., 0] = np.minimum(np.where(events > 0, events + more, 0), total)
        else:
            bad[..., 0] = self.random.binomial(total.astype(int), share[..., 0])
        for k in range(1, self.levels):  # slower than an edge is slower than the edge below it
            part = np.divide(share[..., k], share[..., k - 1], out=np.zeros_like(total), where=share[..., k - 1] > 0)
            bad[..., k] = self.random.binomial(bad[..., k - 1].astype(int), np.clip(part, 0, 1))
        return bad

    # --- What a query says ---

    def seen(self, at: float, window: float, targets: Sequence[int]) -> tuple[Floats, Floats]:
        """(bad, total) by rollout of what was scraped in the newest `window` that is known of at `at`."""
        known = at - self.scenario.lag
        begin, end = (max(0, int(moment) // SLOT) for moment in (known - window, known))
        if end <= begin:
            return np.zeros(self.rollouts), np.zeros(self.rollouts)
        span = slice(begin, end)
        bad = self.bad[..., -1][:, list(targets), span].sum(axis=(1, 2))
        return bad, self.total[:, list(targets), span].sum(axis=(1, 2))

    def failed_until(self, ended_at: Floats) -> Floats:
        """Bad requests of the canary from the onset until it was taken back or promoted (seconds; NaN: neither)."""
        ends = np.where(np.isnan(ended_at), self.slot * SLOT, ended_at) // SLOT
        slots = np.arange(SLOTS)[None, :]
        counted = (slots < ends[:, None]) & (slots >= self.scenario.onset // SLOT)
        return np.asarray((self.failed * counted).sum(axis=1))
