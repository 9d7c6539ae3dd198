"""`windows`: when changes may start, what is frozen, and whether a change fits."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from controller.cli.exits import Exit
from controller.cli.options import LIST_WIDTH, Format, Output, Where, command, console, dump, now
from controller.core.change import printable
from controller.core.codec import format_duration, format_moment
from controller.core.model import Change, State, Strategy
from controller.core.policy import ChangeType, Policy
from controller.core.windows import (
    FOREVER,
    HORIZON,
    Closure,
    Opening,
    clocks_change,
    closures,
    local_span,
    moment_text,
    openings,
    timing,
)

UNBOUND = "as needed: no window and no freeze binds an emergency"


def register(app: typer.Typer) -> None:
    command(app)(windows)


async def windows(
    where: Where,
    kind: Annotated[
        ChangeType | None, typer.Option("--type", help="Of this type alone; of all when absent.", show_default=False)
    ] = None,
    change: Annotated[
        str, typer.Option("--for", metavar="CHANGE", help="Whether this change fits, by its ID.", show_default=False)
    ] = "",
    count: Annotated[int, typer.Option(min=1, max=100, help="Show as many openings and freezes.")] = 5,
    output: Format = None,
) -> Exit:
    """Show when changes may start, by the clock of the window's zone and in UTC, and what is frozen.

    Exit codes: 0 shown, and no window holds back what --for names; 5 it waits for an opening; 6 it fits into none;
    1 there is no such change, no policy that can be used, or the cluster cannot be read.
    """
    async with where.connect() as cluster:
        if not change:
            kinds = [kind] if kind else list(ChangeType)
            show([Calendar(k, await cluster.usable_policy(k), now(), count) for k in kinds], None, output)
            return Exit.DONE
        found, state = await cluster.look(change)
        if found.type is None or kind not in (None, found.type):
            raise typer.BadParameter(f"{found.change_id} is of type {found.type or 'unknown'}", param_hint="'--type'")
        native = bool(state.targets) and all(t.strategy is Strategy.NATIVE for t in state.targets)
        policy = state.policy or await cluster.usable_policy(found.type)
        calendar = Calendar(found.type, policy, now(), count, canary=not native)
        fit = Fit.of(found, state, calendar)
        show([calendar], fit, output)
        return fit.exit


@dataclass(frozen=True)
class Calendar:
    """The next openings and freezes of a type, `count` of each."""

    type: ChangeType
    policy: Policy
    now: datetime
    count: int
    canary: bool = True

    @property
    def needs(self) -> timedelta:
        return self.policy.needs(canary=self.canary)

    @property
    def zone(self) -> str:
        return next((r.zone for r in self.policy.window.opens), "UTC")

    def openings(self) -> Iterator[Opening]:
        return islice(openings(self.policy.window, self.now), self.count)

    def freezes(self) -> Iterator[Closure]:
        return islice(closures(self.policy.window, self.now, self.now + HORIZON), self.count)

    def start_by(self, opening: Opening) -> datetime | None:
        """The last moment at which a change may start in it; None when it is too short."""
        latest = opening.end - self.needs
        return latest if latest >= max(opening.start, self.now) else None


@dataclass(frozen=True)
class Fit:
    """Whether a change may start, as far as windows and freezes go. `reason` is empty when nothing holds it back."""

    change_id: str
    text: str
    exit: Exit = Exit.DONE
    reason: str = ""
    start_at: datetime | None = None

    @classmethod
    def of(cls, change: Change, state: State, calendar: Calendar) -> "Fit":
        if state.phase.terminal:
            return cls(change.change_id, "it has ended")
        if state.started_at:
            ends = f", in an opening until {moment_text(state.window.end, state.window.zone)}" if state.window else ""
            return cls(change.change_id, f"it started at {moment_text(state.started_at, calendar.zone)}{ends}")
        if change.type is ChangeType.EMERGENCY:
            return cls(change.change_id, UNBOUND)
        if state.revert:
            return cls(change.change_id, "it goes back to a revision that is known: no window and no freeze binds it")
        answer = timing(calendar.policy.window, calendar.now, calendar.needs, change.not_before)
        end = Exit.DONE if answer.may_start else Exit.WAITING if answer.opening else Exit.HELD
        return cls(change.change_id, answer.message, end, answer.reason, answer.start_at)


# --- How it is shown ---


def show(calendars: list[Calendar], fit: Fit | None, output: Output | None) -> None:
    if output in (Output.JSON, Output.YAML):
        dump(document(calendars, fit), output)
        return
    out = Console(highlight=False, width=LIST_WIDTH)
    for i, calendar in enumerate(calendars):
        for part in page(calendar):
            out.print(part)
        if i + 1 < len(calendars):
            out.print()
    if fit:
        out.print()
        said = f"{fit.reason}: {fit.text}" if fit.reason else fit.text
        console(wide=True).print(printable(f"{fit.change_id}: {said}", 1000), markup=False)


def page(calendar: Calendar) -> Iterator[RenderableType]:
    """What people read of one type."""
    if calendar.type is ChangeType.EMERGENCY:
        yield Text.assemble((calendar.type, "bold"), f" changes: {UNBOUND}")
        return
    needs = format_duration(calendar.needs)
    yield Text.assemble((calendar.type, "bold"), f" changes start where they find {needs} in one piece")
    found = list(calendar.openings())
    if not found or (found[0].start == calendar.now and found[0].end == FOREVER):
        yield Text("At any time", "green") if found else Text("No opening in the next two years", "red")
    else:
        table = _table("OPEN", "UTC", "LASTS", "START BY", "WINDOW")
        for opening in found:
            table.add_row(*_row(opening, calendar))
        yield table
    if freezes := list(calendar.freezes()):
        table = _table("FROZEN", "UTC", "REASON", "OWNER")
        for closure in freezes:
            every = closure.freeze.every
            zone = every.zone if every else calendar.zone
            local, utc = _spans(closure.start, closure.end, zone)
            table.add_row(local, utc, *(Text(printable(t)) for t in (closure.freeze.reason, closure.freeze.owner)))
        yield Text()
        yield table


def _row(opening: Opening, calendar: Calendar) -> tuple[Text, ...]:
    zone, here = opening.zone, opening.start <= calendar.now
    if opening.end == FOREVER:
        return (Text(f"from {moment_text(opening.start, zone)} on"),)
    local, utc = _spans(opening.start, opening.end, zone)
    lasts = format_duration(opening.end - opening.start) + (", clocks change" if clocks_change(opening) else "")
    latest = calendar.start_by(opening)
    by = f"{latest.astimezone(ZoneInfo(zone)):%a %H:%M %Z}" if latest else "too late" if here else "too short"
    first = Text(f"{local}{' (now)' if here else ''}", "green" if here else "")
    return first, Text(utc), Text(lasts), Text(by, "" if latest else "yellow"), Text(printable(opening.name))


def _spans(start: datetime, end: datetime, zone: str) -> tuple[str, str]:
    return local_span(start, end, zone), local_span(start, end, "UTC")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=title not in ("WINDOW", "REASON", "OWNER"), overflow="fold")
    return table


def document(calendars: list[Calendar], fit: Fit | None) -> dict[str, Any]:
    """For programs: moments in UTC, and as the wall of the window's zone shows them."""
    found: dict[str, Any] = {"types": [_document(calendar) for calendar in calendars]}
    if fit:
        start_at = fit.start_at and format_moment(fit.start_at)
        found["change"] = {
            "changeId": fit.change_id,
            "heldBack": bool(fit.reason),
            "reason": fit.reason,
            "message": fit.text,
            "startAt": start_at,
        }
    return found


def _document(calendar: Calendar) -> dict[str, Any]:
    bound = calendar.type is not ChangeType.EMERGENCY
    return {
        "type": calendar.type.value,
        "bound": bound,
        "needs": format_duration(calendar.needs),
        "onClose": calendar.policy.window.on_close.value,
        "openings": [_opening(o, calendar) for o in calendar.openings()] if bound else [],
        "freezes": [_freeze(c) for c in calendar.freezes()] if bound else [],
    }


def _opening(opening: Opening, calendar: Calendar) -> dict[str, Any]:
    endless, latest = opening.end == FOREVER, calendar.start_by(opening)
    zone = ZoneInfo(opening.zone)
    return {
        "name": opening.name,
        "zone": opening.zone,
        "start": format_moment(opening.start),
        "end": None if endless else format_moment(opening.end),
        "localStart": opening.start.astimezone(zone).isoformat(),
        "localEnd": None if endless else opening.end.astimezone(zone).isoformat(),
        "startBy": format_moment(latest) if latest and not endless else None,
        "longEnough": latest is not None,
    }


def _freeze(closure: Closure) -> dict[str, Any]:
    return {
        "start": format_moment(closure.start),
        "end": format_moment(closure.end),
        "reason": closure.freeze.reason,
        "owner": closure.freeze.owner,
    }
