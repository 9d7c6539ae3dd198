"""`approve`, `deny`, `promote`, `pause`, `resume`, `rollback`, `bypass`: what people decide about a change."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.decision import (
    APPROVE,
    BYPASS,
    DENY,
    PAUSE,
    PROMOTE,
    RESUME,
    ROLLBACK,
    Act,
    about,
    decision,
    follow,
    form_of,
    images,
    pointless,
    right,
)
from controller.cli.exits import Exit
from controller.cli.journey import pairs
from controller.cli.look import end_of
from controller.cli.options import ChangeID, Where, command, console, duration, now, on_terminal
from controller.core.change import printable
from controller.core.model import Change, State
from controller.errors import ForbiddenError, PermanentError

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

BYPASS_MAX = timedelta(hours=4)

Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it is in the record for good.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the change has ended, and exit as it did.")]
Timeout = Annotated[str, typer.Option("--timeout", help="Longest wait, like 90s or 1h30m; then exit 124.")]


def register(app: typer.Typer) -> None:
    for work in (approve, deny, promote, pause, resume, rollback, bypass):
        command(app)(work)


async def approve(
    where: Where,
    change: ChangeID,
    tests: Annotated[str, typer.Option(help="How the tests were verified: text, or a link.")] = "",
    over_budget: Annotated[bool, typer.Option("--over-budget", help="Though stable has spent its SLO budget.")] = False,
    expires: Annotated[str, typer.Option(help="When it is not to count any more, like 4h.")] = "",
    reason: Reason = "",
    yes: Yes = False,
    wait: Wait = False,
    within: Timeout = "",
) -> Exit:
    """Approve a change, for the revision that it is about now. Not your own.

    Exit codes: 0 approved; 1 refused, or there is no such change; with --wait as the change ends, 124 if not in time.
    """
    fields: dict[str, Any] = {"tests": tests, "over_budget": over_budget}
    if expires:
        fields["expires_at"] = now() + duration(expires, "--expires")
    return await decide(where, change, APPROVE, fields, reason, yes=yes, wait=wait, within=within)


async def deny(where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False) -> Exit:
    """Deny a change. Before its start that is its end; afterwards somebody has to take it back or accept it.

    Exit codes: 0 denied; 1 refused, or there is no such change.
    """
    return await decide(where, change, DENY, {}, asked(reason), yes=yes)


async def promote(
    where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False, wait: Wait = False, within: Timeout = ""
) -> Exit:
    """Skip the bakes that are left; each step still needs its pods ready and no breach. Not your own change.

    Exit codes: 0 promoted; 1 refused, or there is no such change; with --wait as the change ends, 124 if not in time.
    """
    return await decide(where, change, PROMOTE, {}, reason, yes=yes, wait=wait, within=within)


async def pause(where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False) -> Exit:
    """Let a change stay where it is. A breach still rolls it back.

    Exit codes: 0 paused; 1 refused, or there is no such change.
    """
    return await decide(where, change, PAUSE, {}, asked(reason), yes=yes)


async def resume(
    where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False, wait: Wait = False, within: Timeout = ""
) -> Exit:
    """Let a paused change go on.

    Exit codes: 0 resumed; 1 refused, or there is no such change; with --wait as the change ends, 124 if not in time.
    """
    return await decide(where, change, RESUME, {}, reason, yes=yes, wait=wait, within=within)


async def rollback(
    where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False, wait: Wait = False, within: Timeout = ""
) -> Exit:
    """Send the traffic back to stable, now. No gate and no window holds it.

    Exit codes: 0 asked for; 1 refused, or there is no such change; with --wait 3 when it is rolled back, 124 if not
    in time.
    """
    return await decide(where, change, ROLLBACK, {}, asked(reason), yes=yes, wait=wait, within=within)


async def bypass(
    where: Where,
    change: ChangeID,
    for_: Annotated[str, typer.Option("--for", help="How long the gates stay open, at most 4h.")] = "1h",
    reason: Reason = "",
    yes: Yes = False,
    wait: Wait = False,
    within: Timeout = "",
) -> Exit:
    """Open every gate before the start, for a limited time, loudly. Not for your own change.

    Exit codes: 0 open; 1 refused, or there is no such change; with --wait as the change ends, 124 if not in time.
    """
    length = duration(for_, "--for")
    if length > BYPASS_MAX:
        raise typer.BadParameter(f"{for_!r}: gates stay open for 4h at the most", param_hint="'--for'")
    fields = {"expires_at": now() + length}
    return await decide(where, change, BYPASS, fields, asked(reason), yes=yes, wait=wait, within=within)


def asked(text: str, option: str = "--reason", question: str = "Why?") -> str:
    """What has to be said; asked for on a terminal when it was left out."""
    if text.strip():
        return text.strip()
    if on_terminal():
        return str(typer.prompt(question)).strip()
    raise typer.BadParameter("say it: it is in the record for good", param_hint=f"'{option}'")


# --- One decision ---


async def decide(
    where: Where,
    change_id: str,
    act: Act,
    fields: dict[str, Any],
    reason: str,
    *,
    yes: bool = False,
    wait: bool = False,
    within: str = "",
) -> Exit:
    """Show the change, ask, write the decision, say what follows."""
    limit = duration(within, "--timeout") if within else None
    async with where.connect() as cluster:
        change, state = await cluster.look(change_id)
        if why_not := pointless(state, act):
            raise PermanentError("NothingToDecide", f"{change.change_id} cannot be decided about: {why_not}")
        made = decision(change, state, act, reason=reason, **fields)
        await show(cluster, change, state)
        confirm(f"{act.asking} {change.change_id}, revision {about(state)}?", yes=yes)
        by = await write(cluster, change, act, made)
        console(wide=True).print(
            printable(f"{act.action} of {change.change_id} by {by}, for revision {about(state)}: {act.after}", 1000),
            markup=False,
        )
        if wait:
            return await end_of(cluster, change, limit)
        console(wide=True).print(f"  {follow(change)}", markup=False)
    return Exit.DONE


async def show(cluster: "Cluster", change: Change, state: State) -> None:
    """What there is to see before one decides."""
    policy, me, changed = await asyncio.gather(
        cluster.policy(change), cluster.who_am_i(), _images_of(cluster, change, state)
    )
    table = pairs(form_of(change, state, policy))
    out = console()
    out.print(f"{change.change_id}  {change.type} change in namespace {change.namespace}", style="bold", markup=False)
    out.print(table)
    out.print(pairs([*changed, *_own(change, me)]))


async def _images_of(cluster: "Cluster", change: Change, state: State) -> list[tuple[str, str]]:
    rows = []
    for target in state.targets:
        live = await cluster.deployment(change.namespace, target.name)
        if live:
            changes = images(target.stable_template, live["spec"]["template"])
            rows += [("image", f"{target.name}/{container}: {text}") for container, text in changes]
        else:
            rows.append(("image", f"{target.name}: you may not read this Deployment"))
    return rows


def _own(change: Change, me: str) -> Iterator[tuple[str, str]]:
    yield "you are", me
    if me == change.requested_by:
        yield "note", "you asked for this change yourself: you may stop it, and not let it on"


def confirm(question: str, *, yes: bool) -> None:
    """On a terminal only: what runs without one has been asked for by whoever wrote it."""
    if not yes and on_terminal() and not typer.confirm(question):
        raise PermanentError("NotConfirmed", "nothing was written")


async def write(cluster: "Cluster", change: Change, act: Act, made: dict[str, Any]) -> str:
    """Create the decision; the name of who made it, as the API server saw it."""
    try:
        stored = await cluster.decide(change.namespace, made)
    except ForbiddenError as error:
        raise PermanentError(error.reason, f"{error.message}\nwhether you may: {right(change, act)}") from None
    return str(stored["spec"].get("by") or await cluster.who_am_i())
