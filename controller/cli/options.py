"""What all commands share: which cluster and namespace, as kubectl has it, how they print, and how they end."""

import asyncio
import functools
import inspect
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console

from controller.cli import complete
from controller.cli.exits import Exit
from controller.core.codec import parse_duration

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

LIST_WIDTH = 250
"""A row stays a row, as kubectl does it: the terminal wraps what is too long, and grep finds it."""


class Output(StrEnum):
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True)
class Where:
    """Which cluster, and where in it; what is absent is as the kubeconfig's current context says."""

    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="The namespace; that of the context when absent.",
            autocompletion=complete.namespaces,
        ),
    ] = None
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Look in every namespace.", show_default=False)
    ] = False
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            help="Context of the kubeconfig; the current one when absent.",
            autocompletion=complete.contexts,
        ),
    ] = None
    kubeconfig: Annotated[
        str | None,
        typer.Option("--kubeconfig", help="Path of the kubeconfig; $KUBECONFIG or ~/.kube/config when absent."),
    ] = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Cluster"]:
        from controller.cli.cluster import Cluster  # a second of imports that only these commands need

        async with Cluster.connect(self) as cluster:
            yield cluster


ChangeID = Annotated[
    str, typer.Argument(metavar="CHANGE", help="Change ID, like CHG-20261123-001.", autocompletion=complete.changes)
]
Format = Annotated[Output | None, typer.Option("--output", "-o", help="How to print it.", show_default=False)]
Command = Callable[..., Coroutine[Any, Any, Exit]]


def command(app: typer.Typer, name: str | None = None) -> Callable[[Command], Command]:
    """Register `async def f(where: Where, …) -> Exit`: the options of Where come last, and the command ends with it."""

    def register(work: Command) -> Command:
        signature = inspect.signature(work, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "where"]
        shared = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for f in fields(Where)
        ]

        def run(**given: Any) -> None:
            where = Where(**{f.name: given.pop(f.name) for f in fields(Where)})
            sys.exit(asyncio.run(work(where, **given)))

        functools.update_wrapper(run, work, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        del run.__wrapped__  # type: ignore[attr-defined]  # typer would look there, and miss the options of Where
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*keywords, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
        app.command(name)(run)
        return work

    return register


# --- What is written, and what is asked ---


def console(*, wide: bool = False, stderr: bool = False) -> Console:
    """Colour on a terminal only, and never with NO_COLOR. `wide`: rows and sentences are not broken."""
    if wide:
        return Console(highlight=False, soft_wrap=True, stderr=stderr)
    return Console(highlight=False, stderr=stderr)


def dump(document: Any, output: Output) -> None:
    """As JSON or YAML, for programs."""
    if output is Output.JSON:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)


def on_terminal() -> bool:
    """There is somebody who can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def duration(text: str, option: str) -> timedelta:
    """The length of time of an option; a usage error when it is none, or nothing."""
    try:
        if (length := parse_duration(text)) > timedelta():
            return length
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r}: write a duration, like 90s, 5m or 1h30m", param_hint=f"'{option}'")


def now() -> datetime:
    return datetime.now(UTC)
