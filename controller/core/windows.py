"""When a change may start: openings that recur, less freezes. Pure: the time is a parameter."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from heapq import merge
from zoneinfo import ZoneInfo

from controller.core.codec import FieldError, format_duration, format_moment
from controller.core.recurrence import DURATION_MAX, Recurrence, check_recurrence, check_text, spans

HORIZON = timedelta(days=731)
"""How far ahead an opening is looked for."""
FREEZE_MAX = timedelta(days=366)
RECURRENCES_MAX = 10
FREEZES_MAX = 50
FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of an opening that no window bounds."""


class OnClose(StrEnum):
    FINISH = "finish"
    HOLD = "hold"
    ROLL_BACK = "rollBack"


@dataclass(frozen=True)
class Freeze:
    """No change starts `from` a moment `until` another, or in `every` recurrence: one of the two."""

    reason: str
    owner: str
    from_: datetime | None = None
    until: datetime | None = None
    every: Recurrence | None = None


@dataclass(frozen=True)
class Window:
    """When changes of a type may start; without `opens`, at any time that is not frozen."""

    opens: tuple[Recurrence, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    on_close: OnClose = OnClose.FINISH


@dataclass(frozen=True)
class Opening:
    """From `start` until just before `end`, UTC, with nothing frozen in between."""

    start: datetime
    end: datetime
    name: str = "any time"
    zone: str = "UTC"


@dataclass(frozen=True)
class Closure:
    """A freeze, from `start` until just before `end`, UTC."""

    start: datetime
    end: datetime
    freeze: Freeze


@dataclass(frozen=True)
class Timing:
    """Whether a change may start now; else the reason, and what people are to read.

    `opening` is the first in which it can run from start to finish, `start_at` the first moment in it at which it may
    start; `closure` is the freeze in force now.
    """

    may_start: bool
    reason: str
    message: str
    opening: Opening | None = None
    start_at: datetime | None = None
    closure: Closure | None = None


# --- What is asked ---


def timing(window: Window, now: datetime, needs: timedelta, not_before: datetime | None = None) -> Timing:
    """Whether a change that takes `needs` may start now, else when. What holds for long is told in the same words.

    Reasons: NotBefore, Frozen, OutsideWindow (closed, or too little time left in it), NoOpening (none is long enough).
    """
    asked_at = max(now, not_before or now)
    closure = freeze_at(window, now)
    opening = None if asked_at - now > HORIZON else opening_for(window, asked_at, needs)
    if opening is None:
        return Timing(False, "NoOpening", _no_opening(window, now, asked_at, needs), closure=closure)
    start_at = max(opening.start, asked_at)
    then = f"next opening: {opening_text(opening)}"
    if asked_at > now:
        text = f"not before {moment_text(asked_at, opening.zone)}, as asked for; {then}"
        return Timing(False, "NotBefore", text, opening, start_at, closure)
    if closure:
        return Timing(False, "Frozen", f"{closure_text(closure, opening.zone)}; {then}", opening, start_at, closure)
    if start_at > now:
        here = opening_at(window, now)
        why = f"what starts now has to be done by {moment_text(here.end, here.zone)}" if here else "no window is open"
        return Timing(False, "OutsideWindow", f"{why}; this needs {format_duration(needs)}; {then}", opening, start_at)
    end = "" if opening.end == FOREVER else f", which ends at {moment_text(opening.end, opening.zone)}"
    return Timing(True, "", f"it may start: {opening.name}{end}", opening, start_at)


def opening_for(window: Window, after: datetime, needs: timedelta) -> Opening | None:
    """The first opening in which a change can start at `after` or later and run for `needs`; None within HORIZON."""
    return next((o for o in openings(window, after) if max(o.start, after) + needs <= o.end), None)


def openings(window: Window, after: datetime) -> Iterator[Opening]:
    """The openings that end later than `after`, in order, for HORIZON; freezes are cut out. The first may be open."""
    until = after + HORIZON
    if window.opens:
        found = _joined(merge(*(_openings(r, after, until) for r in window.opens), key=lambda opening: opening.start))
    else:
        found = iter((Opening(after, FOREVER),))
    frozen = closures(window, after - DURATION_MAX, until)
    return (o for o in _without(found, frozen) if o.end > after and o.start < until)


def opening_at(window: Window, moment: datetime) -> Opening | None:
    """The opening that `moment` is in."""
    first = next(openings(window, moment), None)
    return first if first and first.start <= moment else None


def closures(window: Window, after: datetime, until: datetime) -> Iterator[Closure]:
    """The freezes that end later than `after` and start before `until`, by their start."""
    return merge(*(_closures(freeze, after, until) for freeze in window.freezes), key=lambda closure: closure.start)


def freeze_at(window: Window, moment: datetime) -> Closure | None:
    """The freeze that `moment` is in; of several, the one that ends last."""
    found = closures(window, moment, moment + timedelta(microseconds=1))
    return max(found, key=lambda closure: closure.end, default=None)


# --- For people ---


def moment_text(moment: datetime, zone: str) -> str:
    """`Sun 2026-04-05 02:00 AEDT (Sat 2026-04-04 15:00 UTC)`: the wall's time and UTC."""
    local, utc = moment.astimezone(ZoneInfo(zone)), moment.astimezone(UTC)
    if zone == "UTC":
        return f"{utc:%a %Y-%m-%d %H:%M} UTC"
    day = "" if local.date() == utc.date() else f"{utc:%a %Y-%m-%d} "
    return f"{local:%a %Y-%m-%d %H:%M %Z} ({day}{utc:%H:%M} UTC)"


def local_span(start: datetime, end: datetime, zone: str, said: date | None = None) -> str:
    """`Sun 2026-04-05 02:00 AEDT to 04:00 AEST`; the first day is left out when it is the one that was `said`."""
    start, end = start.astimezone(ZoneInfo(zone)), end.astimezone(ZoneInfo(zone))
    day = "" if start.date() == said else f"{start:%a %Y-%m-%d} "
    until = "" if end.date() == start.date() else f"{end:%a %Y-%m-%d} "
    name = "" if start.tzname() == end.tzname() else f" {start:%Z}"
    return f"{day}{start:%H:%M}{name} to {until}{end:%H:%M %Z}"


def span_text(start: datetime, end: datetime, zone: str) -> str:
    """The wall's time, and UTC."""
    local = local_span(start, end, zone)
    day = start.astimezone(ZoneInfo(zone)).date()
    return local if zone == "UTC" else f"{local} ({local_span(start, end, 'UTC', day)})"


def clocks_change(opening: Opening) -> bool:
    """The wall's clock is put forward or back in it, or at its start: it lasts another time than its window says."""
    zone, moment = ZoneInfo(opening.zone), timedelta(microseconds=1)
    before, last = ((end - moment).astimezone(zone) for end in (opening.start, opening.end))
    return opening.end != FOREVER and before.utcoffset() != last.utcoffset()


def opening_text(opening: Opening) -> str:
    if opening.end == FOREVER:
        return f"{opening.name} from {moment_text(opening.start, opening.zone)} on"
    return f"{opening.name}, {span_text(opening.start, opening.end, opening.zone)}"


def closure_text(closure: Closure, zone: str) -> str:
    freeze = closure.freeze
    until = moment_text(closure.end, freeze.every.zone if freeze.every else zone)
    return f"frozen until {until} by {freeze.owner}: {freeze.reason}"


def _no_opening(window: Window, now: datetime, asked_at: datetime, needs: timedelta) -> str:
    if asked_at - now > HORIZON:
        return f"it is not to start before {asked_at:%Y-%m-%d}: name a day of the next two years"
    longest = max((o.end - max(o.start, asked_at) for o in openings(window, asked_at)), default=timedelta())
    found = f"the longest lasts {format_duration(longest)}" if longest else "there is none"
    why = f"no opening of the next two years has the {format_duration(needs)} that this needs; {found}"
    return f"{why}: widen spec.window of the ChangePolicy or shorten its bakes"


# --- Openings and freezes as spans of time ---


def _openings(recurrence: Recurrence, after: datetime, until: datetime) -> Iterator[Opening]:
    for start, end in spans(recurrence, after, until):
        yield Opening(start, end, recurrence.name, recurrence.zone)


def _joined(found: Iterable[Opening]) -> Iterator[Opening]:
    """Openings by their start, with those that overlap or touch made one."""
    last: Opening | None = None
    for opening in found:
        if last and opening.start <= last.end:
            last = replace(last, end=max(last.end, opening.end))
        else:
            if last:
                yield last
            last = opening
    if last:
        yield last


def _without(found: Iterable[Opening], frozen: Iterable[Closure]) -> Iterator[Opening]:
    """What the freezes leave of each opening; both by their start."""
    rest = iter(frozen)
    cut, thawed_at = next(rest, None), datetime.min.replace(tzinfo=UTC)
    for opening in found:
        at = max(opening.start, thawed_at)
        while cut and cut.start < opening.end:
            if cut.start > at:
                yield replace(opening, start=at, end=cut.start)
            thawed_at = max(thawed_at, cut.end)
            at = max(at, thawed_at)
            cut = next(rest, None)
        if at < opening.end:
            yield replace(opening, start=at)


def _closures(freeze: Freeze, after: datetime, until: datetime) -> Iterator[Closure]:
    if freeze.every:
        for start, end in spans(freeze.every, after, until):
            yield Closure(start, end, freeze)
    elif freeze.from_ and freeze.until and freeze.until > after and freeze.from_ < until:
        yield Closure(freeze.from_, freeze.until, freeze)


# --- Whether a window can be used ---


def check_window(window: Window, path: str = "spec.window") -> None:
    """Whether it can be used.

    Raises:
        FieldError: names the field, the value and the mend.
    """
    if len(window.opens) > RECURRENCES_MAX:
        raise FieldError(f"{path}.opens", len(window.opens), f"write at most {RECURRENCES_MAX}")
    for i, recurrence in enumerate(window.opens):
        check_recurrence(recurrence, f"{path}.opens[{i}]")
    recurring = sum(freeze.every is not None for freeze in window.freezes)
    if len(window.freezes) > FREEZES_MAX or recurring > RECURRENCES_MAX:
        mend = f"write at most {FREEZES_MAX}, of which {RECURRENCES_MAX} recur"
        raise FieldError(f"{path}.freezes", len(window.freezes), mend)
    for i, freeze in enumerate(window.freezes):
        _check_freeze(freeze, f"{path}.freezes[{i}]")


def _check_freeze(freeze: Freeze, path: str) -> None:
    check_text(freeze.reason, f"{path}.reason")
    check_text(freeze.owner, f"{path}.owner")
    if freeze.every is not None:
        if freeze.from_ or freeze.until:
            raise FieldError(f"{path}.every", freeze.every.name, "write either from and until, or every")
        check_recurrence(freeze.every, f"{path}.every")
        return
    for name, moment in (("from", freeze.from_), ("until", freeze.until)):
        if moment is None or not 2000 <= moment.year < 2200:
            mend = "write a moment with a zone, like 2026-11-23T08:00:00Z, or every"
            raise FieldError(f"{path}.{name}", moment and format_moment(moment), mend)
    if freeze.from_ and freeze.until and not timedelta() < freeze.until - freeze.from_ <= FREEZE_MAX:
        mend = "write a moment later than from, by at most 366 days: whoever needs longer says so again"
        raise FieldError(f"{path}.until", format_moment(freeze.until), mend)
