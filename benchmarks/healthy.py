"""Whether healthy changes are left alone on a bad day: incidents hit stable and canary alike, again and again.

    uv run python -m benchmarks.healthy [--rounds N] [--seed N]

Real requests through a real Envoy to several workloads side by side, each with incidents of its own: bursts of errors
and of slow answers at all of its pods. Every change is as good as what it replaces. About eight minutes.
"""

import argparse
import asyncio
import random
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from benchmarks.meter import header, heading, logged, machine, moment, row, say, seconds
from benchmarks.time_to_safety import SCRAPES, Fault, Outcome, Stage
from controller.core.compare import RULES
from testbed import namespace, stage
from testbed.bed import Bed, Options

RATES = (40, 60, 80, 100)
"""Requests a second, one workload each."""
REPLICAS = 4
BAKE = timedelta(seconds=15)
USUAL = {"error_ratio": "0.002", "latency": "0s"}
GOOD = Fault("as good as stable", {"ERROR_RATIO": USUAL["error_ratio"]})
INCIDENTS: Sequence[Mapping[str, str]] = (
    {"error_ratio": "0.05"},
    {"error_ratio": "0.02"},
    {"latency": "150ms"},
    {"error_ratio": "0.03", "latency": "40ms"},
)
QUIET, LASTS = (8.0, 20.0), (3.0, 8.0)
"""Seconds between two incidents, and of one, at random."""


class Weather:
    """Incidents of one workload until they are cancelled."""

    def __init__(self, app: stage.App, source: random.Random) -> None:
        self._app, self._random, self.incidents = app, source, 0

    async def rage(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._random.uniform(*QUIET))
                self.incidents += 1
                await self._all(self._random.choice(INCIDENTS))
                await asyncio.sleep(self._random.uniform(*LASTS))
                await self._all(USUAL)
        finally:
            await self._all(USUAL)

    async def _all(self, fault: Mapping[str, str]) -> None:
        """Every pod that there is: stable's and the canary's."""
        found = await asyncio.to_thread(self._app.bed.get, "pods", "-n", self._app.namespace)
        addresses = [ip for pod in found["items"] if (ip := pod["status"].get("podIP"))]
        await asyncio.gather(*(asyncio.to_thread(_set, address, fault) for address in addresses))


def _set(address: str, fault: Mapping[str, str]) -> None:
    request = urllib.request.Request(f"http://{address}:8080/fault?{urllib.parse.urlencode(fault)}", method="POST")
    with suppress(OSError):  # a pod that starts or ends just now
        urllib.request.urlopen(request, timeout=2).close()


async def changes(on: Stage, app: stage.App, rate: int, rounds: int, seed: int) -> list[tuple[Outcome, int]]:
    """One change after the other, each with the number of incidents in it."""
    source = random.Random(f"{seed}/{rate}")
    played = []
    for _ in range(rounds):
        weather = Weather(app, source)
        raging = asyncio.create_task(weather.rage())
        outcome = await on.play(app, GOOD, rate)
        raging.cancel()
        with suppress(asyncio.CancelledError):
            await raging
        played.append((outcome, weather.incidents))
    return played


def evidence(on: Stage, outcome: Outcome) -> Mapping[str, float]:
    """The greatest e-value that there was against the change, by rule."""
    most = dict.fromkeys(RULES, 0.0)
    for line in logged(on.controller, "judged"):
        for each in line["judgement"]["comparisons"] if line["change"] == outcome.change else ():
            most[each["rule"]] = max(most[each["rule"]], each["eValue"])
    return most


async def run(rounds: int, seed: int) -> None:
    began = datetime.now(UTC)
    say("# Healthy changes on a bad day\n")
    with Bed(Options(scrape_interval=SCRAPES)) as bed:
        machine(bed)
        say(
            f"- as shipped (standard), bakes of {seconds(BAKE, 0)}, {REPLICAS} replicas, scraped every 2 s; seed {seed}"
        )
        on = Stage(bed, BAKE)
        apps = [on.app(f"healthy-{rate}", REPLICAS, **GOOD.environment) for rate in RATES]
        every = await asyncio.gather(
            *(changes(on, app, rate, rounds, seed) for app, rate in zip(apps, RATES, strict=True))
        )
        on.controller.stop()
        _tell(on, [pair for played in every for pair in played])
    say(f"\nIt took {(datetime.now(UTC) - began) / timedelta(minutes=1):.1f} min.")


def _tell(on: Stage, found: Sequence[tuple[Outcome, int]]) -> None:
    heading(f"{len(found)} changes, each as good as stable")
    header("requests/s", "ended", "start → end", "incidents", "requests", "failed", *(f"e-value, {r}" for r in RULES))
    for outcome, count in found:
        most = evidence(on, outcome)
        lasted = moment(outcome.status["endedAt"]) - moment(outcome.status["startedAt"])
        users, shown = outcome.users, (f"{most[rule]:.2g}" for rule in RULES)
        row(outcome.rate, outcome.because, seconds(lasted), count, users.sent, users.failed, *shown)
    back = [outcome for outcome, _ in found if outcome.status["phase"] != "Completed"]
    statistics = sum(outcome.because == "WorseThanStable" for outcome in back)
    incidents = sum(count for _, count in found)
    say(f"\n{len(found)} changes, {incidents} incidents: {len(back)} went back, {statistics} of them by statistics.")
    for outcome in back:
        say(f"- {outcome.because}: {outcome.status['message']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="changes of each of the four workloads")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    namespace.enter()
    asyncio.run(run(chosen.rounds, chosen.seed))


if __name__ == "__main__":
    main()
