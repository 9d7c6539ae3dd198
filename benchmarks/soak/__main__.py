"""The long run: workloads under changes, faults and kills at random from a seed, and what has to hold all the time.

    uv run python -m benchmarks.soak [--minutes 30] [--workloads 20] [--seed N] [--plan]

Looked at: the laws (testbed/laws.py) over every version of every object, the end of each change, every failed request,
the audit trail, what is left behind; and of the controller's process memory, tasks and sockets. Ends with 1 when
something of it does not hold. `--plan` prints what would be done.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from benchmarks.meter import heading, machine, say
from benchmarks.soak.figures import Failed, exposures, failures
from benchmarks.soak.life import Life, weather
from benchmarks.soak.plan import Plan, make
from benchmarks.soak.play import Ground, Team
from benchmarks.soak.report import Seen, judge, left_behind, told
from testbed import namespace, stage
from testbed.bed import Bed
from testbed.history import Recorder
from testbed.load import Load, total
from testbed.process import Process
from testbed.proxy import Proxy, Thread, kubeconfig

RATE = 10.0
"""Requests a second to each Deployment with a route."""
BAKE = timedelta(seconds=12)
POLICY: dict[str, Any] = {
    "minRequests": 5,
    **stage.LIMITS,
    "health": {"restartsMax": 1, "notReadyMax": "20s", "progressDeadline": "90s"},
    "drainMax": "5s",
}
"""The process's, an order of magnitude faster; statistics as shipped."""
SETTINGS: dict[str, Any] = {
    "SERIN_MEASURE_INTERVAL": "2s",
    "SERIN_PROMETHEUS_TIMEOUT": "4s",
    "SERIN_WORKERS": "8",
    "SERIN_LEASE_DURATION": "12s",
    "SERIN_LEASE_RENEW_DEADLINE": "9s",
    "SERIN_LEASE_RETRY": "1s",
}


async def play(plan: Plan, ground: Ground, teams: Sequence[Team], life: Life, api: Proxy, prometheus: Proxy) -> Seen:
    seen = Seen()
    life.process.start()
    async with _beside(life.keep()):
        await life.leads()
        seen.began = await life.idle()
        say(f"- idle in the beginning: {told(seen.began)}")
        began = time.monotonic()

        async def until(moment: timedelta) -> None:
            await asyncio.sleep(max(0.0, began + moment.total_seconds() - time.monotonic()))

        ground.working.set()
        working = [asyncio.create_task(team.work()) for team in teams]
        storm = weather(ground, life, api, prometheus, plan, seen.happened)
        async with _beside(life.watch(), storm):
            await until(plan.halfway)
            await ground.rest()
            seen.middle, seen.first, seen.by_then = await life.idle(), await life.census(), len(ground.played)
            say(f"- at rest after {seen.by_then} turns: {told(seen.middle)}, {seen.first.blocks} blocks")
            ground.working.set()
            await until(plan.end)
            await ground.rest()
            ground.over = True
            ground.working.set()
            await asyncio.gather(*working)
            await asyncio.gather(*(team.put_stable_back() for team in teams))
        seen.end, seen.last = await life.idle(), await life.census()
        say(f"- at rest after {len(ground.played)} turns: {told(seen.end)}, {seen.last.blocks} blocks")
        seen.left = await asyncio.to_thread(left_behind, ground, teams)
    return seen


@asynccontextmanager
async def _beside(*work: Any) -> AsyncIterator[None]:
    """While the block runs; what fails there fails the block."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def run(plan: Plan, bed: Bed) -> list[str]:
    stage.install(bed)
    for kind, approval in (("standard", {}), ("normal", {"approval": {"required": 2}}), ("emergency", {})):
        bed.apply(stage.policy(kind, bakes=[BAKE] * 3, **{**POLICY, **approval}))
    with ExitStack() as stack:
        thread = Thread()
        stack.callback(thread.close)
        config = yaml.safe_load(bed.kubeconfig().read_text())
        api = stack.enter_context(thread.in_front_of(config["clusters"][0]["cluster"]["server"]))
        prometheus = stack.enter_context(thread.in_front_of(bed.prometheus_url))
        path = kubeconfig(bed.directory / "serin.kubeconfig", api.url, config["users"][0]["user"])
        census = bed.directory / "census.json"
        usual = stage.controller(bed, KUBECONFIG=str(path), SERIN_PROMETHEUS_URL=prometheus.url, **SETTINGS)
        counted = [sys.executable, "-m", "benchmarks.soak.counted"]
        process = Process("serin", counted, usual.log, env={**usual.environment, "SERIN_CENSUS": str(census)})
        recorder = Recorder(bed)
        stack.callback(recorder.close)
        ground = Ground(bed, recorder)
        stack.callback(ground.close)
        teams = [Team(ground, workload) for workload in plan.workloads]
        await asyncio.to_thread(_set_up, bed, teams)
        life = Life(bed, process, census)
        async with AsyncExitStack() as users:
            loads = {app.name: await bed.load(app.host, rps=RATE) for team in teams for app in team.apps if app.routed}
            for load in loads.values():
                users.push_async_callback(load.stop)
            seen = await play(plan, ground, teams, life, api, prometheus)
        process.stop()
        failed = _failed(ground, loads)
        counts = total(second for load in loads.values() for second in load.seconds)
        say(f"- {counts.sent} requests, {counts.failed} failed")
        return judge(ground, teams, life, seen, failed)


def _set_up(bed: Bed, teams: Sequence[Team]) -> None:
    names = sorted({team.namespace for team in teams})
    bed.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names))
    for team in teams:
        team.apps[0].apply(*team.begins_with())
    for team in teams:
        for app in team.apps:
            bed.kubectl("rollout", "status", f"deployment/{app.name}", "-n", app.namespace, "--timeout=180s")


def _failed(ground: Ground, loads: dict[str, Load]) -> list[Failed]:
    found: list[Failed] = []
    for name, load in loads.items():
        played = [p for p in ground.played if name in p.deployments]
        where = played[0].namespace if played else ""
        exposed = exposures(ground.recorder.history([where]), name, datetime.now(UTC))
        found += failures(name, ((s.ended_at, s) for s in load.seconds), played, exposed)
    return found


def show(plan: Plan) -> None:
    for workload in plan.workloads:
        turns = ", ".join(map(str, workload.turns))
        say(f"{'+'.join(workload.names)} ({workload.namespace}, {workload.shape}, {workload.replicas} pods): {turns}")
    for happening in plan.platform:
        say(str(happening))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workloads", type=int, default=20, help="Deployments")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plan", action="store_true", help="print what would be done, and do nothing")
    arguments = parser.parse_args()
    plan = make(arguments.seed, timedelta(minutes=arguments.minutes), arguments.workloads)
    if arguments.plan:
        return show(plan)
    began = time.monotonic()
    namespace.enter()
    say("# The long run\n")
    shapes = Counter(workload.shape.value for workload in plan.workloads)
    say(f"- seed {plan.seed}, {arguments.minutes:g} minutes, {arguments.workloads} Deployments")
    say(f"- {', '.join(f'{n} {shape}' for shape, n in shapes.items())}; {RATE:g} requests/s to each with a route")
    with Bed() as bed:
        machine(bed)
        wrong = asyncio.run(run(plan, bed))
    heading("What does not hold")
    say("\n".join(wrong) or "nothing")
    say(f"\nIt took {(time.monotonic() - began) / 60:.1f} min; load average {os.getloadavg()[0]:.1f} in the end.")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
