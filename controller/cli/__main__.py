"""`kubectl serin`: what the changes are doing, for people and for pipelines."""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.live import Live

from controller.cli.journey import history, journey
from controller.cli.listing import listing
from controller.core.change import next_id, printable
from controller.core.codec import parse_duration
from controller.core.model import Change, Phase, State
from controller.core.policy import Policy
from controller.errors import SerinError

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

FAILED, TIMED_OUT = 1, 2
TICK = timedelta(seconds=1)
LIST_WIDTH = 250
"""A row stays a row, as kubectl does it: the terminal wraps what is too long, and grep finds it."""
T = TypeVar("T")

app = typer.Typer(
    name="kubectl serin",
    help="Canary changes of Deployments: what they do, what they wait for, and whose turn it is.",
    epilog="Exit codes: 0 done; 1 it failed, and the reason is on stderr; 2 wrong usage, or the time of a wait is up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
policy_app = typer.Typer(help="Work on ChangePolicies.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(policy_app, name="policy")

ChangeID = Annotated[str, typer.Argument(metavar="CHANGE", help="Change ID, like CHG-20261123-001.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace of the change; that of the context when absent.")
]
Kubeconfig = Annotated[
    str | None, typer.Option(help="Path of the kubeconfig; $KUBECONFIG or ~/.kube/config when absent.")
]


def main() -> None:
    try:
        app(prog_name="kubectl serin")
    except SerinError as error:
        fail(error.message)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {printable(message, 1000)}", markup=False)
    sys.exit(FAILED)


@app.command()
def status(
    change: ChangeID,
    namespace: Namespace = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show the journey until it ends.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the journey of a change: steps, evidence, history, and what it waits for.

    Exit codes: 0 shown; 1 there is no such change, or the cluster cannot be read.
    """
    run(_status(change, namespace, kubeconfig, watch))


async def _status(change_id: str, namespace: str | None, kubeconfig: str | None, watch: bool) -> None:
    console = Console(highlight=False)
    async with AsyncExitStack() as stack:
        cluster = await connect(stack, kubeconfig, namespace)
        found = await cluster.find(change_id)
        policy = await cluster.policy(found)
        updates = cluster.follow(found)
        change, state = await anext(updates)
        if not watch:
            console.print(journey(change, state, policy, now()))
        elif console.is_terminal:
            await _show_live(console, change, state, policy, updates)
        else:
            await _show_lines(console, change, state, policy, updates)


async def _show_live(
    console: Console, change: Change, state: State, policy: Policy | None, updates: AsyncIterator[tuple[Change, State]]
) -> None:
    """The whole page, every second anew: countdowns move while nothing is written. The last stays on screen."""
    coming = asyncio.ensure_future(anext(updates))
    try:
        with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            while True:
                live.update(journey(change, state, policy, now()), refresh=True)
                if state.phase.terminal:
                    break
                await asyncio.wait((coming,), timeout=TICK.total_seconds())
                if coming.done():
                    change, state = coming.result()
                    coming = asyncio.ensure_future(anext(updates))
    finally:
        coming.cancel()
        console.print(journey(change, state, policy, now()))


async def _show_lines(
    console: Console, change: Change, state: State, policy: Policy | None, updates: AsyncIterator[tuple[Change, State]]
) -> None:
    """For pipelines: the page once, then a line for each thing that happens."""
    console.print(journey(change, state, policy, now()))
    while not state.phase.terminal:
        before = state
        change, state = await anext(updates)
        seen = {record.at for record in before.history}
        if new := [record for record in state.history if record.at not in seen]:
            console.print(history(new, now()))
        elif state.reason != before.reason:
            console.print(printable(f"  {now():%H:%M:%S}  {state.reason}: {state.message}", 1000), markup=False)


@app.command("list")
def list_(
    namespace: Namespace = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Changes of every namespace.")] = False,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List changes, oldest first.

    Exit codes: 0 listed; 1 the cluster cannot be read.
    """
    run(_list(namespace, kubeconfig, everywhere))


async def _list(namespace: str | None, kubeconfig: str | None, everywhere: bool) -> None:
    async with AsyncExitStack() as stack:
        cluster = await connect(stack, kubeconfig, namespace)
        if known := await cluster.changes(everywhere=everywhere):
            Console(highlight=False, width=LIST_WIDTH).print(listing(known, now(), everywhere=everywhere))
        else:
            where = "" if everywhere else f" in namespace {cluster.namespace}; of all: kubectl serin list -A"
            typer.echo(f"No changes{where}")


@app.command()
def wait(
    change: ChangeID,
    namespace: Namespace = None,
    timeout: Annotated[str, typer.Option(help="Longest wait, like 90s or 1h30m; without end when absent.")] = "",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait until a change has ended.

    Exit codes: 0 Completed; 1 it ended in another way, was deleted or cannot be read; 2 the time is up.
    """
    try:
        limit = parse_duration(timeout) if timeout else None
    except ValueError:
        raise typer.BadParameter(f"{timeout!r}: write a duration, like 90s, 5m or 1h30m") from None
    sys.exit(run(_wait(change, namespace, kubeconfig, limit)))


async def _wait(change_id: str, namespace: str | None, kubeconfig: str | None, limit: timedelta | None) -> int:
    console = Console(highlight=False, soft_wrap=True)
    said = "it has not been seen yet"
    try:
        async with asyncio.timeout(limit.total_seconds() if limit else None), AsyncExitStack() as stack:
            cluster = await connect(stack, kubeconfig, namespace)
            async for change, state in cluster.follow(await cluster.find(change_id)):
                said = printable(f"{change.change_id} is {state.phase}: {state.message or state.reason}", 1000)
                if state.phase.terminal:
                    console.print(said, markup=False)
                    return 0 if state.phase is Phase.COMPLETED else FAILED
    except TimeoutError:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"time is up; {said}", markup=False)
    return TIMED_OUT


@app.command("new-id")
def new_id(namespace: Namespace = None, kubeconfig: Kubeconfig = None) -> None:
    """Print the next free change ID of today (UTC).

    Exit codes: 0 printed; 1 the cluster cannot be read.
    """
    run(_new_id(namespace, kubeconfig))


async def _new_id(namespace: str | None, kubeconfig: str | None) -> None:
    async with AsyncExitStack() as stack:
        cluster = await connect(stack, kubeconfig, namespace)
        typer.echo(next_id(now().date(), await cluster.taken_ids()))


@app.command()
def version() -> None:
    """Print the version of this plugin."""
    typer.echo(version_of("serin"))


@policy_app.command("check")
def check_policies(files: Annotated[list[Path], typer.Argument(help="YAML files with ChangePolicies.")]) -> None:
    """Judge ChangePolicies in files as the controller would, without a cluster.

    Exit codes: 0 all are good; 1 one is not: the field, its value and the mend are named.
    """
    from controller.cli.policies import check

    console = Console(highlight=False, soft_wrap=True)
    findings = [finding for path in files for finding in check(path)]
    for finding in findings:
        mark, style = ("ok", "green") if finding.good else ("wrong", "red")
        console.print(f"{mark:<5}", style=style, end=" ")
        console.print(printable(f"{finding.where}: {finding.text}", 1000), markup=False)
    sys.exit(0 if all(finding.good for finding in findings) else FAILED)


async def connect(stack: AsyncExitStack, kubeconfig: str | None, namespace: str | None) -> "Cluster":
    from controller.cli.cluster import Cluster  # a second of imports that only these commands need

    return await stack.enter_async_context(Cluster.connect(kubeconfig, namespace))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
