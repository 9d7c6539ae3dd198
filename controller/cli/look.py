"""`status`, `list`, `wait`, `new-id`: what the changes are doing."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from controller.cli.exits import Exit, exit_of
from controller.cli.journey import history, journey
from controller.cli.listing import listing
from controller.cli.options import LIST_WIDTH, ChangeID, Where, command, console, duration, now
from controller.core.change import next_id, printable
from controller.core.model import Change, State
from controller.core.policy import Policy

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

TICK = timedelta(seconds=1)


def register(app: typer.Typer) -> None:
    command(app)(status)
    command(app, "list")(list_)
    command(app)(wait)
    command(app, "new-id")(new_id)


async def status(
    where: Where,
    change: ChangeID,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show the journey until it ends.")] = False,
) -> Exit:
    """Show the journey of a change: steps, evidence, history, and what it waits for.

    Exit codes: 0 completed; 3 rolled back; 4 denied; 5 it waits, or is under way; 6 it is held until somebody mends or
    resumes it; 1 superseded, there is no such change, or the cluster cannot be read.
    """
    out = console()
    async with where.connect() as cluster:
        found = await cluster.find(change)
        policy = await cluster.policy(found)
        updates = cluster.follow(found)
        seen, state = await anext(updates)
        if not watch:
            out.print(journey(seen, state, policy, now()))
        elif out.is_terminal:
            state = await _show_live(out, seen, state, policy, updates)
        else:
            state = await _show_lines(out, seen, state, policy, updates)
    return exit_of(state)


async def _show_live(
    out: Console, change: Change, state: State, policy: Policy | None, updates: AsyncIterator[tuple[Change, State]]
) -> State:
    """The whole page, every second anew: countdowns move while nothing is written. The last stays on screen."""
    coming = asyncio.ensure_future(anext(updates))
    try:
        with Live(console=out, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            while True:
                live.update(journey(change, state, policy, now()), refresh=True)
                if state.phase.terminal:
                    return state
                await asyncio.wait((coming,), timeout=TICK.total_seconds())
                if coming.done():
                    change, state = coming.result()
                    coming = asyncio.ensure_future(anext(updates))
    finally:
        coming.cancel()
        out.print(journey(change, state, policy, now()))


async def _show_lines(
    out: Console, change: Change, state: State, policy: Policy | None, updates: AsyncIterator[tuple[Change, State]]
) -> State:
    """For pipelines: the page once, then a line for each thing that happens."""
    out.print(journey(change, state, policy, now()))
    while not state.phase.terminal:
        before = state
        change, state = await anext(updates)
        seen = {record.at for record in before.history}
        if new := [record for record in state.history if record.at not in seen]:
            out.print(history(new, now()))
        elif state.reason != before.reason:
            out.print(printable(f"  {now():%H:%M:%S}  {state.reason}: {state.message}", 1000), markup=False)
    return state


async def list_(where: Where) -> Exit:
    """List changes, oldest first.

    Exit codes: 0 listed; 1 the cluster cannot be read.
    """
    async with where.connect() as cluster:
        if known := await cluster.changes():
            Console(highlight=False, width=LIST_WIDTH).print(listing(known, now(), everywhere=where.everywhere))
        else:
            place = "" if where.everywhere else f" in namespace {cluster.namespace}; of all: kubectl serin list -A"
            typer.echo(f"No changes{place}")
    return Exit.DONE


async def wait(
    where: Where,
    change: ChangeID,
    within: Annotated[
        str, typer.Option("--timeout", help="Longest wait, like 90s or 1h30m; without end when absent.")
    ] = "",
) -> Exit:
    """Wait until a change has ended.

    Exit codes: 0 completed; 3 rolled back; 4 denied; 124 the time is up; 1 superseded, deleted, or it cannot be read.
    """
    limit = duration(within, "--timeout") if within else None
    async with where.connect() as cluster:
        return await end_of(cluster, await cluster.find(change), limit)


async def end_of(cluster: "Cluster", change: Change, limit: timedelta | None) -> Exit:
    """How the change ended, and it is said; TIMED_OUT when it has not within `limit`."""
    said = "it has not been seen yet"
    try:
        async with asyncio.timeout(limit.total_seconds() if limit else None):
            async for seen, state in cluster.follow(change):
                said = printable(f"{seen.change_id} is {state.phase}: {state.message or state.reason}", 1000)
                if state.phase.terminal:
                    console(wide=True).print(said, markup=False)
                    return exit_of(state)
    except TimeoutError:
        console(wide=True, stderr=True).print(f"time is up; {said}", markup=False)
    return Exit.TIMED_OUT


async def new_id(where: Where) -> Exit:
    """Print the next free change ID of today (UTC).

    Exit codes: 0 printed; 1 the cluster cannot be read.
    """
    async with where.connect() as cluster:
        typer.echo(next_id(now().date(), await cluster.taken_ids()))
    return Exit.DONE
