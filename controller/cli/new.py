"""`new`: the change-request form, filled beforehand, under the next free change ID."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.ask import TRIES, NewID, new_id
from controller.cli.exits import Exit
from controller.cli.options import Output, Where, command, console, dump, on_terminal
from controller.core.change import CHANGE_LABEL, TYPE, check_spec, object_name
from controller.core.codec import JSON
from controller.core.form import FIELDS, NAMES, Field, filled
from controller.core.policy import ChangeType
from controller.errors import AlreadyExistsError, PermanentError

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

Kind = Annotated[ChangeType | None, typer.Option("--type", help="Type of the change; normal when absent.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the ChangeRequest, for a file, and write nothing.")]


def register(app: typer.Typer) -> None:
    command(app)(new)


async def new(where: Where, kind: Kind = None, id_: NewID = "", dry_run: DryRun = False, **form: str) -> Exit:
    """Write a change request beforehand, and say what to put on the Deployment.

    What the type requires and no option gives is asked for on a terminal.

    Exit codes: 0 written; 1 refused; 2 something that the type requires is missing.
    """
    kind = kind or (_kind() if on_terminal() else ChangeType.NORMAL)
    async with where.connect() as cluster:
        policy = await cluster.usable_policy(kind)
        given = {f.name: f.normal(form[_parameter(f)]) for f in FIELDS}
        lacking = [NAMES[name] for name in policy.form.required if not given[name].strip()]
        if lacking and not on_terminal():
            options = ", ".join(f"--{f.annotation}" for f in lacking)
            raise typer.BadParameter(f"{kind} changes have to say it", param_hint=options)
        if problem := check_spec(filled(given)):
            raise typer.BadParameter(problem.message)
        given |= {f.name: _asked(f) for f in lacking}
        spec = {"type": kind.value, **filled(given)}
        if dry_run:
            change_id = await new_id(cluster, id_)
            meta = {"name": object_name(change_id), "namespace": cluster.namespace}
            made = {"apiVersion": "serin.dev/v1alpha1", "kind": "ChangeRequest", "metadata": meta}
            dump({**made, "spec": {"changeId": change_id, **spec}}, Output.YAML)
            return Exit.DONE
        change_id = await _record(cluster, id_, spec)
        _say(change_id, kind, cluster.namespace)
    return Exit.DONE


async def _record(cluster: "Cluster", given: str, spec: JSON) -> str:
    """Under the ID that is given, or under the first one that nobody else takes meanwhile."""
    for _ in range(1 if given else TRIES):
        change_id = await new_id(cluster, given)
        try:
            await cluster.record(cluster.namespace, change_id, {"changeId": change_id, **spec})
            return change_id
        except AlreadyExistsError:
            continue
    if given:
        raise PermanentError("ChangeIDTaken", f"{given} is recorded already: kubectl serin status {given}")
    raise PermanentError("Conflict", f"each of {TRIES} free change IDs was taken by somebody else meanwhile: try again")


def _say(change_id: str, kind: ChangeType, namespace: str) -> None:
    out = console(wide=True)
    out.print(
        f"{change_id} is recorded as changerequest/{object_name(change_id)} in namespace {namespace}",
        "Put this on each Deployment of the change, in the write that gives it the new template:",
        "  metadata:",
        f"    labels: {{{CHANGE_LABEL}: {change_id}}}",
        f"    annotations: {{{TYPE}: {kind}}}",
        f"and follow it: kubectl serin status -w {change_id} -n {namespace}",
        sep="\n",
        markup=False,
    )


# --- What is asked, and the options ---


def _kind() -> ChangeType:
    question = f"Which type? ({', '.join(ChangeType)})"
    return ChangeType(typer.prompt(question, ChangeType.NORMAL.value, value_proc=_kind_of))


def _kind_of(text: str) -> str:
    if text.strip().lower() not in list(ChangeType):
        raise typer.BadParameter(f"write one of {', '.join(ChangeType)}")
    return text.strip().lower()


def _asked(f: Field) -> str:
    def usable(text: str) -> str:
        if not text.strip():
            raise typer.BadParameter("it is required")
        if problem := check_spec(filled({f.name: f.normal(text)})):
            raise typer.BadParameter(problem.message)
        return f.normal(text)

    choices = f" ({', '.join(f.choices)})" if f.choices else ""
    return str(typer.prompt(f"Say {f.what}{choices}", value_proc=usable))


def _parameter(f: Field) -> str:
    return f.annotation.replace("-", "_")


def _options() -> inspect.Signature:
    """An option for each field of the form, named as its annotation."""
    own = [p for p in inspect.signature(new).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    fields = [
        inspect.Parameter(_parameter(f), inspect.Parameter.KEYWORD_ONLY, default="", annotation=_option(f))
        for f in FIELDS
    ]
    return inspect.Signature([*own, *fields])


def _option(f: Field) -> Any:
    choices = f" ({', '.join(f.choices)})" if f.choices else ""
    return Annotated[str, typer.Option(f"--{f.annotation}", help=f"{f.what[0].upper()}{f.what[1:]}{choices}.")]


new.__signature__ = _options()  # type: ignore[attr-defined]
