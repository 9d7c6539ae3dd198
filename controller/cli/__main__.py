"""`kubectl serin`: what the changes are doing, and what is decided about them, for people and for pipelines."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from controller.cli import ask, audit, decide, lint, look, new, review, windows
from controller.cli.exits import Exit
from controller.cli.options import console, now
from controller.core.change import printable
from controller.errors import SerinError

app = typer.Typer(
    name="kubectl serin",
    help="Canary changes of Deployments: what they do, what they wait for, whose turn it is, and what is decided.",
    epilog="Exit codes: 0 done; 1 error, and it is on stderr; 2 wrong usage; 3 rolled back; 4 denied; 5 waiting; "
    "6 held; 124 the time of a wait is up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
policy_app = typer.Typer(help="Work on ChangePolicies.", no_args_is_help=True, rich_markup_mode=None)

for family in (look, decide, review, ask, new, lint, windows, audit):
    family.register(app)
app.add_typer(policy_app, name="policy")


def main() -> None:
    try:
        app(prog_name="kubectl serin")
    except SerinError as error:
        fail(error.message)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str) -> None:
    lines = [printable(line, 1000) for line in message.splitlines()]
    console(wide=True, stderr=True).print("error: " + "\n".join(lines), markup=False)
    sys.exit(Exit.ERROR)


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

    out = console(wide=True)
    findings = [finding for path in files for finding in check(path, now())]
    for finding in findings:
        mark, style = ("ok", "green") if finding.good else ("wrong", "red")
        out.print(f"{mark:<5}", style=style, end=" ")
        out.print(printable(f"{finding.where}: {finding.text}", 1000), markup=False)
    sys.exit(Exit.DONE if all(finding.good for finding in findings) else Exit.ERROR)


if __name__ == "__main__":
    main()
