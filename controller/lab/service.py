"""A service that does not exist: its requests, what goes wrong with them, and what scrapes see of it.

The kinds of noise are those that the method was worked out on; docs/try-a-policy.md says what each is like.
"""

import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from controller.core.blocks import NO_REQUESTS, Counts
from controller.core.model import Measurements
from controller.core.policy import LogErrors
from controller.core.samples import Arm, Sample
from controller.core.template import canary_name
from controller.lab.cluster import Server
from controller.metrics.arms import Subject
from controller.metrics.presets import Preset

_MINUTE = timedelta(minutes=1)
_WAVE = timedelta(hours=2)
_FORGETS_AFTER = timedelta(seconds=100)
"""How long a swing of the traffic lasts."""


@dataclass(frozen=True)
class Noise:
    """What else happens to a good service.

    `swing`: standard deviation of the traffic's logarithm, and height of a wave of two hours over it. `shock`: so many
    more requests fail, whoever answers them, for about `shock_lasts` every `shock_every`. `cluster`: bad requests come
    so many at a time, on average. `hiccup`: coefficient of variation of each pod's bad share, drawn anew every minute.
    `blip`: least bad share of the new version in its first `blip_lasts`.
    """

    swing: float = 0.0
    shock: float = 0.0
    shock_every: timedelta = timedelta(minutes=10)
    shock_lasts: timedelta = timedelta(seconds=45)
    cluster: float = 1.0
    hiccup: float = 0.0
    blip: float = 0.0
    blip_lasts: timedelta = timedelta(seconds=20)


NOISES = {
    "clean": Noise(),
    "bursty": Noise(swing=0.3, shock=0.03),
    "cluster": Noise(cluster=4.0),
    "hiccup": Noise(hiccup=1.0),
    "blip": Noise(blip=0.05),
    "hostile": Noise(swing=0.3, shock=0.03, cluster=4.0, hiccup=1.0, blip=0.05),
}


@dataclass(frozen=True)
class Scenario:
    """`rps`: requests a second, of both versions together. `stable_errors`, `canary_errors`: shares between 0 and 1.

    `stable_slow`, `canary_slow`: shares of requests that take longer than whatever is asked for, failed or not. The new
    version fails, and is slow, as stable is until `onset` after the start of the change. What a scrape saw is known to
    Prometheus `lag` later.
    """

    rps: float
    stable_errors: float
    canary_errors: float
    onset: timedelta = timedelta()
    noise: Noise = NOISES["clean"]
    replicas: int = 10
    scrape: timedelta = timedelta(seconds=15)
    lag: timedelta = timedelta(seconds=30)
    stable_slow: float = 0.0
    canary_slow: float = 0.0


class Bad(Enum):
    """What may be wrong with a request."""

    FAILED = auto()
    SLOW = auto()


@dataclass
class _Target:
    """What is scraped as one: a pod, or the proxy before all of them. Counts by workload, since its last scrape."""

    next_at: datetime
    counted: dict[tuple[str, Bad], Counts]


class Service:
    """The requests of a scenario from `begun_at` on, and the Prometheus that has seen them.

    Where `preset` tells arms apart by their pods, each pod counts for itself; else a proxy counts for all.
    """

    def __init__(self, scenario: Scenario, preset: Preset, begun_at: datetime, seed: str) -> None:
        self._scenario, self._preset, self._begun_at, self._now = scenario, preset, begun_at, begun_at
        self._random = random.Random(seed)  # noqa: S311 (the same seed is to give the same requests)
        self._targets: dict[str, _Target] = {}
        self._samples: dict[tuple[str, Bad], list[Sample]] = defaultdict(list)
        self._swing, self._phase = 0.0, self._random.uniform(0, 2 * math.pi)
        self._shock_until = begun_at
        self._multipliers: dict[str, float] = {}
        self._drawn_at = begun_at
        self._new_at: datetime | None = None
        self._turns_at = datetime.max.replace(tzinfo=UTC)
        self.new = self.stable = NO_REQUESTS
        """All that each version has answered since `begin`, whether it was scraped or not."""

    def begin(self, at: datetime) -> None:
        """The change starts: what came before is history."""
        self._turns_at = at + self._scenario.onset
        self.new = self.stable = NO_REQUESTS

    def serve(self, until: datetime, servers: Iterable[Server]) -> None:
        """The requests since the last call, and a scrape of whatever is due."""
        lasted = until - self._now
        requests = self._rate(lasted) * lasted.total_seconds()
        shock = self._shock(lasted)
        if until - self._drawn_at >= _MINUTE:
            self._multipliers, self._drawn_at = {}, until
        self._now = until
        seen = set()
        for server in servers:
            total = poisson(self._random, requests * server.share)
            bad = self._bad(total, min(1.0, self._share(server, Bad.FAILED) + shock))
            slow = binomial(self._random, total, self._share(server, Bad.SLOW))
            self._count(server, {Bad.FAILED: Counts(bad, total), Bad.SLOW: Counts(slow, total)})
            seen.add(self._target_of(server))
        self._targets = {name: target for name, target in self._targets.items() if name in seen}
        for name, target in self._targets.items():
            if target.next_at <= until:
                self._scrape(name, target)

    def _rate(self, lasted: timedelta) -> float:
        """Requests a second; the mean of all is the scenario's."""
        swing = self._scenario.noise.swing
        if not swing:
            return self._scenario.rps
        kept = math.exp(-(lasted / _FORGETS_AFTER))
        self._swing = kept * self._swing + swing * math.sqrt(1 - kept**2) * self._random.gauss(0, 1)
        wave = swing * math.sin(2 * math.pi * ((self._now - self._begun_at) / _WAVE) + self._phase)
        return self._scenario.rps * math.exp(self._swing + wave - swing**2 / 2)

    def _shock(self, lasted: timedelta) -> float:
        noise = self._scenario.noise
        if not noise.shock:
            return 0.0
        if self._random.random() < lasted / noise.shock_every:
            self._shock_until = self._now + self._random.uniform(2 / 3, 4 / 3) * noise.shock_lasts
        return noise.shock if self._now < self._shock_until else 0.0

    def _share(self, server: Server, of: Bad) -> float:
        """Of this pod's requests that fail, or are slow."""
        scenario, noise = self._scenario, self._scenario.noise
        turned = server.new and self._now > self._turns_at
        if of is Bad.SLOW:
            return scenario.canary_slow if turned else scenario.stable_slow
        share = scenario.canary_errors if turned else scenario.stable_errors
        if noise.hiccup:
            if server.name not in self._multipliers:
                shape = 1 / noise.hiccup**2
                self._multipliers[server.name] = self._random.gammavariate(shape, 1 / shape)
            share *= self._multipliers[server.name]
        if server.new and noise.blip:
            self._new_at = self._new_at or self._now
            if self._now - self._new_at < noise.blip_lasts:
                share = max(share, noise.blip)
        return share

    def _bad(self, total: int, share: float) -> int:
        cluster = self._scenario.noise.cluster
        if cluster <= 1:
            return binomial(self._random, total, share)
        sizes = (geometric(self._random, 1 / cluster) for _ in range(poisson(self._random, total * share / cluster)))
        return min(total, sum(sizes))

    # --- Scrapes ---

    def _target_of(self, server: Server) -> str:
        return server.name if self._preset.by_pods else ""

    def _count(self, server: Server, found: Mapping[Bad, Counts]) -> None:
        if server.new:
            self.new += found[Bad.FAILED]
        else:
            self.stable += found[Bad.FAILED]
        name = self._target_of(server)
        if name not in self._targets:
            late = self._random.random() * self._scenario.scrape
            self._targets[name] = _Target(self._now + late, {})
        counted = self._targets[name].counted
        for of, counts in found.items():
            key = server.workload, of
            counted[key] = counted.get(key, NO_REQUESTS) + counts

    def _scrape(self, name: str, target: _Target) -> None:
        for key, counts in target.counted.items():
            pods = ((name, counts.bad, counts.total),) if name else ()
            self._samples[key].append(Sample(self._now, counts.bad, counts.total, pods))
            target.counted[key] = NO_REQUESTS
        target.next_at += self._scenario.scrape

    def measure(self, subjects: Iterable[Subject], now: datetime) -> Measurements:
        """What Prometheus says of each arm. Of lines logged none is bad."""
        arms: dict[tuple[str, str, str], Arm] = {}
        for subject in subjects:
            new = {subject.canary_pods.removesuffix("-")} - {""}
            every = {workload for workload, _ in self._samples}
            own = {subject.stable_pods.removesuffix("-")} if subject.source.by_pods else every
            for side, workloads in (("canary", new), ("stable", own - new - {canary_name(subject.target)})):
                failed, slow = (self._arm(workloads, of, subject.since, now - self._scenario.lag) for of in Bad)
                logged = replace(failed, samples=tuple(map(_without_bad, failed.samples)))
                for rule in subject.rules:
                    arm = logged if isinstance(rule, LogErrors) else slow if rule.slower_than else failed
                    arms[subject.target, rule.name, side] = arm
        return Measurements(now, arms)

    def _arm(self, workloads: Iterable[str], of: Bad, since: datetime, known_at: datetime) -> Arm:
        moments: dict[datetime, list[Sample]] = defaultdict(list)
        fresh_at: datetime | None = None
        for workload in workloads:
            samples = self._samples[workload, of]
            first, last = (bisect_right(samples, at, key=lambda sample: sample.at) for at in (since, known_at))
            for sample in samples[first:last]:
                moments[sample.at].append(sample)
            if last:
                fresh_at = max(fresh_at or samples[last - 1].at, samples[last - 1].at)
        return Arm(tuple(_sum(at, moments[at]) for at in sorted(moments)), fresh_at, self._scenario.scrape)


def _without_bad(sample: Sample) -> Sample:
    return Sample(sample.at, 0.0, sample.total, tuple((pod, 0.0, total) for pod, _, total in sample.pods))


def _sum(at: datetime, samples: Sequence[Sample]) -> Sample:
    pods = tuple(pod for sample in samples for pod in sample.pods)
    return Sample(at, sum(sample.bad for sample in samples), sum(sample.total for sample in samples), pods)


# --- What the standard library does not draw (random.binomialvariate is of Python 3.12) ---

_MANY = 50
"""From so many on, a normal distribution is near enough."""


def poisson(source: random.Random, mean: float) -> int:
    if mean > _MANY:
        return max(0, round(source.gauss(mean, math.sqrt(mean))))
    count, left = 0, source.expovariate(1)
    while left < mean:
        count, left = count + 1, left + source.expovariate(1)
    return count


def binomial(source: random.Random, n: int, p: float) -> int:
    """By the gaps between successes, which are geometric."""
    if p > 0.5:
        return n - binomial(source, n, 1 - p)
    if n * p > _MANY:
        return min(n, max(0, round(source.gauss(n * p, math.sqrt(n * p * (1 - p))))))
    count, tried = 0, geometric(source, p) if p > 0 else n + 1
    while tried <= n:
        count, tried = count + 1, tried + geometric(source, p)
    return count


def geometric(source: random.Random, p: float) -> int:
    """Tries until the first success, itself among them."""
    return 1 + int(math.log(1.0 - source.random()) / math.log1p(-p)) if p < 1 else 1
