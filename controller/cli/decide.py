"""`approve`, `deny`, `promote`, `pause`, `resume`, `rollback`, `bypass`: what people decide about a change."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.decision import ASKS, decision, form_of, pointless, right
from controller.cli.exits import Exit
from controller.cli.journey import pairs
from controller.cli.look import end_of
from controller.cli.options import ChangeID, Where, command, console, duration, now, on_terminal
from controller.cli.waits import named, waiting
from controller.core.change import printable
from controller.core.decisions import BYPASS_MAX
from controller.core.model import Action, Change, State
from controller.core.policy import Policy
from controller.errors import ForbiddenError, PermanentError

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

ANSWER = timedelta(seconds=5)
"""How long the controller may take to say what it makes of a decision; it takes less than one."""
CLOCKS = timedelta(seconds=10)
"""The API server's clock may be that much behind ours."""
Json = dict[str, Any]

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
    forward_only: Annotated[bool, typer.Option("--forward-only", help="Knowing that it cannot go back.")] = False,
    expires: Annotated[str, typer.Option(help="When it is not to count any more, like 4h.")] = "",
    reason: Reason = "",
    yes: Yes = False,
    wait: Wait = False,
    within: Timeout = "",
) -> Exit:
    """Approve a change, for the revision that it is about now. Not your own.

    Exit codes: 0 approved; 1 refused, or there is no such change; with --wait as the change ends, 124 if not in time.
    """
    fields: Json = {"tests": tests, "over_budget": over_budget, "forward_only": forward_only, "reason": reason}
    if expires:
        fields["expires_at"] = now() + duration(expires, "--expires")
    return await decide(where, change, Action.APPROVE, lambda: fields, yes=yes, wait=wait, within=within)


async def deny(where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False) -> Exit:
    """Deny a change. Before its start that is its end; afterwards somebody has to take it back or accept it.

    Exit codes: 0 denied; 1 refused, or there is no such change.
    """
    return await decide(where, change, Action.DENY, lambda: why(reason), yes=yes)


async def promote(
    where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False, wait: Wait = False, within: Timeout = ""
) -> Exit:
    """Skip the bakes that are left; each step still needs its pods ready and no breach. Not your own change.

    Exit codes: 0 promoted; 1 refused, or there is no such change; with --wait as the change ends, 124 if not in time.
    """
    return await decide(where, change, Action.PROMOTE, lambda: {"reason": reason}, yes=yes, wait=wait, within=within)


async def pause(where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False) -> Exit:
    """Let a change stay where it is. A breach still rolls it back.

    Exit codes: 0 paused; 1 refused, or there is no such change.
    """
    return await decide(where, change, Action.PAUSE, lambda: why(reason), yes=yes)


async def resume(
    where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False, wait: Wait = False, within: Timeout = ""
) -> Exit:
    """Let a paused change go on.

    Exit codes: 0 resumed; 1 refused, or there is no such change; with --wait as the change ends, 124 if not in time.
    """
    return await decide(where, change, Action.RESUME, lambda: {"reason": reason}, yes=yes, wait=wait, within=within)


async def rollback(
    where: Where, change: ChangeID, reason: Reason = "", yes: Yes = False, wait: Wait = False, within: Timeout = ""
) -> Exit:
    """Send the traffic back to stable, now. No gate and no window holds it.

    Exit codes: 0 asked for; 1 refused, or there is no such change; with --wait 3 when it is rolled back, 124 if not
    in time.
    """
    return await decide(where, change, Action.ROLLBACK, lambda: why(reason), yes=yes, wait=wait, within=within)


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

    def fields() -> Json:
        return {**why(reason), "expires_at": now() + min(length, BYPASS_MAX - CLOCKS)}

    return await decide(where, change, Action.BYPASS, fields, yes=yes, wait=wait, within=within)


def asked(text: str, option: str = "--reason", question: str = "Why?") -> str:
    """What has to be said; asked for on a terminal when it was left out."""
    if text.strip():
        return text.strip()
    if on_terminal():
        return str(typer.prompt(question)).strip()
    raise typer.BadParameter("say it: it is in the record for good", param_hint=f"'{option}'")


def why(reason: str) -> Json:
    return {"reason": asked(reason)}


# --- One decision ---


async def decide(
    where: Where,
    change_id: str,
    action: Action,
    fields: Callable[[], Json],
    *,
    yes: bool = False,
    wait: bool = False,
    within: str = "",
) -> Exit:
    """Show the change, ask, write the decision, say what the controller made of it and what follows.

    `fields`: of `decision`; called when the change has been shown, for it may ask.
    """
    limit = duration(within, "--timeout") if within else None
    async with where.connect() as cluster:
        change, state = await cluster.look(change_id)
        policy = await cluster.policy(change)
        if why_not := pointless(state, action, policy):
            raise PermanentError("NothingToDecide", f"no {action} of {change.change_id}: {why_not}")
        await show(cluster, change, state, policy)
        made = decision(change, state, action, **fields())
        confirm(f"{ASKS[action].question} {change.change_id}, revision {state.revision}?", yes=yes)
        stored = await write(cluster, change, action, made)
        await taken_in(cluster, change, stored)
        return await end_of(cluster, change, limit) if wait else Exit.DONE


async def show(cluster: "Cluster", change: Change, state: State, policy: Policy | None) -> None:
    """What there is to see before one decides."""
    me = await cluster.who_am_i()
    out = console()
    out.print(f"{change.change_id}  {change.type} change in namespace {change.namespace}", style="bold", markup=False)
    out.print(pairs([*form_of(change, state, policy), *_own(change, state, me)]))


def _own(change: Change, state: State, me: str) -> Iterator[tuple[str, str]]:
    yield "you are", me
    if me in (*state.requesters, change.requested_by):
        yield "note", "you asked for this change yourself: you may stop it, and not let it on"


def confirm(question: str, *, yes: bool) -> None:
    """On a terminal only: what runs without one has been asked for by whoever wrote it."""
    if not yes and on_terminal() and not typer.confirm(question):
        raise PermanentError("NotConfirmed", "nothing was written")


async def write(cluster: "Cluster", change: Change, action: Action, made: Json) -> Json:
    """Create the decision; the answer is what the API server made of it."""
    try:
        return await cluster.decide(change.namespace, made)
    except ForbiddenError as error:
        raise PermanentError(error.reason, f"{error.message}\nwhether you may: {right(change, action)}") from None


async def taken_in(cluster: "Cluster", change: Change, stored: Json) -> None:
    """Say what the controller made of the decision, and what follows; PermanentError when it does not count."""
    spec, uid = stored["spec"], stored["metadata"]["uid"]
    what = f"{spec['action']} of {change.change_id} by {spec['by']}, for revision {spec['revision']}"
    out = console(wide=True)
    try:
        async with asyncio.timeout(ANSWER.total_seconds()):
            async for seen, state in cluster.follow(change):
                ruling = next((r for r in state.decisions if r.uid == uid), None)
                if ruling and ruling.refusal:
                    raise PermanentError("DecisionRefused", f"{what}, does not count: {ruling.refusal}")
                if ruling:
                    out.print(printable(f"{what}, counts: {ASKS[ruling.action].after}", 1000), markup=False)
                    out.print(*following(seen, state), sep="\n", markup=False)
                    return
    except TimeoutError:
        out.print(printable(f"{what}, is written; the controller has not taken it in yet", 1000), markup=False)
        out.print(f"  kubectl serin status -w {named(change)}", markup=False)


def following(change: Change, state: State) -> Iterator[str]:
    """What the change is at now, and the command for whoever is next."""
    yield printable(f"  {state.phase}: {state.reason}{f', {state.message}' if state.message else ''}", 1000)
    wait = waiting(change, state, state.policy)
    yield f"  {wait.command if wait and wait.command else f'kubectl serin status -w {named(change)}'}"
