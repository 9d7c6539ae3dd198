"""`emergency`, `revert`, `retry`: the three changes that are asked for in one command, at 3 a.m."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import complete
from controller.cli.decide import ANSWER, Json, Reason, Timeout, Wait, Yes, asked, confirm, following
from controller.cli.decision import differing
from controller.cli.edits import ask_again, ask_for, way_back, with_images
from controller.cli.exits import Exit
from controller.cli.journey import pairs
from controller.cli.look import end_of
from controller.cli.options import ChangeID, Where, command, console, duration, now
from controller.core.change import check_id, next_id, printable
from controller.core.diff import differences
from controller.core.form import written
from controller.core.model import Change, Phase, State
from controller.core.policy import ChangeType
from controller.core.template import revision
from controller.errors import ConflictError, PermanentError

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

TRIES = 5
Patch = list[Json]

Name = Annotated[
    str, typer.Argument(metavar="DEPLOYMENT", help="Name of the Deployment.", autocompletion=complete.deployments)
]
NewID = Annotated[str, typer.Option("--id", help="Change ID of the new change; the next free one when absent.")]


def register(app: typer.Typer) -> None:
    for work in (emergency, revert, retry):
        command(app)(work)


async def emergency(
    where: Where,
    deployment: Name,
    image: Annotated[list[str], typer.Option(metavar="[CONTAINER=]IMAGE", help="The image to run; may be repeated.")],
    reason: Reason = "",
    id_: NewID = "",
    yes: Yes = False,
    wait: Wait = False,
    within: Timeout = "",
) -> Exit:
    """Declare an emergency change: another image, a new ID and the type, in one write. It starts at once.

    Takes the right to `declare` changetypes/emergency. The approval and the review follow it.

    Exit codes: 0 asked for; 1 refused, or there is no such Deployment; with --wait as the change ends, 124 if not in
    time.
    """
    why = asked(reason)
    async with where.connect() as cluster:
        live = await cluster.find_deployment(deployment)
        new = with_images(live["spec"]["template"], image)
        change_id = await new_id(cluster, id_)

        def patch(live: Json) -> Patch:
            return ask_for(live, change_id, with_images(live["spec"]["template"], image), ChangeType.EMERGENCY, why)

        show(live, change_id, "emergency change", why, new)
        confirm(f"Declare {change_id}?", yes=yes)
        return await ask(cluster, [live], patch, change_id, wait=wait, within=within)


async def revert(
    where: Where,
    deployment: Name,
    reason: Reason = "",
    id_: NewID = "",
    yes: Yes = False,
    wait: Wait = False,
    within: Timeout = "",
) -> Exit:
    """Go back to the revision that ran before: pre-approved, no window, short bakes.

    A template that waits or was rejected gives way to the one that runs, at once and without a record.

    Exit codes: 0 asked for; 1 refused, or there is nothing to go back to; with --wait as the change ends, 124 if not
    in time.
    """
    async with where.connect() as cluster:
        live = await cluster.find_deployment(deployment)
        name, here = live["metadata"]["name"], revision(live["spec"]["template"])
        cluster.namespace, cluster.everywhere = live["metadata"]["namespace"], False
        replica_sets, known = await asyncio.gather(cluster.replica_sets(live), cluster.changes())
        back = way_back(name, live["spec"]["template"], replica_sets, known)
        change_id = await new_id(cluster, id_)
        why = f"Revert of {back.source}" + (f": {reason}" if reason else "")

        def patch(live: Json) -> Patch:
            if revision(live["spec"]["template"]) != here:
                raise PermanentError("ChangedMeanwhile", f"{name} was given another template meanwhile: look again")
            return ask_for(live, change_id, back.template, ChangeType.NORMAL, why)

        show(live, change_id, "revert", why, back.template)
        confirm(f"Go back to revision {revision(back.template)}?", yes=yes)
        if back.runs:
            await edit(cluster, live, patch)
            console(wide=True).print(f"{name} is back at the template that runs; it is released at once", markup=False)
            return Exit.DONE
        return await ask(cluster, [live], patch, change_id, wait=wait, within=within)


async def retry(
    where: Where, change: ChangeID, id_: NewID = "", yes: Yes = False, wait: Wait = False, within: Timeout = ""
) -> Exit:
    """Run what was rolled back once more, knowingly, as a new change with all its gates.

    Exit codes: 0 asked for; 1 refused, or its template is not there any more; with --wait as the new change ends, 124
    if not in time.
    """
    async with where.connect() as cluster:
        old, state = await cluster.look(change)
        if state.phase is not Phase.ROLLED_BACK or not state.targets:
            raise PermanentError("NotRolledBack", f"{old.change_id} is {state.phase}: what was rolled back is retried")
        rows = [await deployment_of(cluster, old, state, target.name) for target in state.targets]
        change_id = await new_id(cluster, id_)

        def patch(live: Json) -> Patch:
            return ask_again(live, change_id, old.change_id)

        for live in rows:
            why = f"retry of {old.change_id}, rolled back by {state.cause}"
            show(live, change_id, why, "", live["spec"]["template"])
        confirm(f"Retry it as {change_id}?", yes=yes)
        if form := written(old.spec):
            await cluster.record(old.namespace, change_id, {"changeId": change_id, "type": old.type, **form})
        return await ask(cluster, rows, patch, change_id, wait=wait, within=within)


async def deployment_of(cluster: "Cluster", change: Change, state: State, name: str) -> Json:
    """A Deployment of a change that still has the change's template."""
    live, target = await cluster.deployment(change.namespace, name), state.target(name)
    if live is None or target is None or revision(live["spec"]["template"]) != target.revision:
        raise PermanentError(
            "TemplateGone",
            f"Deployment {name} has not the template of {change.change_id} any more: apply it under a new change ID",
        )
    return live


# --- One change ---


async def new_id(cluster: "Cluster", given: str) -> str:
    if not given:
        return next_id(now().date(), await cluster.taken_ids())
    if problem := check_id(given):
        raise PermanentError(problem.reason, f"--id: {problem.message}")
    return given


def show(live: Json, change_id: str, what: str, why: str, template: Json) -> None:
    meta, before = live["metadata"], live["spec"]["template"]
    rows = [("deployment", f"{meta['name']} in namespace {meta['namespace']}")]
    rows += [("why", why)] if why else []
    rows += differing(differences(before, template))
    old, new = revision(before), revision(template)
    rows.append(("revision", new if old == new else f"{old} → {new}"))
    out = console()
    out.print(printable(f"{change_id}  {what}", 200), style="bold", markup=False)
    out.print(pairs(rows))


async def edit(cluster: "Cluster", live: Json, patch: Callable[[Json], Patch]) -> None:
    """Write the patch; a Deployment whose status moves meanwhile is read anew."""
    meta = live["metadata"]
    for _ in range(TRIES):
        try:
            await cluster.edit_deployment(live, patch(live))
            return
        except ConflictError:
            live = await cluster.deployment(meta["namespace"], meta["name"]) or live
    raise PermanentError("Conflict", f"Deployment {meta['name']} was written {TRIES} times meanwhile: try again")


async def ask(
    cluster: "Cluster", rows: list[Json], patch: Callable[[Json], Patch], change_id: str, *, wait: bool, within: str
) -> Exit:
    """Write each Deployment, and say what the controller makes of it."""
    limit = duration(within, "--timeout") if within else None
    for live in rows:
        await edit(cluster, live, patch)
    namespace, out = rows[0]["metadata"]["namespace"], console(wide=True)
    out.print(f"{change_id} is asked for", markup=False)
    known = await cluster.appears(change_id, namespace, ANSWER)
    if known is None:
        out.print(
            f"the controller has not taken it in yet\n  kubectl serin status -w {change_id} -n {namespace}",
            markup=False,
        )
        return Exit.DONE if not wait else Exit.TIMED_OUT
    out.print(*following(*known), sep="\n", markup=False)
    return await end_of(cluster, known[0], limit) if wait else Exit.DONE
