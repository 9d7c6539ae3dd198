"""Changes as a table, and as data for programs. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from controller.cli.exits import exit_of
from controller.cli.journey import STYLES, length
from controller.cli.waits import Wait
from controller.core.change import printable
from controller.core.codec import format_moment
from controller.core.model import Change, State


@dataclass(frozen=True)
class Row:
    """A change, and what it waits for. `context`: that of the kubeconfig, when several are looked at."""

    change: Change
    state: State
    wait: Wait | None
    context: str = ""


Column = tuple[str, Callable[[Row, datetime], str | Text]]

CONTEXT: Column = ("CONTEXT", lambda r, now: r.context)
NAMESPACE: Column = ("NAMESPACE", lambda r, now: r.change.namespace)
PLAIN: Sequence[Column] = (
    ("CHANGE", lambda r, now: printable(r.change.change_id, 70)),
    ("TYPE", lambda r, now: r.change.type or "?"),
    ("PHASE", lambda r, now: Text(r.state.phase, STYLES[r.state.phase])),
    ("STEP", lambda r, now: f"{r.state.step}/{len(r.state.policy.steps)}" if r.state.policy and r.state.step else ""),
    ("WEIGHT", lambda r, now: f"{r.state.weight} %"),
    ("REASON", lambda r, now: printable(r.state.reason)),
    ("AGE", lambda r, now: length(now - r.change.created_at) if r.change.created_at else ""),
)
WIDE: Sequence[Column] = (
    ("REQUESTED-BY", lambda r, now: printable(r.change.requested_by)),
    ("APPROVAL", lambda r, now: printable(r.state.approval)),
    ("TURN", lambda r, now: r.wait.turn if r.wait else ""),
    ("UNTIL", lambda r, now: _left(r.wait.until, now) if r.wait and r.wait.until else ""),
    ("MESSAGE", lambda r, now: printable(r.state.message, 1000)),
)
COMMAND: Column = ("COMMAND", lambda r, now: printable(r.wait.command, 1000) if r.wait else "")


def _left(until: datetime, now: datetime) -> str:
    return f"in {length(until - now)}" if until > now else f"{length(now - until)} ago"


def listing(rows: Iterable[Row], now: datetime, columns: Sequence[Column]) -> Table:
    """One row a change."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title, _ in columns:
        table.add_column(title, no_wrap=title not in ("REASON", "MESSAGE", "COMMAND"), overflow="fold")
    for row in rows:
        table.add_row(*(value if isinstance(value := show(row, now), Text) else Text(value) for _, show in columns))
    return table


def brief(row: Row) -> dict[str, Any]:
    """What a program may want to know of a change; the names stay as they are, what is empty is left out."""
    change, state, wait = row.change, row.state, row.wait
    found = {
        "context": row.context,
        "namespace": change.namespace,
        "change": change.change_id,
        "type": str(change.type or ""),
        "phase": str(state.phase),
        "step": state.step,
        "weight": state.weight,
        "reason": state.reason,
        "message": state.message,
        "requestedBy": change.requested_by,
        "approval": state.approval,
        "deployments": [target.name for target in state.targets] or list(change.deployments),
        "revision": state.revision,
        "createdAt": format_moment(change.created_at) if change.created_at else "",
        "exit": int(exit_of(state)),
    }
    if wait:
        found["waiting"] = {
            key: value
            for key, value in {
                "for": wait.what,
                "turn": wait.turn,
                "verb": wait.verb,
                "until": format_moment(wait.until) if wait.until else "",
                "then": wait.then,
                "command": wait.command,
                "wayBack": wait.way_back,
            }.items()
            if value
        }
    return {key: value for key, value in found.items() if value not in ("", [])}
