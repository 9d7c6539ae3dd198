"""What the shell offers at TAB: commands and options, and of the cluster changes, Deployments, namespaces, contexts.

kubectl asks an executable `kubectl_complete-serin` with the words so far, the last of them to be completed; it wants a
line for each offer and at the end `:4`, which says that no files are meant.
"""

import asyncio
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer
from typer.completion import get_completion_inspect_parameters, shell_complete
from typer.main import get_command

if TYPE_CHECKING:
    from controller.cli.cluster import Cluster

PROGRAM, VARIABLE = "kubectl-serin", "_KUBECTL_SERIN_COMPLETE"
NO_FILES = ":4"
PATIENCE = timedelta(seconds=3)
MOST = 100


def main() -> None:
    from controller.cli.__main__ import app

    words = sys.argv[1:]
    os.environ |= {"COMP_WORDS": shlex.join([PROGRAM, *words]), "COMP_CWORD": str(len(words))}
    get_completion_inspect_parameters()  # registers the shells
    shell_complete(get_command(app), {}, PROGRAM, VARIABLE, "complete_bash")
    print(NO_FILES)


# --- What is in the cluster ---


def changes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Change IDs, the newest first."""

    async def ids(cluster: "Cluster") -> list[str]:
        return [change.change_id for change, _ in reversed(await cluster.changes())]

    return _offer(ctx, incomplete, ids)


def deployments(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(ctx, incomplete, lambda cluster: cluster.names_of_deployments())


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    return _offer(ctx, incomplete, lambda cluster: cluster.names_of_namespaces())


def contexts(ctx: typer.Context, incomplete: str) -> list[str]:
    from controller.cli.cluster import contexts_of, kubeconfigs

    try:
        return _matching(contexts_of(kubeconfigs(ctx.params.get("kubeconfig"))), incomplete)
    except Exception:
        return []


def _offer(ctx: typer.Context, incomplete: str, read: Callable[["Cluster"], Awaitable[Iterable[str]]]) -> list[str]:
    """Nothing when the cluster does not answer at once, or may not be read: nobody is told while typing."""
    import controller.cli.cluster  # noqa: F401 (a second of imports that is not the cluster's)
    from controller.cli.options import Where

    given: dict[str, Any] = {f.name: ctx.params.get(f.name) or f.default for f in fields(Where)}

    async def ask() -> list[str]:
        async with asyncio.timeout(PATIENCE.total_seconds()), Where(**given).connect() as cluster:
            return _matching(await read(cluster), incomplete)

    try:
        return asyncio.run(ask())
    except Exception:
        return []


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.lower().startswith(incomplete.lower())][:MOST]


if __name__ == "__main__":
    main()
