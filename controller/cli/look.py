"""`status`, `explain`, `list`, `wait`, `new-id`: what the changes are doing, and what they wait for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.live import Live as Page

from controller.cli.exits import Exit, exit_of
from controller.cli.journey import explanation, history, journey
from controller.cli.listing import COMMAND, CONTEXT, NAMESPACE, PLAIN, WIDE, Row, brief, listing
from controller.cli.options import (
    LIST_WIDTH,
    ChangeID,
    Format,
    Output,
    Where,
    command,
    console,
    dump,
    duration,
    now,
)
from controller.cli.waits import waiting
from controller.core.change import next_id, printable
from controller.core.codec import encode
from controller.core.model import Change, State
from controller.core.policy import Policy
from controller.errors import SerinError

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster
    from controller.cli.surroundings import Live

TICK = timedelta(seconds=1)


def register(app: typer.Typer) -> None:
    command(app)(status)
    command(app)(explain)
    command(app, "list")(list_)
    command(app)(wait)
    command(app, "new-id")(new_id)
    command(app)(doctor)


async def status(
    where: Where,
    change: ChangeID,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show the journey until it ends.")] = False,
    output: Format = None,
) -> Exit:
    """Show the journey of a change: steps, pods, evidence, decisions, history, and what it waits for.

    Exit codes: 0 completed; 3 rolled back; 4 denied; 5 it waits, or is under way; 6 it is held until somebody mends or
    resumes it; 1 superseded, there is no such change, or the cluster cannot be read.
    """
    out = console()
    async with where.connect() as cluster:
        found = await cluster.find(change)
        policy = await cluster.policy(found)
        updates = cluster.follow(found)
        seen, state = await anext(updates)
        live = await cluster.surroundings(seen, state)
        if output in (Output.JSON, Output.YAML):
            row = Row(seen, state, waiting(seen, state, state.policy or policy))
            dump({**brief(row), "status": encode(state), "live": [one.as_data() for one in live]}, output)
        elif not watch:
            out.print(journey(seen, state, policy, now(), live))
        elif out.is_terminal:
            state = await _show_live(out, cluster, Seen(seen, state, live), policy, updates)
        else:
            state = await _show_lines(out, Seen(seen, state, live), policy, updates)
    return exit_of(state)


class Seen(NamedTuple):
    change: Change
    state: State
    live: "list[Live]"


async def _show_live(
    out: Console, cluster: "Cluster", seen: Seen, policy: Policy | None, updates: AsyncIterator[tuple[Change, State]]
) -> State:
    """The whole page, every second anew: countdowns move while nothing is written. The last stays on screen."""
    change, state, live = seen
    coming = asyncio.ensure_future(anext(updates))
    looking = asyncio.ensure_future(_look_again(cluster, change, state))
    try:
        with Page(console=out, auto_refresh=False, screen=True, vertical_overflow="crop") as page:
            while True:
                page.update(journey(change, state, policy, now(), live), refresh=True)
                if state.phase.terminal:
                    return state
                await asyncio.wait((coming,), timeout=TICK.total_seconds())
                if coming.done():
                    change, state = coming.result()
                    coming = asyncio.ensure_future(anext(updates))
                if looking.done():
                    with suppress(SerinError):  # the page goes on with what was seen last
                        live = looking.result()
                    looking = asyncio.ensure_future(_look_again(cluster, change, state))
    finally:
        coming.cancel()
        looking.cancel()
        out.print(journey(change, state, policy, now(), live))


async def _look_again(cluster: "Cluster", change: Change, state: State) -> "list[Live]":
    await asyncio.sleep(2 * TICK.total_seconds())
    return await cluster.surroundings(change, state)


async def _show_lines(
    out: Console, seen: Seen, policy: Policy | None, updates: AsyncIterator[tuple[Change, State]]
) -> State:
    """For pipelines: the page once, then a line for each thing that happens."""
    change, state, live = seen
    out.print(journey(change, state, policy, now(), live))
    while not state.phase.terminal:
        before = state
        change, state = await anext(updates)
        known = {record.at for record in before.history}
        if new := [record for record in state.history if record.at not in known]:
            out.print(history(new, now()))
        elif state.reason != before.reason:
            out.print(printable(f"  {now():%H:%M:%S}  {state.reason}: {state.message}", 1000), markup=False)
    return state


async def list_(
    where: Where,
    contexts: Annotated[str, typer.Option(metavar="A,B", help="Of several contexts of the kubeconfig at once.")] = "",
    mine: Annotated[
        bool, typer.Option("--mine", "--waiting", help="What waits for me, and the command that ends it.")
    ] = False,
    output: Format = None,
) -> Exit:
    """List changes, oldest first.

    Exit codes: 0 listed; 1 a cluster cannot be read: it is named, and the others are listed.
    """
    names = [name.strip() for name in contexts.split(",") if name.strip()]
    places = [replace(where, context=name) for name in names] or [where]
    answers = await asyncio.gather(
        *(_rows(place, (place.context or "") if names else "", mine=mine) for place in places)
    )
    rows = [row for answer in answers if not isinstance(answer, SerinError) for row in answer]
    if output in (Output.JSON, Output.YAML):
        dump({"changes": [brief(row) for row in rows]}, output)
    elif rows:
        first = [*([CONTEXT] if names else []), *([NAMESPACE] if where.everywhere else [])]
        columns = [*first, *PLAIN, *(WIDE if output else ()), *([COMMAND] if mine else [])]
        Console(highlight=False, width=LIST_WIDTH).print(listing(rows, now(), columns))
    elif not any(isinstance(answer, SerinError) for answer in answers):
        place = "" if where.everywhere else f" in namespace {where.namespace or 'of the context'}"
        typer.echo(f"{'Nothing waits for you' if mine else 'No changes'}{place}; of all: kubectl serin list -A")
    for name, answer in zip(names or [where.context or ""], answers, strict=True):
        if isinstance(answer, SerinError):
            said = f"error: {f'context {name}: ' if name else ''}{answer.message}"
            console(wide=True, stderr=True).print(printable(said, 1000), markup=False)
    return Exit.ERROR if any(isinstance(answer, SerinError) for answer in answers) else Exit.DONE


async def _rows(where: Where, context: str, *, mine: bool) -> list[Row] | SerinError:
    """Of one cluster; its error, for it is not to hide the others."""
    try:
        async with where.connect() as cluster:
            known, policies = await cluster.changes(), await cluster.policies()
            rows = [
                Row(change, state, waiting(change, state, state.policy or policies.get(change.type or "")), context)
                for change, state in known
            ]
            if not mine:
                return rows
            me = await cluster.who_am_i()
            may = await asyncio.gather(*(cluster.may_end(row.change, row.state, row.wait, me) for row in rows))
            return [row for row, yes in zip(rows, may, strict=True) if yes]
    except SerinError as error:
        return error


async def explain(where: Where, change: ChangeID, output: Format = None) -> Exit:
    """Say why a change waits, for whom, until when, and the command that ends it.

    Exit codes: 0 completed; 3 rolled back; 4 denied; 5 it waits, or is under way; 6 it is held until somebody mends or
    resumes it; 1 superseded, there is no such change, or the cluster cannot be read.
    """
    async with where.connect() as cluster:
        found, state = await cluster.look(change)
        policy = await cluster.policy(found)
        wait = waiting(found, state, state.policy or policy)
        me = await cluster.who_am_i()
        may = await cluster.may_end(found, state, wait, me)
        who = await cluster.holders(wait.verb, found) if wait and wait.verb else []
    row = Row(found, state, wait)
    if output in (Output.JSON, Output.YAML):
        dump({**brief(row), "who": who, "you": {"name": me, "may": may}}, output)
    else:
        console().print(explanation(found, state, wait, me, now(), may=may, who=who))
    return exit_of(state)


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


async def doctor(where: Where, output: Format = None) -> Exit:
    """Look whether all that Serin needs is there, and say how to mend what is not.

    The API server, the kinds, the admission policies, the ChangePolicies, the controller and its rights, Prometheus,
    routes, and Deployments that are not held as their label promises (of the namespace, or with -A of all).

    Exit codes: 0 nothing is wrong; 1 something is, and its mend is shown, or the cluster cannot be read.
    """
    from controller.cli.doctor import Level, examine, shown  # it looks at what the controller's own parts say

    async with where.connect() as cluster:
        found = await examine(cluster)
    if output in (Output.JSON, Output.YAML):
        dump({"findings": [finding.as_data() for finding in found]}, output)
    else:
        console().print(shown(found))
    return Exit.ERROR if any(finding.level is Level.WRONG for finding in found) else Exit.DONE
