"""Spans of time that recur: RFC 5545 days, a time on the wall's clock, a zone. Pure.

A span lasts while the clock on a wall in its zone reads a time between its start and its end: from the first moment at
which it reads the start or later, until the first moment at which it reads the end or later. So it loses what the
clock jumps over in spring, and is longer by what the clock repeats in autumn; a time that comes twice is meant the
first time. Why, and why days are not counted with python-dateutil: docs/adr/0003-windows.md.
"""

import re
from bisect import bisect_left
from calendar import isleap, monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from controller.core.codec import FieldError, format_duration

DURATION_MAX = timedelta(days=7)
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_PARTS = ("FREQ", "INTERVAL", "BYDAY", "BYMONTHDAY", "BYMONTH", "BYSETPOS", "WKST", "UNTIL")
_BYDAY = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_NUMBER = re.compile(r"[+-]?[0-9]{1,3}")


@dataclass(frozen=True)
class Recurrence:
    """`duration` of wall-clock time from `start` (HH:MM in `zone`) on every day that `rrule` names.

    `since` (YYYY-MM-DD) is the first day, and the one that an INTERVAL counts from.
    """

    name: str
    rrule: str
    start: str
    duration: timedelta
    zone: str
    since: str | None = None


def spans(recurrence: Recurrence, after: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Start and end, UTC, of the occurrences that end later than `after` and start before `until`, in order."""
    zone = ZoneInfo(recurrence.zone)
    first = (after.astimezone(zone) - recurrence.duration).date() - timedelta(days=1)
    for day in _days(recurrence, first, until.astimezone(zone).date()):
        opens = datetime.combine(day, time.fromisoformat(recurrence.start))
        start, end = _first_moment(opens, zone), _first_moment(opens + recurrence.duration, zone)
        if start < end and end > after and start < until:
            yield start, end


def _first_moment(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first moment, UTC, at which the clock on the wall reads `wall` or later."""
    moment = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # The clock jumps over it, somewhere between the two readings of it.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    seconds = range(int((moment - before).total_seconds()))
    past = bisect_left(
        seconds,
        True,
        key=lambda second: (before + timedelta(seconds=second)).astimezone(zone).replace(tzinfo=None) >= wall,
    )
    return before + timedelta(seconds=past)


# --- Days ---


@dataclass(frozen=True)
class _Rule:
    frequency: str
    interval: int
    weekdays: tuple[tuple[int, int], ...]
    """Which of them in the month or year, 0 for each, and the day of the week, Monday 0."""
    month_days: tuple[int, ...]
    months: tuple[int, ...]
    positions: tuple[int, ...]
    week_start: int
    until: date

    def period(self, day: date) -> tuple[int, date, date]:
        """The day, week, month or year that `day` is in: its number, its first day and the first of the next."""
        match self.frequency:
            case "DAILY":
                return day.toordinal(), day, day + timedelta(days=1)
            case "WEEKLY":
                first = day - timedelta(days=(day.weekday() - self.week_start) % 7)
                return first.toordinal() // 7, first, first + timedelta(days=7)
            case "MONTHLY":
                first = day.replace(day=1)
                return 12 * day.year + day.month, first, first + timedelta(days=monthrange(day.year, day.month)[1])
        return day.year, date(day.year, 1, 1), date(day.year + 1, 1, 1)

    def names(self, day: date) -> bool:
        if self.months and day.month not in self.months:
            return False
        length = monthrange(day.year, day.month)[1]
        if self.month_days and day.day not in self.month_days and day.day - length - 1 not in self.month_days:
            return False
        number, most = day.day, length
        if self.frequency == "YEARLY" and not self.months:
            number, most = day.timetuple().tm_yday, 365 + isleap(day.year)
        places = (0, (number + 6) // 7, -((most - number) // 7 + 1))
        return not self.weekdays or any(day.weekday() == wd and n in places for n, wd in self.weekdays)


def _days(recurrence: Recurrence, first: date, last: date) -> Iterator[date]:
    """The days from `first` to `last` that a checked recurrence names; it looks at each once, and at no others."""
    rule = _rule(recurrence.rrule)
    since = date.fromisoformat(recurrence.since) if recurrence.since else date.min
    first, last = max(first, since), min(last, rule.until)
    anchor = rule.period(since)[0] if recurrence.since else 0
    day = rule.period(first)[1]
    while day <= last:
        number, start, after = rule.period(day)
        if (number - anchor) % rule.interval == 0:
            named = [d for d in _range(start, after) if rule.names(d)]
            if rule.positions:
                places = {p - 1 if p > 0 else len(named) + p for p in rule.positions}
                named = [d for i, d in enumerate(named) if i in places]
            yield from (d for d in named if first <= d <= last)
        day = after


def _range(start: date, end: date) -> Iterator[date]:
    return map(date.fromordinal, range(start.toordinal(), end.toordinal()))


@lru_cache(maxsize=256)
def _rule(text: str) -> _Rule:
    """ValueError says what to write instead."""
    if len(text) > 200:
        raise ValueError("write at most 200 characters")
    parts: dict[str, str] = {}
    for part in text.upper().split(";"):
        name, _, value = part.partition("=")
        if name in ("BYHOUR", "BYMINUTE", "BYSECOND"):
            raise ValueError(f"leave out {name}: the time of day is `start`")
        if name == "COUNT":
            raise ValueError("leave out COUNT: write the last day, UNTIL=YYYYMMDD")
        if name not in _PARTS or name in parts:
            raise ValueError(f"write each part once, like FREQ=MONTHLY;BYDAY=1SU; known are {', '.join(_PARTS)}")
        parts[name] = value
    frequency = parts.get("FREQ", "")
    if frequency not in FREQUENCIES:
        raise ValueError(f"write FREQ= with one of {', '.join(FREQUENCIES)}: at most one opening a day")
    rule = _Rule(
        frequency,
        interval=next(iter(_numbers(parts, "INTERVAL", 1, 100, signed=False)), 1),
        weekdays=_weekdays(parts),
        month_days=_numbers(parts, "BYMONTHDAY", 1, 31),
        months=_numbers(parts, "BYMONTH", 1, 12, signed=False),
        positions=_numbers(parts, "BYSETPOS", 1, 366),
        week_start=_week_start(parts),
        until=_day(parts.get("UNTIL", "20991231"), "20[0-9]{6}", "write the last day, UNTIL=YYYYMMDD"),
    )
    if frequency == "WEEKLY" and (not rule.weekdays or rule.month_days):
        raise ValueError("a WEEKLY rule has BYDAY, like BYDAY=SU, and no BYMONTHDAY")
    if frequency in ("MONTHLY", "YEARLY") and not (rule.weekdays or rule.month_days):
        raise ValueError(f"say which day: a {frequency} rule has BYDAY, like BYDAY=1SU, or BYMONTHDAY")
    if frequency == "DAILY" and rule.positions:
        raise ValueError("leave out BYSETPOS: each period of a DAILY rule has one day")
    most = 0 if frequency in ("DAILY", "WEEKLY") else 53 if frequency == "YEARLY" and not rule.months else 5
    if any(abs(n) > most for n, _ in rule.weekdays):
        numbers = f"or with numbers from 1 to {most} or -1 to -{most}" if most else f"{frequency} rules have none"
        raise ValueError(f"write BYDAY without numbers, {numbers}")
    return rule


def _numbers(parts: dict[str, str], name: str, least: int, most: int, *, signed: bool = True) -> tuple[int, ...]:
    if name not in parts:
        return ()
    texts = parts[name].split(",")
    numbers = tuple(int(text) for text in texts if _NUMBER.fullmatch(text))
    good = all(least <= (abs(n) if signed else n) <= most for n in numbers)
    if len(numbers) < len(texts) or not good or (name == "INTERVAL" and len(texts) > 1):
        from_end = f", or from -{most} to -{least}, counted from the end" if signed else ""
        raise ValueError(f"write {name} from {least} to {most}{from_end}")
    return numbers


def _weekdays(parts: dict[str, str]) -> tuple[tuple[int, int], ...]:
    found = [_BYDAY.fullmatch(text) for text in parts["BYDAY"].split(",")] if "BYDAY" in parts else []
    days = tuple((int(m[1] or 0), WEEKDAYS.index(m[2])) for m in found if m)
    if len(days) < len(found) or any(m and m[1] and int(m[1]) == 0 for m in found):
        raise ValueError("write BYDAY like SU, 1SU (the first), -1SU (the last) or MO,WE")
    return days


def _week_start(parts: dict[str, str]) -> int:
    if (text := parts.get("WKST", "MO")) not in WEEKDAYS:
        raise ValueError(f"write WKST with one of {', '.join(WEEKDAYS)}")
    return WEEKDAYS.index(text)


def _day(text: str, form: str, mend: str) -> date:
    try:
        if re.fullmatch(form, text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(mend)


# --- Whether it can be used ---


def check_recurrence(recurrence: Recurrence, path: str) -> None:
    check_text(recurrence.name, f"{path}.name")
    try:
        rule = _rule(recurrence.rrule)
    except ValueError as error:
        raise FieldError(f"{path}.rrule", recurrence.rrule, str(error)) from None
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", recurrence.start):
        raise FieldError(f"{path}.start", recurrence.start, 'write the time on the wall clock, like "02:00"')
    if not timedelta(minutes=1) <= recurrence.duration <= DURATION_MAX:
        raise FieldError(f"{path}.duration", format_duration(recurrence.duration), "write a duration between 1m and 7d")
    if not _zone_exists(recurrence.zone):
        mend = "write a zone of the IANA database, like Europe/Berlin or UTC, not an abbreviation or an offset"
        raise FieldError(f"{path}.zone", recurrence.zone, mend)
    if recurrence.since is not None:
        mend = "write the first day, like 2026-11-23"
        try:
            _day(recurrence.since, "20[0-9]{2}-[0-9]{2}-[0-9]{2}", mend)
        except ValueError:
            raise FieldError(f"{path}.since", recurrence.since, mend) from None
    elif rule.interval > 1:
        raise FieldError(f"{path}.since", None, "write the day that INTERVAL counts from, like 2026-11-23")


def check_text(text: str, path: str) -> None:
    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise FieldError(path, text, "write 1 to 200 printable characters")


@lru_cache(maxsize=256)
def _zone_exists(zone: str) -> bool:
    if zone != "UTC" and ("/" not in zone or zone.startswith(("posix/", "right/"))):
        return False
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return False
    return True
