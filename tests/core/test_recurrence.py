"""Days as python-dateutil counts them, spans as the clocks of the world run, and no rule that costs much."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.codec import FieldError
from controller.core.recurrence import WEEKDAYS, Recurrence, check_recurrence, spans

H = timedelta(hours=1)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def recurrence(
    rrule: str = "FREQ=MONTHLY;BYDAY=1SU",
    start: str = "02:00",
    duration: timedelta = 2 * H,
    zone: str = "UTC",
    since: str | None = None,
) -> Recurrence:
    return Recurrence("maintenance", rrule, start, duration, zone, since)


# --- Clocks that are changed (figures: F17) ---


@pytest.mark.parametrize(
    ("zone", "start", "day", "opens", "closes"),
    [
        # The clock goes back from 03:00 to 02:00: three hours lie between 02:00 and 04:00.
        ("Australia/Sydney", "02:00", date(2026, 4, 5), at(2026, 4, 4, 15), at(2026, 4, 4, 18)),
        ("Pacific/Auckland", "02:00", date(2026, 4, 5), at(2026, 4, 4, 13), at(2026, 4, 4, 16)),
        # It jumps from 02:00 to 03:00: 02:00 does not exist, and one hour is left.
        ("Australia/Sydney", "02:00", date(2026, 10, 4), at(2026, 10, 3, 16), at(2026, 10, 3, 17)),
        # So it does for a start in the middle of what is jumped over: open from 03:00 to 04:30.
        ("Australia/Sydney", "02:30", date(2026, 10, 4), at(2026, 10, 3, 16), at(2026, 10, 3, 17, 30)),
        # 01:30 comes twice: the first time is meant, as a start and as an end.
        ("America/New_York", "01:30", date(2026, 11, 1), at(2026, 11, 1, 5, 30), at(2026, 11, 1, 8, 30)),
        ("America/New_York", "23:30", date(2026, 10, 31), at(2026, 11, 1, 3, 30), at(2026, 11, 1, 5, 30)),
        # Half an hour back, from 02:00 to 01:30.
        ("Australia/Lord_Howe", "01:00", date(2026, 4, 5), at(2026, 4, 4, 14), at(2026, 4, 4, 16, 30)),
        ("Europe/Berlin", "02:00", date(2026, 12, 6), at(2026, 12, 6, 1), at(2026, 12, 6, 3)),
    ],
)
def test_a_span_lasts_while_the_wall_clock_reads_between_its_start_and_its_end(
    zone: str, start: str, day: date, opens: datetime, closes: datetime
) -> None:
    rule = f"FREQ=YEARLY;BYMONTH={day.month};BYMONTHDAY={day.day}"
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    found = list(spans(recurrence(rule, start, zone=zone), noon - 40 * H, noon + 40 * H))
    assert found == [(opens, closes)]


@pytest.mark.parametrize(("start", "minutes"), [("02:00", 60), ("02:15", 30)])
def test_what_lies_in_the_hour_that_is_jumped_over_does_not_happen(start: str, minutes: int) -> None:
    jumped = recurrence("FREQ=DAILY", start, timedelta(minutes=minutes), "Australia/Sydney")
    found = spans(jumped, at(2026, 10, 1), at(2026, 10, 6))
    assert [s.astimezone(ZoneInfo("Australia/Sydney")).day for s, _ in found] == [2, 3, 5, 6]


def test_a_day_that_a_country_skipped_does_not_happen() -> None:
    # Samoa crossed the date line: 30 December 2011 never was.
    found = list(spans(recurrence("FREQ=DAILY", zone="Pacific/Apia"), at(2011, 12, 29), at(2012, 1, 1)))
    days = [start.astimezone(ZoneInfo("Pacific/Apia")).day for start, _ in found]
    assert days == [29, 31, 1]


ZONES = ("UTC", "Europe/Berlin", "Australia/Sydney", "Australia/Lord_Howe", "America/New_York", "Pacific/Apia")


@given(
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 1439),
    length=st.integers(1, 2880),
    begin=st.integers(0, 20 * 365 * 24).map(lambda hours: at(2009, 1, 1) + hours * H),
)
@settings(max_examples=150, deadline=None)
def test_inside_the_clock_reads_between_start_and_end(zone: str, minute: int, length: int, begin: datetime) -> None:
    start, duration = f"{minute // 60:02}:{minute % 60:02}", timedelta(minutes=length)
    daily = recurrence("FREQ=DAILY", start, duration, zone)
    found = list(spans(daily, begin, begin + timedelta(days=4)))
    assert all(a <= b for a, b in pairwise(start for start, _ in found))
    for opens, closes in found:
        assert opens < closes
        wall = opens.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        # The day that it belongs to: this one, or the one before when clocks jump over midnight.
        lows = [midnight + timedelta(days=back, minutes=minute) for back in (0, -1)]
        assert any(low <= wall < low + duration for low in lows)
        assert wall in lows or (opens - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wall
        last = (closes - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        assert any(last < low + duration for low in lows)


def test_a_slim_image_has_zones_too() -> None:
    """Without those of the operating system, from the package tzdata."""
    look = "from zoneinfo import ZoneInfo, TZPATH; print(TZPATH, ZoneInfo('Australia/Sydney'))"
    slim = {**os.environ, "PYTHONTZPATH": ""}
    said = subprocess.run([sys.executable, "-c", look], env=slim, capture_output=True, text=True, check=True).stdout
    assert said == "() Australia/Sydney\n"


# --- Days, as another implementation counts them ---


def join(values: list[int]) -> str:
    return ",".join(map(str, values))


@st.composite
def rules(draw: st.DrawFn) -> str:
    """Rules that RFC 5545 and python-dateutil understand alike: no mix of MO and 1MO, which dateutil intersects."""
    freq = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    parts = [f"FREQ={freq}", f"INTERVAL={draw(st.integers(1, 5))}"]
    months = draw(st.lists(st.integers(1, 12), max_size=4, unique=True))
    if months:
        parts.append(f"BYMONTH={join(months)}")
    most = 0 if freq in ("DAILY", "WEEKLY") else 53 if freq == "YEARLY" and not months else 5
    numbered = bool(most) and draw(st.booleans())
    number = st.integers(1, most or 1).flatmap(lambda n: st.sampled_from([n, -n]))
    days = draw(st.lists(st.sampled_from(WEEKDAYS), min_size=freq == "WEEKLY", max_size=4, unique=True))
    month_day = st.integers(1, 31).flatmap(lambda n: st.sampled_from([n, -n]))
    month_days = draw(st.lists(month_day, max_size=5, unique=True)) if freq != "WEEKLY" else []
    if freq in ("MONTHLY", "YEARLY") and not days and not month_days:
        month_days = [draw(st.integers(1, 28))]
    if days:
        parts.append("BYDAY=" + ",".join(f"{draw(number)}{day}" if numbered else day for day in days))
    if month_days:
        parts.append(f"BYMONTHDAY={join(month_days)}")
    if freq != "DAILY" and draw(st.booleans()):
        position = st.integers(1, 8).flatmap(lambda n: st.sampled_from([n, -n]))
        parts.append(f"BYSETPOS={join(draw(st.lists(position, min_size=1, max_size=3, unique=True)))}")
    if draw(st.booleans()):
        parts.append(f"WKST={draw(st.sampled_from(WEEKDAYS))}")
    return ";".join(parts)


LAST = date(2027, 12, 31)


@given(rule=rules(), since=st.dates(date(2020, 1, 1), date(2026, 1, 1)), later=st.integers(0, 700))
@settings(max_examples=100, deadline=None)
def test_days_are_those_that_dateutil_counts(rule: str, since: date, later: int) -> None:
    if "FREQ=WEEKLY" in rule and "BYSETPOS" in rule:
        # Of a first week that is cut, dateutil counts the positions from the cut.
        week_start = WEEKDAYS.index(rule.partition("WKST=")[2] or "MO")
        since -= timedelta(days=(since.weekday() - week_start) % 7)
    found = recurrence(rule, "00:00", H, since=since.isoformat())
    check_recurrence(found, "x")
    first = datetime.combine(since + timedelta(days=later), datetime.min.time())
    end = datetime.combine(LAST, datetime.min.time())
    theirs = rrulestr(f"{rule};UNTIL={LAST:%Y%m%d}", dtstart=datetime.combine(since, datetime.min.time()))
    ours = [start.replace(tzinfo=None) for start, _ in spans(found, first.replace(tzinfo=UTC), at(2028, 1, 1))]
    assert ours == theirs.between(first, end, inc=True)


def test_until_is_the_last_day() -> None:
    found = spans(recurrence("FREQ=DAILY;UNTIL=20261103"), at(2026, 11, 1), at(2026, 12, 1))
    assert [start.day for start, _ in found] == [1, 2, 3]


def test_an_interval_counts_from_the_first_day() -> None:
    every_other = recurrence("FREQ=WEEKLY;INTERVAL=2;BYDAY=SU", since="2026-11-08")
    found = spans(every_other, at(2026, 10, 1), at(2026, 12, 31))
    assert [start.date().isoformat() for start, _ in found] == ["2026-11-08", "2026-11-22", "2026-12-06", "2026-12-20"]


# --- What a rule may cost ---


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=WEEKLY;BYDAY=MO;BYSETPOS=5",
        "FREQ=YEARLY;BYDAY=1SU;BYMONTHDAY=9;BYMONTH=1",
        "FREQ=MONTHLY;INTERVAL=12;BYMONTH=2;BYMONTHDAY=1",
    ],
)
def test_a_day_that_never_comes_is_found_out_soon(rule: str) -> None:
    never = recurrence(rule, since="2026-01-01")
    check_recurrence(never, "x")
    before = time.process_time()
    assert list(spans(never, at(2026, 1, 1), at(2028, 1, 1))) == []
    assert time.process_time() - before < 0.1, "dateutil takes seconds: it looks until the year 9999"


@given(st.text(alphabet="FREQINTVALBYDOHSUKMWCP=;,+-0123456789LE", max_size=60) | rules())
@settings(max_examples=300, deadline=None)
def test_any_text_is_judged_without_trouble(text: str) -> None:
    before, wanted = time.process_time(), recurrence(text, since="2026-01-01")
    with suppress(FieldError):
        check_recurrence(wanted, "x")
        list(spans(wanted, at(2026, 1, 1), at(2028, 1, 1)))
    assert time.process_time() - before < 0.5


# --- What cannot be used ---


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"rrule": ""}, "x.rrule is '': write each part once, like FREQ=MONTHLY;BYDAY=1SU"),
        (
            {"rrule": "FREQ=MINUTELY"},
            "write FREQ= with one of DAILY, WEEKLY, MONTHLY, YEARLY: at most one opening a day",
        ),
        ({"rrule": "FREQ=HOURLY;BYDAY=SU"}, "at most one opening a day"),
        ({"rrule": "BYDAY=SU"}, "write FREQ="),
        ({"rrule": "RRULE:FREQ=DAILY"}, "write each part once"),
        ({"rrule": "FREQ=DAILY;FREQ=DAILY"}, "write each part once"),
        ({"rrule": "FREQ=DAILY;BYHOUR=2"}, "leave out BYHOUR: the time of day is `start`"),
        ({"rrule": "FREQ=DAILY;COUNT=3"}, "leave out COUNT: write the last day, UNTIL=YYYYMMDD"),
        ({"rrule": "FREQ=YEARLY;BYYEARDAY=3"}, "known are FREQ, INTERVAL, BYDAY"),
        ({"rrule": "FREQ=DAILY;UNTIL=20261303"}, "write the last day, UNTIL=YYYYMMDD"),
        ({"rrule": "FREQ=DAILY;UNTIL=20261203T000000Z"}, "write the last day, UNTIL=YYYYMMDD"),
        ({"rrule": "FREQ=DAILY;INTERVAL=0"}, "write INTERVAL from 1 to 100"),
        ({"rrule": "FREQ=DAILY;INTERVAL=101"}, "write INTERVAL from 1 to 100"),
        ({"rrule": "FREQ=DAILY;INTERVAL=1,2"}, "write INTERVAL from 1 to 100"),
        ({"rrule": "FREQ=DAILY;BYSETPOS=1"}, "leave out BYSETPOS"),
        ({"rrule": "FREQ=DAILY;BYDAY=1SU"}, "write BYDAY without numbers, DAILY rules have none"),
        ({"rrule": "FREQ=WEEKLY"}, "a WEEKLY rule has BYDAY"),
        ({"rrule": "FREQ=WEEKLY;BYDAY=SU;BYMONTHDAY=1"}, "no BYMONTHDAY"),
        ({"rrule": "FREQ=MONTHLY"}, "say which day: a MONTHLY rule has BYDAY"),
        ({"rrule": "FREQ=MONTHLY;BYDAY=6SU"}, "or with numbers from 1 to 5 or -1 to -5"),
        ({"rrule": "FREQ=MONTHLY;BYDAY=0SU"}, "write BYDAY like SU, 1SU (the first)"),
        ({"rrule": "FREQ=MONTHLY;BYDAY=SUN"}, "write BYDAY like SU, 1SU (the first)"),
        ({"rrule": "FREQ=YEARLY;BYDAY=54SU"}, "or with numbers from 1 to 53"),
        ({"rrule": "FREQ=MONTHLY;BYMONTHDAY=32"}, "write BYMONTHDAY from 1 to 31, or from -31 to -1"),
        ({"rrule": "FREQ=MONTHLY;BYMONTHDAY=0"}, "write BYMONTHDAY from 1 to 31"),
        ({"rrule": "FREQ=YEARLY;BYMONTHDAY=1;BYMONTH=-1"}, "write BYMONTH from 1 to 12"),
        ({"rrule": "FREQ=WEEKLY;BYDAY=SU;WKST=XX"}, "write WKST with one of MO"),
        ({"rrule": "FREQ=DAILY;BYMONTHDAY=" + ",".join(["1"] * 100)}, "write at most 200 characters"),
        ({"rrule": "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU"}, "x.since is None: write the day that INTERVAL counts from"),
        ({"since": "2026-11-31"}, "x.since is '2026-11-31': write the first day, like 2026-11-23"),
        ({"since": "20261123"}, "x.since is '20261123': write the first day, like 2026-11-23"),
        ({"start": "2:00"}, "x.start is '2:00': write the time on the wall clock"),
        ({"start": "24:00"}, "x.start is '24:00': write the time on the wall clock"),
        ({"duration": timedelta(0)}, "x.duration is '0s': write a duration between 1m and 7d"),
        ({"duration": timedelta(days=8)}, "x.duration is '8d': write a duration between 1m and 7d"),
        ({"zone": "CET"}, "x.zone is 'CET': write a zone of the IANA database, like Europe/Berlin or UTC"),
        ({"zone": "+01:00"}, "x.zone is '+01:00': write a zone"),
        ({"zone": "Europe/Munich"}, "x.zone is 'Europe/Munich': write a zone"),
        ({"zone": "../etc/passwd"}, "x.zone is '../etc/passwd': write a zone"),
        ({"zone": "America/"}, "x.zone is 'America/': write a zone"),
        ({"zone": "right/Europe/Berlin"}, "x.zone is 'right/Europe/Berlin': write a zone"),
        ({"zone": ""}, "x.zone is '': write a zone"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(FieldError) as refused:
        check_recurrence(recurrence(**fields), "x")  # type: ignore[arg-type]
    assert complaint in str(refused.value)


def test_a_name_can_be_printed() -> None:
    with pytest.raises(FieldError, match="write 1 to 200 printable characters"):
        check_recurrence(Recurrence("a\x1b[2J", "FREQ=DAILY", "02:00", H, "UTC"), "x")
