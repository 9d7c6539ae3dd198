"""How fast a bad change is taken back, and what its users see until then.

    uv run python -m benchmarks.time_to_safety [--quick]

Real requests through a real Envoy to a workload of 10 pods, whose new version does something wrong. About 40 minutes;
with --quick one rate and Serin as shipped alone, under 5.
"""

import argparse
import asyncio
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from benchmarks.meter import (
    Meter,
    Usage,
    header,
    heading,
    logged,
    machine,
    milliseconds,
    moment,
    row,
    say,
    seconds,
)
from testbed import namespace, stage
from testbed.bed import Bed, Options
from testbed.errors import BedError
from testbed.load import NO_VERSION, Load, Summary, total
from testbed.process import Process

RATES = (100, 300)
PEERS_RATE = 150
REPLICAS = 10
SCRAPES = timedelta(seconds=2)
SLOW_SCRAPES = (timedelta(seconds=15), timedelta(seconds=30))
WARM_UP = timedelta(seconds=3)
LAST_REQUESTS = timedelta(seconds=3)
OUTAGE = timedelta(seconds=90)
ABSENCE = timedelta(seconds=60)

SHIPPED, LIMITS = "standard", "normal"
"""policies/standard.yaml as it is shipped, with shorter bakes; and its limits alone, without the comparison."""
BAKE = timedelta(seconds=20)
ENDS = {SHIPPED: timedelta(minutes=7), LIMITS: timedelta(minutes=9)}
"""No case may take longer."""


@dataclass(frozen=True)
class Fault:
    title: str
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = ""


ERRORS = Fault("20 % errors", {"ERROR_RATIO": "0.2"})
CRASH_LOOP = Fault("ready, crashes after 5 s, over and over", {"CRASH_AFTER": "5s"})
CRASH = Fault("crash at start", {"CRASH_AT_START": "1"})
NO_IMAGE = Fault("image missing", image="missing")
FAULTS = (
    ERRORS,
    Fault("5 % errors", {"ERROR_RATIO": "0.05"}),
    Fault("100 % errors", {"ERROR_RATIO": "1"}),
    CRASH_LOOP,
    CRASH,
    NO_IMAGE,
)
HEALTHY = Fault("healthy")


@dataclass(frozen=True)
class Outcome:
    """One change and what its users saw. Durations are None where there was no such moment."""

    fault: Fault
    rate: int
    status: Mapping[str, Any]
    version: str
    stable: str
    users: Summary
    applied_at: datetime
    first_write: timedelta | None
    change: str

    @property
    def exposed(self) -> timedelta | None:
        """From the first request that the new version got to the last one that it answered or left without answer."""
        return self.last_at - self.users.first_at[self.version] if self.last_at else None

    @property
    def last_at(self) -> datetime | None:
        last = [at for name, at in self.users.last_at.items() if name in (self.version, NO_VERSION)]
        return max(last) if self.version in self.users.first_at else None

    @property
    def verdict_at(self) -> datetime | None:
        records = (moment(t["at"]) for t in self.status["history"] if t["phase"] == "RollingBack")
        return next(records, None)

    @property
    def after_verdict(self) -> timedelta | None:
        return self.last_at - self.verdict_at if self.last_at and self.verdict_at else None

    @property
    def because(self) -> str:
        return str(self.status.get("cause") or self.status["phase"])


class Stage:
    """Serin on a bed, and workloads that change one after the other."""

    def __init__(self, bed: Bed, bake: timedelta = BAKE) -> None:
        self.bed = bed
        stage.install(bed)
        bed.apply(
            stage.policy(SHIPPED, bakes=[bake] * 3),
            stage.policy(
                LIMITS, bakes=[timedelta(minutes=5)] * 3, approval={"required": 0}, analysis={"statistical": "off"}
            ),
        )
        self.controller: Process = stage.controller(bed, SERIN_MEASURE_INTERVAL="5s")  # as the product does it
        self.controller.start()
        self.meter = Meter(bed, self.controller)
        self._numbers: Iterator[int] = itertools.count(1)
        self._stable: dict[str, str] = {}

    def app(self, name: str, replicas: int = REPLICAS, **environment: str) -> stage.App:
        app = stage.App(self.bed, name, replicas=replicas)
        app.begin("v0", **environment)
        self._stable[name] = "v0"
        return app

    async def play(
        self, app: stage.App, fault: Fault, rate: int, kind: str = SHIPPED, absence: "Absence | None" = None
    ) -> Outcome:
        """One change from apply to end under `rate` requests a second. Raises BedError when it does not end."""
        number = next(self._numbers)
        version, change = f"v{number}{fault.image}", f"CHG-20261123-{number:03}"
        load = await self.bed.load(app.host, rps=rate)
        try:
            await asyncio.sleep(WARM_UP.total_seconds())
            applied_at = datetime.now(UTC)
            await asyncio.to_thread(app.change, version, change, kind=kind, **fault.environment)
            if absence:
                await absence.happen(app, change, version, load)
            status = await self._ended(app, change, ENDS[kind])
            await asyncio.sleep(LAST_REQUESTS.total_seconds())
        finally:
            users = await load.stop()
        stable = self._stable[app.namespace]
        if status["phase"] == "Completed":
            self._stable[app.namespace] = version
        writes = (
            timedelta(seconds=entry["seconds_after_verdict"])
            for entry in logged(self.controller, "write")
            if entry["change"] == change and "seconds_after_verdict" in entry
        )
        if left := app.leftovers():
            raise BedError(f"{change} left {', '.join(left)} behind")
        if app.weights() != {app.name: 1}:
            raise BedError(f"{change} left the route at {app.weights()}")
        return Outcome(fault, rate, status, version, stable, users, applied_at, next(writes, None), change)

    async def _ended(self, app: stage.App, change: str, within: timedelta) -> dict[str, Any]:
        """The status at the end; asked once a second, for every kubectl takes of the same cores."""
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(within.total_seconds()):
                while status.get("phase") not in stage.TERMINAL:
                    await asyncio.sleep(1)
                    status = await asyncio.to_thread(app.status, change)
        except TimeoutError:
            raise BedError(f"{change} has not ended after {within}: {status}") from None
        return status


class Absence:
    """A process that is away for a while in the middle of a change. `hard`: killed, else stopped."""

    def __init__(self, victim: Process, away: timedelta, *, step: int, after: timedelta, hard: bool) -> None:
        self._victim, self._away, self._step, self._after, self._hard = victim, away, step, after, hard
        self._load: Load | None = None
        self.gone_at = self.back_at = datetime.now(UTC)

    async def happen(self, app: stage.App, change: str, version: str, load: Load) -> None:
        """Gone at `after` this step has given the new version its first request; back when the time is up."""
        self._load = load
        async with asyncio.timeout(120):
            await self._reached(app, change, version, load)
        await asyncio.sleep(self._after.total_seconds())
        self.gone_at = datetime.now(UTC)
        if self._hard:
            self._victim.kill()
        else:
            self._victim.stop()
        await asyncio.sleep(self._away.total_seconds())
        self._victim.start()
        self.back_at = datetime.now(UTC)

    async def _reached(self, app: stage.App, change: str, version: str, load: Load) -> None:
        while True:
            asked = any(version in second.by_version for second in load.seconds)
            if asked and (self._step == 1 or (await asyncio.to_thread(app.status, change))["step"] >= self._step):
                return
            await asyncio.sleep(0.1 if self._step == 1 else 0.5)

    @property
    def failed(self) -> tuple[int, int]:
        """Requests that failed while it was away, and afterwards; by whole seconds."""
        assert self._load is not None
        away = [s for s in self._load.seconds if self.gone_at < s.ended_at <= self.back_at]
        after = [s for s in self._load.seconds if s.ended_at > self.back_at]
        return total(away).failed, total(after).failed


# --- What is played and printed ---


async def faults(on: Stage, app: stage.App, rates: Sequence[int]) -> list[Outcome]:
    heading("As shipped (policies/standard.yaml): compared with stable, and the limits of the process")
    _outcome_header()
    outcomes = []
    for rate in rates:
        # At the peers' rate only what they were measured with.
        played = FAULTS if rate in RATES or len(rates) == 1 else (ERRORS, CRASH_LOOP, CRASH, NO_IMAGE)
        for fault in played:
            outcomes.append(await on.play(app, fault, rate))
            _outcome_row(outcomes[-1])
    by_stable = sum(o.users.failed_by_version.get(o.stable, 0) for o in outcomes)
    latest = max(o.after_verdict for o in outcomes if o.after_verdict is not None)
    say(f"\nIn all of these {by_stable} requests failed at stable. The last request that a canary got was sent at most")
    say(f"{milliseconds(max(latest, timedelta()))} after the verdict.")
    found = [o.exposed.total_seconds() for o in outcomes if "ERROR_RATIO" in o.fault.environment and o.exposed]
    usual, most = median(found), max(found)
    say(f"With errors, the canary's last request came {usual:.1f} s after its first (p50), {most:.1f} s at most.")
    return outcomes


async def limits_alone(on: Stage, shipped: Sequence[Outcome]) -> None:
    heading("The limits of the process alone: more than 1 % over 1 min, for 5 min (analysis.statistical: off)")
    say("Both rates at the same time, on two workloads.\n")
    _outcome_header()
    apps = [on.app(f"limits-{rate}") for rate in RATES]
    played = [on.play(app, ERRORS, rate, LIMITS) for app, rate in zip(apps, RATES, strict=True)]
    baking = asyncio.create_task(_baking(on))
    outcomes = await asyncio.gather(*played)
    for slow in outcomes:
        _outcome_row(slow)
    for slow in outcomes:
        quick = next(o for o in shipped if (o.fault, o.rate) == (slow.fault, slow.rate))
        say(
            f"\nAt {slow.rate}/s the policy as shipped let {quick.users.failed} requests fail, its limits alone"
            f" {slow.users.failed}: {quick.users.failed / slow.users.failed:.3f} times as many, in this run."
        )
    used = await baking
    say(
        f"\nIn a minute in which both baked the controller took {seconds(used.cpu)} of CPU and sent {used.requests} API"
        " requests."
    )


async def _baking(on: Stage) -> Usage:
    """What a minute costs from the 90th second on: both changes are at 10 % by then, and stay there."""
    await asyncio.sleep(90)
    before = await asyncio.to_thread(on.meter.read)
    await asyncio.sleep(60)
    return await asyncio.to_thread(on.meter.read) - before


async def healthy(on: Stage, app: stage.App) -> None:
    heading(f"A healthy change, {PEERS_RATE} requests/s, bakes of 20 s")
    before = on.meter.read()
    outcome = await on.play(app, HEALTHY, PEERS_RATE)
    used = on.meter.read() - before
    began, ended = moment(outcome.status["startedAt"]), moment(outcome.status["endedAt"])
    header("outcome", "start → end", "requests", "failed", "controller's CPU", "its API requests", "a minute")
    row(
        outcome.because, seconds(ended - began), outcome.users.sent, outcome.users.failed,
        seconds(used.cpu), used.requests, f"{used.requests_per_minute:.0f}",
    )  # fmt: skip


async def prometheus_away(on: Stage, app: stage.App) -> None:
    heading(f"Prometheus stopped for 90 s, 5 s into 50 % of a healthy change, {PEERS_RATE} requests/s")
    absence = Absence(on.bed.process("prometheus"), OUTAGE, step=2, after=timedelta(seconds=5), hard=False)
    outcome = await on.play(app, HEALTHY, PEERS_RATE, absence=absence)
    reached = [moment(t["at"]) for t in outcome.status["history"] if t["weight"] == 100]
    on_again = reached[0] - absence.back_at if reached else None
    header("outcome", "back → next step", "requests", "failed")
    row(outcome.because, seconds(on_again), outcome.users.sent, outcome.users.failed)


async def controller_away(on: Stage, app: stage.App) -> None:
    heading(
        f"Controller killed 5 s after the first canary request (20 % errors, 10 %), back after 60 s, {PEERS_RATE}/s"
    )
    absence = Absence(on.controller, ABSENCE, step=1, after=timedelta(seconds=5), hard=True)
    outcome = await on.play(app, ERRORS, PEERS_RATE, absence=absence)
    away, after = absence.failed
    verdict_at = outcome.verdict_at
    header("outcome", "failed while away", "failed afterwards", "start → verdict", "start → last canary request")
    last = outcome.last_at - absence.back_at if outcome.last_at else None
    row(outcome.because, away, after, seconds(verdict_at - absence.back_at if verdict_at else None), seconds(last))


def _outcome_header() -> None:
    header(
        "new version", "requests/s", "apply → verdict", "first → last canary request", "users' requests that failed",
        "of all", "requests it answered", "verdict → route write", "reason",
    )  # fmt: skip


def _outcome_row(o: Outcome) -> None:
    row(
        o.fault.title, o.rate, seconds(o.verdict_at - o.applied_at if o.verdict_at else None), seconds(o.exposed),
        o.users.failed, f"{o.users.failed / o.users.sent:.2%}", o.users.by_version.get(o.version, 0),
        milliseconds(o.first_write), o.because,
    )  # fmt: skip


async def slowly_scraped(every: timedelta) -> None:
    heading(f"As shipped, scraped every {every.total_seconds():.0f} s")
    with Bed(Options(scrape_interval=every)) as bed:
        on = Stage(bed, bake=timedelta(minutes=5))
        app = on.app("shop")
        await asyncio.sleep(2 * every.total_seconds())  # stable has a past
        _outcome_header()
        for rate in RATES:
            _outcome_row(await on.play(app, ERRORS, rate))
        on.controller.stop()


async def run(*, quick: bool) -> None:
    began = datetime.now(UTC)
    say("# Time to safety\n")
    with Bed(Options(scrape_interval=SCRAPES)) as bed:
        machine(bed)
        on = Stage(bed)
        app = on.app("shop")
        say(f"- {REPLICAS} replicas, steps 10/50/100, Prometheus scrapes every 2 s, Serin measures every 5 s (default)")
        say("- users' requests evenly spaced, the faulty share of the answers exact: there is no seed")
        if quick:
            await faults(on, app, [PEERS_RATE])
        else:
            await healthy(on, app)
            await prometheus_away(on, app)
            await controller_away(on, app)
            shipped = await faults(on, app, [*RATES, PEERS_RATE])
            await limits_alone(on, shipped)
        on.controller.stop()
    for every in () if quick else SLOW_SCRAPES:
        await slowly_scraped(every)
    took = datetime.now(UTC) - began
    say(f"\nIt took {took / timedelta(minutes=1):.1f} min; load average {os.getloadavg()[0]:.1f} after the last case.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"as shipped, at {PEERS_RATE}/s alone: under 5 minutes")
    arguments = parser.parse_args()
    namespace.enter()
    asyncio.run(run(quick=arguments.quick))


if __name__ == "__main__":
    main()
