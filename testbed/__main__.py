"""serin-testbed: a real cluster made of processes, to play with. Tests and the demo use `testbed.bed` instead."""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn, Self

import typer

from testbed import build as builds
from testbed import demo
from testbed.bed import COMPONENTS, DIRECTORY_PREFIX, EVERYTHING, Bed, Options
from testbed.errors import BedError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)

Name = Annotated[str | None, typer.Argument(help="As `list` shows it; not needed while there is one only.")]
_RECORD = "bed.json"
_ENDING = timedelta(seconds=30)


@dataclass(frozen=True)
class Running:
    """A bed that an `up` keeps up."""

    directory: Path
    pid: int
    started_at: datetime
    components: tuple[str, ...]
    gateway_url: str
    prometheus_url: str

    @property
    def name(self) -> str:
        return self.directory.name.removeprefix(DIRECTORY_PREFIX)

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "admin.kubeconfig"

    @property
    def alive(self) -> bool:
        """Its process holds a lock as long as it lives."""
        try:
            with (self.directory / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    @classmethod
    def of(cls, bed: Bed) -> Self:
        components = tuple(sorted(bed.options.components))
        return cls(bed.directory, os.getpid(), datetime.now(UTC), components, bed.gateway_url, bed.prometheus_url)

    def write(self) -> None:
        content = {
            "pid": self.pid,
            "started_at": self.started_at.isoformat(),
            "components": self.components,
            "gateway_url": self.gateway_url,
            "prometheus_url": self.prometheus_url,
        }
        partial = self.directory / f"{_RECORD}.partial"
        partial.write_text(json.dumps(content))
        partial.rename(self.directory / _RECORD)

    @classmethod
    def read(cls, path: Path) -> Self:
        content = json.loads(path.read_text())
        started_at = datetime.fromisoformat(content["started_at"])
        urls = content["gateway_url"], content["prometheus_url"]
        return cls(path.parent, content["pid"], started_at, tuple(content["components"]), *urls)


@app.command()
def build() -> None:
    """Build what is not there yet (10 to 15 minutes the first time) into the cache."""
    builds.build(_report())
    typer.echo(f"everything is there; the cache is {builds.cache_directory()}")


@app.command()
def up(
    keep: Annotated[bool, typer.Option("--keep", help="Return when it is up; `down` ends it.")] = False,
    components: Annotated[
        str, typer.Option(help=f"On top of the control plane, with commas: {', '.join(sorted(COMPONENTS))}.")
    ] = ",".join(sorted(EVERYTHING)),
    kwok: Annotated[bool, typer.Option("--kwok", help="Add a node for thousands of pods without processes.")] = False,
    scrape_interval: Annotated[float, typer.Option(help="Of Prometheus, in seconds.", min=0.1)] = 2,
) -> None:
    """Bring a cluster up, and down again on Ctrl-C."""
    wanted = frozenset(filter(None, components.split(","))) | ({"kwok"} if kwok else frozenset())
    options = Options(components=wanted, scrape_interval=timedelta(seconds=scrape_interval))
    options.build(_report())
    if keep:
        _show(_up_behind())
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with Bed(options) as bed:
            running = Running.of(bed)
            running.write()
            _show(running)
            signal.pause()
    except KeyboardInterrupt:
        pass


@app.command()
def down(
    name: Name = None, everything: Annotated[bool, typer.Option("--all", help="Every bed that `list` shows.")] = False
) -> None:
    """End a cluster that `up` brought up."""
    for running in _running() if everything else [_chosen(name)]:
        process = os.pidfd_open(running.pid)
        if running.alive:  # asked after the process was pinned: its number cannot have become another's
            signal.pidfd_send_signal(process, signal.SIGTERM)
            ended, _, _ = select.select([process], [], [], _ENDING.total_seconds())
            if not ended:
                raise BedError(f"{running.name} (pid {running.pid}) has not ended")
        os.close(process)
        typer.echo(f"{running.name} is down")


@app.command("demo")
def demo_() -> None:
    """Play three changes under traffic: one completes, two are taken back. Exit code 1 when the story does not hold."""
    Options().build(_report())
    demo.main()


@app.command("list")
def list_() -> None:
    """Show the clusters that are up."""
    for running in _running():
        age = int((datetime.now(UTC) - running.started_at).total_seconds())
        typer.echo(
            f"{running.name}  pid {running.pid}  up {age} s  {','.join(running.components)}  {running.kubeconfig}"
        )


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    command: Annotated[list[str], typer.Argument(help="After `--`: the command and its arguments.")],
    name: Annotated[str | None, typer.Option(help="As `list` shows it; not needed while there is one only.")] = None,
) -> NoReturn:
    """Run a command inside a cluster's network namespace, with KUBECONFIG set and kubectl on PATH."""
    running = _chosen(name)
    entry = ["nsenter", f"--target={running.pid}", "--net"]
    if Path("/proc/self/ns/user").readlink() != Path(f"/proc/{running.pid}/ns/user").readlink():
        entry += ["--user", "--preserve-credentials"]
    tools = os.pathsep.join(str(builds.find(tool).parent) for tool in ("kubectl", "shop"))
    environment = {
        **os.environ,
        "KUBECONFIG": str(running.kubeconfig),
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "SERIN_PROMETHEUS_URL": running.prometheus_url,
        "GATEWAY_URL": running.gateway_url,
    }
    os.execvpe(entry[0], [*entry, "--", *command], environment)


def _report() -> builds.Report:
    """Progress on standard error: a line that counts on a terminal, else one line at the start and one at the end."""
    terminal = sys.stderr.isatty()

    def report(what: str, elapsed: timedelta, done: bool) -> None:
        seconds = int(elapsed.total_seconds())
        if terminal:
            typer.echo(f"\r\x1b[K{what}: {'built' if done else 'building'}, {seconds} s", err=True, nl=done)
        elif done:
            typer.echo(f"{what}: built in {seconds} s", err=True)
        elif seconds == 0:
            typer.echo(f"{what}: building …", err=True)

    return report


def _up_behind() -> Running:
    """Start the same command without --keep, in a session of its own; return when it is up."""
    command = [sys.executable, "-m", "testbed", *(argument for argument in sys.argv[1:] if argument != "--keep")]
    with tempfile.TemporaryFile("w+") as words:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, start_new_session=True
        )
        try:
            while child.poll() is None:
                for running in _running():
                    if running.pid == child.pid:
                        return running
                time.sleep(0.1)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
        words.seek(0)
        raise BedError(words.read().strip())


def _show(running: Running) -> None:
    typer.echo(f"{running.name} is up: {', '.join(('control plane', *running.components))}")
    typer.echo(f"  kubeconfig   {running.kubeconfig}   (users: *.kubeconfig beside it; logs too)")
    if "gateway" in running.components:
        typer.echo(f"  gateway      {running.gateway_url}")
    if "prometheus" in running.components:
        typer.echo(f"  Prometheus   {running.prometheus_url}")
    typer.echo("These addresses exist in its network namespace only. To run something there:")
    typer.echo(f"  serin-testbed exec --name {running.name} -- kubectl get pods -A")
    typer.echo(f"  serin-testbed exec --name {running.name} -- bash")
    typer.echo(f"To end it: serin-testbed down {running.name}")


def _running() -> list[Running]:
    """The beds of this person's `up` commands, oldest first."""
    records = Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*/{_RECORD}")
    mine = [Running.read(record) for record in records if record.stat().st_uid == os.getuid()]
    return sorted((running for running in mine if running.alive), key=lambda running: running.started_at)


def _chosen(name: str | None) -> Running:
    beds = _running()
    if name is None and len(beds) == 1:
        return beds[0]
    for running in beds:
        if running.name == name:
            return running
    there = ", ".join(running.name for running in beds) or "none (serin-testbed up --keep)"
    raise BedError(f"{f'no bed {name} is up' if name else 'name the bed'}; there are: {there}")


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    try:
        app()
    except BedError as error:
        typer.echo(f"serin-testbed: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
