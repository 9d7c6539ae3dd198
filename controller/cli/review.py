"""`review`: the post-implementation review that closes the record of a change."""

from typing import Annotated

import typer

from controller.cli.decide import Json, Yes, asked, decide
from controller.cli.exits import Exit
from controller.cli.options import ChangeID, Where, command, on_terminal
from controller.core.codec import encode
from controller.core.model import Action, Outcome, Review


def register(app: typer.Typer) -> None:
    command(app)(review)


async def review(
    where: Where,
    change: ChangeID,
    outcome: Annotated[Outcome | None, typer.Option(help="How it went.", case_sensitive=False)] = None,
    criteria: Annotated[str, typer.Option(help="Which success criteria were met, and how that was seen.")] = "",
    lessons: Annotated[str, typer.Option(help="What was learned.")] = "",
    follow_up: Annotated[list[str] | None, typer.Option(help="What is to be done, by whom; may be repeated.")] = None,
    yes: Yes = False,
) -> Exit:
    """Review a change that has ended, and close its record. Not your own. What is left out is asked for on a terminal.

    Exit codes: 0 reviewed; 1 refused, or there is no such change.
    """

    def fields() -> Json:
        found = Review(
            outcome=outcome or _outcome(),
            success_criteria=asked(criteria, "--criteria", "Which success criteria were met, and how was that seen?"),
            lessons_learned=asked(lessons, "--lessons", "What was learned?"),
            follow_ups=tuple(follow_up or _follow_ups(asking=outcome is None)),
        )
        return {"review": encode(found)}

    return await decide(where, change, Action.REVIEW, fields, yes=yes)


def _outcome() -> Outcome:
    if not on_terminal():
        raise typer.BadParameter(f"say how it went: {', '.join(Outcome)}", param_hint="'--outcome'")
    while True:
        text = str(typer.prompt(f"How did it go? ({', '.join(Outcome)})")).strip().lower()
        found = [outcome for outcome in Outcome if outcome.lower().startswith(text)]
        if text and len(found) == 1:
            return found[0]
        typer.echo(f"write one of {', '.join(Outcome)}, or its first letters")


def _follow_ups(*, asking: bool) -> list[str]:
    """One a line until an empty one; asked for when the rest is, too."""
    found: list[str] = []
    while asking and on_terminal() and (text := typer.prompt("What is to be done?", default="", show_default=False)):
        found.append(text)
    return found
