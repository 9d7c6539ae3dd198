"""The journey of a change as text: a pure function of what is remembered and the time."""

import textwrap
from datetime import datetime

from rich.text import Text

from controller.cli.waits import waiting
from controller.core.change import printable
from controller.core.model import Change, Phase, State, Verdict
from controller.core.policy import Policy

BAR = 20
LABEL = 14
STYLES = {
    Phase.WAITING: "yellow",
    Phase.PROGRESSING: "cyan",
    Phase.PROMOTING: "cyan",
    Phase.COMPLETED: "green",
    Phase.ROLLING_BACK: "red",
    Phase.ROLLED_BACK: "red",
    Phase.SUPERSEDED: "yellow",
}
VERDICT_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}


def journey(change: Change, state: State, policy: Policy | None, now: datetime, width: int = 80) -> Text:
    """`policy`: the one of the change's type, shown until the change has started with a copy of its own."""
    page = _Page(width)
    _header(page, change, state, now)
    if steps := (state.policy or policy or _NO_STEPS).steps:
        _steps(page, state, steps, now)
    wait = waiting(change, state, policy)
    page.blank()
    if wait:
        _wait(page, wait, now)
    else:
        _outcome(page, change, state)
    if state.evidence:
        page.heading("Evidence")
        for evidence in state.evidence:
            _evidence(page, evidence, now)
    if state.history:
        page.heading("History, UTC")
        for record in state.history:
            page.line(*event(record, now), indent=clock_width(record.at, now) + 4)
    return page.text


class _Page:
    """Lines of styled text, wrapped at `width`; text from outside is made harmless here."""

    def __init__(self, width: int) -> None:
        self.text = Text()
        self._width = max(width, 40)

    def line(self, *parts: str | tuple[str, str], indent: int = 0) -> None:
        """One line; where it is too long, further ones `indent` deep."""
        styled = Text()
        for part in parts:
            content, style = part if isinstance(part, tuple) else (part, "")
            styled.append(printable(content, 1000), style)
        for i, (start, end) in enumerate(_breaks(styled.plain, self._width, indent)):
            self.text.append(" " * indent if i else "")
            self.text.append_text(styled[start:end])
            self.text.append("\n")

    def pair(self, label: str, *parts: str | tuple[str, str]) -> None:
        self.line((f"  {label:<{LABEL}}", "dim"), *parts, indent=LABEL + 2)

    def heading(self, title: str) -> None:
        self.blank()
        self.line((title, "bold"))

    def blank(self) -> None:
        self.text.append("\n")


def _breaks(plain: str, width: int, indent: int) -> list[tuple[int, int]]:
    """Where to cut a line, as (start, end)."""
    lead = len(plain) - len(plain.lstrip())
    wrapped = textwrap.wrap(
        plain[lead:], width - indent, initial_indent=" " * max(lead - indent, 0), break_on_hyphens=False, drop_whitespace=True
    )
    raise NotImplementedError(wrapped)
