"""Three changes on a real cluster under real traffic: one completes, two are taken back. Every claim is checked.

The commands are those a person would type; what is printed under them is what they said.
"""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from testbed import build, namespace, stage
from testbed.bed import Bed, Options
from testbed.errors import BedError
from testbed.load import Counts, Load, total

FILES = Path("examples/demo")
NAME, HOST, RPS = "shop", "shop.example", 100
GOOD, ERRORS, CRASH = (f"CHG-20261123-00{number}" for number in (1, 2, 3))
ACT_MAX = timedelta(seconds=120)
LAST_REQUESTS = timedelta(seconds=2)
WIDTH = min(100, shutil.get_terminal_size((100, 24)).columns)

console = Console(width=WIDTH, highlight=False)

ROLLED_BACK = 3
"""The exit code of `kubectl serin status` for a change that was rolled back."""


@dataclass(frozen=True)
class Act:
    """What happened in an act, and what its users saw."""

    change: str
    version: str
    stable: str
    status: dict[str, Any]
    seen: Counts
    took: timedelta

    @property
    def cause(self) -> str:
        return str(self.status.get("cause") or self.status["phase"])

    def requests(self, version: str) -> int:
        return self.seen.by_version.get(version, 0)

    def failed(self, version: str) -> int:
        return self.seen.failed_by_version.get(version, 0)


@dataclass
class Play:
    """The stage, and what turned out to be false."""

    bed: Bed
    app: stage.App
    load: Load
    broken: list[str] = field(default_factory=list)

    def claim(self, what: str, holds: bool) -> None:
        """Say it, and whether it is true; one that is not makes the demo fail."""
        console.print(f"  [green]✔[/] {escape(what)}" if holds else f"  [bold red]✘ not so:[/] {escape(what)}")
        if not holds:
            self.broken.append(what)


def main() -> None:
    """Raises BedError when the cluster cannot be made; exits with 1 when the story does not hold."""
    namespace.enter()
    os.chdir(stage.ROOT)
    began = time.monotonic()
    broken = asyncio.run(_play())
    took = timedelta(seconds=time.monotonic() - began)
    if broken:
        console.print(f"\n[bold red]The story does not hold:[/] {escape('; '.join(broken))}")
        sys.exit(1)
    console.print(f"\n[bold green]The story holds.[/] It took {_length(took)}; its cluster is gone again.")
    console.print("To play yourself: [bold]uv run serin-testbed up --keep[/]; testbed/README.md says how.")


async def _play() -> list[str]:
    console.print("[bold]Serin: three changes of a shop, on a real cluster under real traffic[/]\n")
    console.print("etcd, kube-apiserver, kube-controller-manager, Contour with Envoy, Prometheus and a node that runs")
    console.print("pods as processes are coming up, in a network namespace of their own …")
    with Bed(Options(scrape_interval=timedelta(seconds=1))) as bed:
        console.print(f"The cluster is up after {_length(bed.started_in)}.\n")
        _install(bed)
        load = await bed.load(HOST, rps=RPS)
        try:
            await asyncio.sleep(3)
            play = Play(bed, stage.App(bed, NAME), load)
            console.print(f"Users send {RPS} requests a second through Envoy to http://{HOST}, without a pause.")
            acts = [await _healthy(play), await _erroneous(play), await _crashing(play)]
        finally:
            whole = await load.stop()
        _sum_up(acts, whole)
        return play.broken


def _install(bed: Bed) -> None:
    console.print("[bold]What the README says to install[/]")
    _type(bed, "kubectl apply --server-side -k manifests/", quiet=True)
    _type(bed, "kubectl apply --server-side -k policies/", quiet=True)
    console.print("and a policy for impatient people: bakes of 10 s where Serin ships 5 to 10 minutes")
    stage.install(bed)
    _type(bed, f"kubectl replace -f {FILES}/policy.yaml")
    console.print("the controller, out of the cluster here")
    console.print(f"  [bold]$ KUBECONFIG=… SERIN_PROMETHEUS_URL={bed.prometheus_url} uv run serin run[/]")
    stage.controller(bed).start()
    console.print("and the shop, as it was before: version v1, four pods, a Service, a route")
    _type(bed, f"kubectl apply -f {FILES}/shop.yaml")
    _type(bed, f"kubectl rollout status deployment/{NAME} -n {NAME} --timeout=60s", quiet=True)


# --- The acts ---


async def _healthy(play: Play) -> Act:
    _title("Act 1: a healthy change goes 10 % → 50 % → 100 % and completes", "v2 is a new image under a change ID")
    act = await _act(play, GOOD, "v2", "v1")
    steps = [t["weight"] for t in act.status["history"] if t["phase"] == "Progressing"]
    play.claim("it went 10 → 50 → 100 and completed", steps == [10, 50, 100] and act.status["phase"] == "Completed")
    play.claim("no request failed", act.seen.failed == 0)
    play.claim("both versions answered users meanwhile", min(act.requests("v1"), act.requests("v2")) > 0)
    play.claim("now every pod of the Deployment is v2", _images(play) == {"shop:v2"})
    _tidy(play)
    return act


async def _erroneous(play: Play) -> Act:
    _title("Act 2: a change with 20 % errors is taken back by itself", "v3 answers every fifth request with 500")
    before = _pods(play)
    act = await _act(play, ERRORS, "v3", "v2")
    back = (act.status["phase"], act.cause) == ("RolledBack", "WorseThanStable")
    play.claim("it was rolled back, for it fails far more often than stable beside it", back)
    play.claim("at 10 % of the traffic: it never got more", {t["weight"] for t in act.status["history"]} == {10, 0})
    play.claim("every request that failed was one of v3's", 0 < act.failed("v3") == act.seen.failed)
    play.claim("nine in ten users and more never met it", 0 < act.requests("v3") <= act.seen.sent * 0.12)
    play.claim("the pods of v2 are the ones from before: none was touched", _pods(play) == before)
    _tidy(play)
    return act


async def _crashing(play: Play) -> Act:
    _title("Act 3: a change that crash-loops never gets traffic", "v4 ends with an error as soon as it starts")
    before = _pods(play)
    act = await _act(play, CRASH, "v4", "v2")
    play.claim("it was rolled back for crashing", (act.status["phase"], act.cause) == ("RolledBack", "CrashLoop"))
    play.claim("v4 got no request", act.requests("v4") == 0)
    play.claim("no request failed", act.seen.failed == 0)
    play.claim("the pods of v2 are the ones from before: none was touched", _pods(play) == before)
    _tidy(play)
    return act


async def _act(play: Play, change: str, version: str, stable: str) -> Act:
    """Apply the file of this version, and tell what happens until the change has ended."""
    await asyncio.sleep(1)
    began = datetime.now(UTC)
    _type(play.bed, f"kubectl apply -f {FILES}/{version}.yaml", user="alice")
    status = await _follow(play, change, version, began)
    await asyncio.sleep(LAST_REQUESTS.total_seconds())
    took = datetime.now(UTC) - began - LAST_REQUESTS
    _type(play.bed, f"kubectl serin status {change} -n {NAME}", ends=(0, ROLLED_BACK))
    act = Act(change, version, stable, status, play.load.window(began), took)
    console.print(f"\n  {'':24}{'requests':>9}{'failed':>8}")
    for name in (stable, version):
        console.print(f"  users answered by {name:6}{act.requests(name):>9}{act.failed(name):>8}")
    console.print(f"  {'users in all':24}{act.seen.sent:>9}{act.seen.failed:>8}\n")
    return act


async def _follow(play: Play, change: str, version: str, began: datetime) -> dict[str, Any]:
    """A line for each transition of the change, with the users' requests up to then. Raises BedError."""
    console.print(f"  {'UTC':10}{'phase':24}{'weight':>6}{version + ' got':>10}{'failed':>8}  reason")
    told = 0
    deadline = time.monotonic() + ACT_MAX.total_seconds()
    while time.monotonic() < deadline:
        status = play.app.status(change)
        seen = play.load.window(began)
        for record in status.get("history", [])[told:]:
            told += 1
            where = ", ".join(filter(None, (record["phase"], record.get("stage"))))
            got = f"{seen.by_version.get(version, 0):>10}{seen.failed:>8}"
            line = f"  {record['at'][11:19]:10}{where:24}{record['weight']:>4} %{got}  {record['reason']}"
            console.print(escape(line), style=_style(record["phase"]))
        if status.get("phase") in stage.TERMINAL:
            return status
        await asyncio.sleep(0.2)
    raise BedError(f"{change} has not ended after {_length(ACT_MAX)}: {play.app.status(change)}")


def _tidy(play: Play) -> None:
    play.claim("nothing of the canary is left, and the route is as its owner wrote it", _as_before(play))


def _sum_up(acts: Sequence[Act], whole: Counts) -> None:
    console.rule("[bold]What the users saw", align="left")
    console.print(
        f"{'change':18}{'outcome':12}{'because of':12}{'took':>6}{'requests':>10}{'of canary':>11}{'failed':>8}"
    )
    for act in acts:
        share = f"{act.requests(act.version):>10}"
        because = act.cause if act.status["phase"] != "Completed" else "-"
        console.print(
            f"{act.change:18}{act.status['phase']:12}{because:12}{_length(act.took):>6}{act.seen.sent:>10}"
            f" {share}{act.seen.failed:>8}"
        )
    between = whole.failed - total(act.seen for act in acts).failed
    console.print(
        f"From first to last {whole.sent} requests, {whole.failed} failed, {between} of them between the acts."
    )


# --- What is looked at ---


def _pods(play: Play) -> dict[str, int]:
    """Pods of the Deployment itself, with their restarts."""
    found = play.bed.get("pods", "-n", NAME, "-l", f"app={NAME}")["items"]
    return {
        pod["metadata"]["name"]: sum(c["restartCount"] for c in pod["status"]["containerStatuses"]) for pod in found
    }


def _images(play: Play) -> set[str]:
    found = play.bed.get("pods", "-n", NAME, "-l", f"app={NAME}")["items"]
    return {pod["spec"]["containers"][0]["image"] for pod in found if "deletionTimestamp" not in pod["metadata"]}


def _as_before(play: Play) -> bool:
    return not play.app.leftovers() and play.app.weights() == {NAME: 1}


# --- Telling ---


def _type(bed: Bed, command: str, *, user: str = "admin", quiet: bool = False, ends: Sequence[int] = (0,)) -> None:
    """Run a command as a person would type it, and show it with what it says. Raises BedError when it fails.

    `ends`: its exit codes that are no failure.
    """
    console.print(f"  [bold]$ {escape(command)}[/]")
    path = (str(build.find("kubectl").parent), str(Path(sys.executable).parent), os.environ["PATH"])
    environment = {
        **os.environ,
        "KUBECONFIG": str(bed.kubeconfig(user)),
        "PATH": os.pathsep.join(path),
        "HOME": str(bed.directory),
        "COLUMNS": str(WIDTH - 4),
        **({"FORCE_COLOR": "1"} if console.is_terminal else {}),
    }
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in ends:
        raise BedError(f"{command} (as {user}) ended with {done.returncode}: {done.stderr.strip()}")
    if not quiet:
        for line in done.stdout.splitlines():
            sys.stdout.write(f"    {line}\n" if line else "\n")
        sys.stdout.flush()


def _title(what: str, how: str) -> None:
    console.print()
    console.rule(f"[bold]{what}", align="left")
    console.print(f"{how}: [bold]{FILES}[/]\n")


def _style(phase: str) -> str:
    return {"Completed": "green", "RollingBack": "red", "RolledBack": "red", "Superseded": "yellow"}.get(phase, "cyan")


def _length(duration: timedelta) -> str:
    seconds = round(duration.total_seconds())
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60} min {seconds % 60} s"


if __name__ == "__main__":
    try:
        main()
    except BedError as error:
        console.print(f"[bold red]serin-testbed:[/] {escape(str(error))}")
        sys.exit(1)
