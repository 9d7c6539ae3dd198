"""Changes as a table. Pure."""

from collections.abc import Iterable
from datetime import datetime

from rich.table import Table
from rich.text import Text

from controller.cli.journey import STYLES, length
from controller.core.change import printable
from controller.core.model import Change, State


def listing(known: Iterable[tuple[Change, State]], now: datetime, *, everywhere: bool) -> Table:
    """One row a change; `everywhere` adds the namespace."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in (*(["NAMESPACE"] if everywhere else []), "CHANGE", "TYPE", "PHASE", "STEP", "WEIGHT", "REASON", "AGE"):
        table.add_column(title, no_wrap=title != "REASON", overflow="fold")
    for change, state in known:
        policy = state.policy
        step = f"{state.step}/{len(policy.steps)}" if policy and state.step else ""
        table.add_row(
            *([change.namespace] if everywhere else []),
            Text(printable(change.change_id, 70)),
            change.type or "?",
            Text(state.phase, STYLES[state.phase]),
            step,
            f"{state.weight} %",
            Text(printable(state.reason)),
            length(now - change.created_at) if change.created_at else "",
        )
    return table
