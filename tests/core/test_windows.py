"""When a change may start: inside an opening that it can finish in, never in a freeze."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import codec
from controller.core.codec import FieldError
from controller.core.policy import LowTraffic, Policy, Step, parse_policy
from controller.core.recurrence import Recurrence
from controller.core.windows import (
    FOREVER,
    HORIZON,
    Freeze,
    OnClose,
    Window,
    check_window,
    closures,
    freeze_at,
    opening_at,
    opening_for,
    opening_text,
    openings,
    timing,
)

DAY, H, M = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
POLICIES = Path(__file__).parents[2] / "policies"


def at(month: int, day: int, hour: int = 0, minute: int = 0, year: int = 2026) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


def recurrence(
    rrule: str = "FREQ=MONTHLY;BYDAY=1SU", start: str = "02:00", duration: timedelta = 2 * H, zone: str = "UTC"
) -> Recurrence:
    return Recurrence("maintenance", rrule, start, duration, zone)


def freeze(start: datetime, end: datetime, reason: str = "Christmas business") -> Freeze:
    return Freeze(reason, "Retail operations", start, end)


FIRST_SUNDAY = Window((recurrence(),))
ANY_TIME = Window()


def found(window: Window, after: datetime, count: int = 3) -> list[tuple[datetime, datetime]]:
    return [(o.start, o.end) for o in islice(openings(window, after), count)]


# --- Openings ---


def test_the_first_sunday_of_each_month() -> None:
    assert found(FIRST_SUNDAY, at(11, 23)) == [
        (at(12, 6, 2), at(12, 6, 4)),
        (at(1, 3, 2, year=2027), at(1, 3, 4, year=2027)),
        (at(2, 7, 2, year=2027), at(2, 7, 4, year=2027)),
    ]


@pytest.mark.parametrize(("now", "first"), [(at(12, 6, 3, 59), at(12, 6, 2)), (at(12, 6, 4), at(1, 3, 2, year=2027))])
def test_an_opening_counts_until_it_ends(now: datetime, first: datetime) -> None:
    assert found(FIRST_SUNDAY, now, 1)[0][0] == first


def test_windows_that_overlap_or_touch_are_one() -> None:
    three = Window((recurrence(), recurrence(start="04:00", duration=H), recurrence(start="01:30", duration=H)))
    assert found(three, at(12, 1), 1) == [(at(12, 6, 1, 30), at(12, 6, 5))]


def test_an_opening_runs_on_past_midnight() -> None:
    late = Window((recurrence("FREQ=WEEKLY;BYDAY=FR", "22:00", timedelta(days=2, hours=8)),))
    assert found(late, at(11, 29), 1) == [(at(11, 27, 22), at(11, 30, 6))]


def test_without_a_window_it_is_any_time() -> None:
    assert found(ANY_TIME, at(11, 23)) == [(at(11, 23), FOREVER)]


@pytest.mark.parametrize(
    ("frozen", "left"),
    [
        ((at(12, 6, 1), at(12, 6, 5)), []),
        ((at(12, 6, 1), at(12, 6, 3)), [(at(12, 6, 3), at(12, 6, 4))]),
        ((at(12, 6, 3), at(12, 6, 9)), [(at(12, 6, 2), at(12, 6, 3))]),
        ((at(12, 6, 2, 30), at(12, 6, 3)), [(at(12, 6, 2), at(12, 6, 2, 30)), (at(12, 6, 3), at(12, 6, 4))]),
    ],
)
def test_a_freeze_leaves_what_it_does_not_cover(
    frozen: tuple[datetime, datetime], left: list[tuple[datetime, datetime]]
) -> None:
    december = [o for o in found(Window((recurrence(),), (freeze(*frozen),)), at(12, 1), 4) if o[0] < at(12, 31)]
    assert december == left


def test_an_opening_in_progress_begins_where_the_freeze_ended() -> None:
    window = Window((recurrence(),), (freeze(at(12, 1), at(12, 6, 2, 30)),))
    assert found(window, at(12, 6, 3), 1) == [(at(12, 6, 2, 30), at(12, 6, 4))]


def test_a_freeze_may_recur() -> None:
    weekends = Freeze("nobody is there", "SRE", every=recurrence("FREQ=WEEKLY;BYDAY=FR", "16:00", timedelta(hours=64)))
    assert found(Window((), (weekends,)), at(11, 24)) == [
        (at(11, 24), at(11, 27, 16)),
        (at(11, 30, 8), at(12, 4, 16)),
        (at(12, 7, 8), at(12, 11, 16)),
    ]


# --- Fits ---


def test_a_plan_of_45_minutes_does_not_start_at_0320() -> None:
    needs = 45 * M
    assert timing(FIRST_SUNDAY, at(12, 6, 3, 15), needs).may_start
    late = timing(FIRST_SUNDAY, at(12, 6, 3, 20), needs)
    assert (late.may_start, late.reason) == (False, "OutsideWindow")
    assert late.start_at == at(1, 3, 2, year=2027)
    assert late.message == (
        "what starts now has to be done by Sun 2026-12-06 04:00 UTC; this needs 45m; next opening: maintenance, "
        "Sun 2027-01-03 02:00 to 04:00 UTC"
    )


def test_it_does_not_run_into_a_freeze() -> None:
    window = Window((), (freeze(at(12, 18), at(12, 28)),))
    assert timing(window, at(12, 17, 23), H).may_start
    blocked = timing(window, at(12, 17, 23, 1), H)
    assert (blocked.reason, blocked.start_at) == ("OutsideWindow", at(12, 28))
    assert "has to be done by Fri 2026-12-18 00:00 UTC" in blocked.message


def test_a_freeze_says_who_and_why() -> None:
    window = Window((recurrence(zone="Europe/Berlin"),), (freeze(at(12, 1), at(12, 28)),))
    frozen = timing(window, at(12, 6, 1, 30), H)
    assert (frozen.may_start, frozen.reason, frozen.start_at) == (False, "Frozen", at(1, 3, 1, year=2027))
    assert frozen.closure
    assert frozen.closure.freeze.owner == "Retail operations"
    assert frozen.message == (
        "frozen until Mon 2026-12-28 01:00 CET (00:00 UTC) by Retail operations: Christmas business; next opening: "
        "maintenance, Sun 2027-01-03 02:00 to 04:00 CET (01:00 to 03:00 UTC)"
    )


def test_of_several_freezes_the_one_that_ends_last_is_named() -> None:
    window = Window((), (freeze(at(12, 1), at(12, 20), "long"), freeze(at(12, 5), at(12, 8), "short")))
    closure = freeze_at(window, at(12, 6))
    assert closure
    assert (closure.freeze.reason, closure.end) == ("long", at(12, 20))
    assert freeze_at(window, at(12, 20)) is None
    assert [c.freeze.reason for c in closures(window, at(11, 1), at(12, 31))] == ["long", "short"]


def test_not_before_is_kept() -> None:
    asked = timing(FIRST_SUNDAY, at(12, 6, 2), H, not_before=at(12, 6, 2, 30))
    assert (asked.may_start, asked.reason, asked.start_at) == (False, "NotBefore", at(12, 6, 2, 30))
    later = timing(FIRST_SUNDAY, at(12, 6, 2), H, not_before=at(12, 6, 3, 30))
    assert later.start_at == at(1, 3, 2, year=2027)
    assert timing(FIRST_SUNDAY, at(12, 6, 2, 30), H, not_before=at(12, 6, 2, 30)).may_start
    never = timing(FIRST_SUNDAY, at(12, 6, 2), H, not_before=at(12, 6, year=9999))
    assert (never.reason, never.opening) == ("NoOpening", None)


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (FIRST_SUNDAY, "has the 3h that this needs; the longest lasts 2h: widen spec.window"),
        (Window((recurrence("FREQ=DAILY;UNTIL=20251231"),)), "has the 3h that this needs; there is none: widen"),
        # Freezes win over every opening.
        (Window((recurrence(),), (Freeze("always", "SRE", every=recurrence("FREQ=WEEKLY;BYDAY=SA", "00:00", timedelta(7))),)), "there is none"),  # noqa: E501
    ],
)  # fmt: skip
def test_when_no_opening_is_long_enough(window: Window, said: str) -> None:
    nowhere = timing(window, at(11, 23), 3 * H)
    assert (nowhere.may_start, nowhere.reason, nowhere.opening) == (False, "NoOpening", None)
    assert said in nowhere.message


def test_what_is_said_stays_the_same_while_nothing_changes() -> None:
    """A message that moves with the clock would be a write of the status each time."""
    christmas = freeze(at(12, 1), at(12, 28))
    for window in (FIRST_SUNDAY, Window((), (christmas,)), Window((recurrence(),), (christmas,))):
        said = {timing(window, at(12, 2) + i * 7 * M, 2 * H).message for i in range(20)}
        assert len(said) == 1


@pytest.mark.parametrize(
    ("zone", "month", "text"),
    [
        ("UTC", 12, "Sun 2026-12-06 02:00 to 04:00 UTC"),
        ("Europe/Berlin", 12, "Sun 2026-12-06 02:00 to 04:00 CET (01:00 to 03:00 UTC)"),
        ("Europe/London", 7, "Sun 2026-07-05 02:00 to 04:00 BST (01:00 to 03:00 UTC)"),
        ("Asia/Tokyo", 12, "Sun 2026-12-06 02:00 to 04:00 JST (Sat 2026-12-05 17:00 to 19:00 UTC)"),
        ("Australia/Sydney", 4, "Sun 2026-04-05 02:00 AEDT to 04:00 AEST (Sat 2026-04-04 15:00 to 18:00 UTC)"),
        ("Asia/Dubai", 12, "Sun 2026-12-06 02:00 to 04:00 +04 (Sat 2026-12-05 22:00 to Sun 2026-12-06 00:00 UTC)"),
    ],
)
def test_people_read_the_time_on_their_wall_and_utc(zone: str, month: int, text: str) -> None:
    after = at(month, 1) - DAY
    assert opening_text(next(openings(Window((recurrence(zone=zone),)), after))) == f"maintenance, {text}"


def test_any_time_has_no_end() -> None:
    thawed = timing(Window((), (freeze(at(12, 1), at(12, 28)),)), at(12, 2), H)
    assert thawed.message.endswith("; next opening: any time from Mon 2026-12-28 00:00 UTC on")


# --- For every window ---

recurrences = st.builds(
    Recurrence,
    name=st.just("w"),
    rrule=st.sampled_from(
        ["FREQ=DAILY", "FREQ=WEEKLY;BYDAY=SU,WE", "FREQ=MONTHLY;BYDAY=1SU", "FREQ=MONTHLY;BYMONTHDAY=-1", "FREQ=DAILY;BYMONTH=11"]  # noqa: E501
    ),
    start=st.integers(0, 23).map(lambda hour: f"{hour:02}:30"),
    duration=st.integers(1, 7 * 24 * 60).map(lambda minutes: minutes * M),
    zone=st.sampled_from(["UTC", "Australia/Sydney", "America/New_York", "Pacific/Apia"]),
)  # fmt: skip
moments = st.integers(0, 700 * 24 * 60).map(lambda minutes: at(1, 1) + minutes * M)
freezes = st.builds(
    lambda start, length: freeze(start, start + length), moments, st.integers(1, 150_000).map(lambda n: n * M)
) | st.builds(lambda every: Freeze("r", "o", every=every), recurrences)
windows = st.builds(Window, st.lists(recurrences, max_size=3).map(tuple), st.lists(freezes, max_size=3).map(tuple))


@given(window=windows, now=moments, needs=st.integers(1, 11_000).map(lambda n: n * M))
@settings(max_examples=60, deadline=None)
def test_what_holds_for_every_window(window: Window, now: datetime, needs: timedelta) -> None:
    check_window(window)
    first = list(islice(openings(window, now), 40))
    assert all(o.start < o.end and o.end > now for o in first)
    assert all(a.end < b.start for a, b in pairwise(first)), "in order, and never two that touch without a freeze"
    for opening in first[:3]:
        assert freeze_at(window, opening.start) is None
        assert not any(c.start < opening.end for c in closures(window, opening.start, min(opening.end, now + HORIZON)))
    answer = timing(window, now, needs)
    assert answer.may_start == (answer.start_at == now)
    if answer.opening and answer.start_at:
        assert answer.opening.start <= answer.start_at
        assert answer.start_at + needs <= answer.opening.end
        earlier = [o for o in first if max(o.start, now) < answer.start_at]
        assert all(max(o.start, now) + needs > o.end for o in earlier)
    if answer.may_start:
        assert opening_at(window, now)
        assert freeze_at(window, now) is None
    assert codec.decode(Window, codec.encode(window)) == window


def test_the_worst_window_costs_little() -> None:
    """As many recurrences as there may be, none of them long enough for the change."""
    opens = tuple(recurrence("FREQ=DAILY", f"{2 * i:02}:00", M, "Australia/Sydney") for i in range(10))
    yearly = "FREQ=YEARLY;BYDAY=" + ",".join(f"{n}MO" for n in range(1, 30))
    recurring = tuple(Freeze("r", "o", every=recurrence(yearly, f"{i:02}:00", M)) for i in range(10))
    fixed = tuple(freeze(at(1, 1) + i * DAY, at(1, 1) + i * DAY + H) for i in range(40))
    worst = Window(opens, recurring + fixed)
    check_window(worst)
    before = time.process_time()
    assert opening_for(worst, at(11, 23), H) is None
    assert time.process_time() - before < 1


# --- What cannot be used ---


def check(*freezes: Freeze, opens: Sequence[Recurrence] = ()) -> str:
    with pytest.raises(FieldError) as refused:
        check_window(Window(tuple(opens), freezes))
    return str(refused.value)


def test_what_is_wrong_is_named() -> None:
    start, end = at(12, 1), at(12, 28)
    assert check(Freeze("", "SRE", start, end)).startswith("spec.window.freezes[0].reason is '': write 1 to 200")
    assert check(Freeze("why", " ", start, end)).startswith("spec.window.freezes[0].owner is ' ': write 1 to 200")
    assert check(Freeze("why", "SRE")).startswith("spec.window.freezes[0].from is None: write a moment with a zone")
    assert check(Freeze("why", "SRE", start)).startswith("spec.window.freezes[0].until is None: write a moment")
    assert check(Freeze("why", "SRE", start, start)).startswith("spec.window.freezes[0].until is '2026-12-01T00:00")
    assert "by at most 366 days" in check(Freeze("why", "SRE", start, start + 367 * DAY))
    assert "write either from and until, or every" in check(Freeze("why", "SRE", start, end, recurrence()))
    assert check(Freeze("why", "SRE", every=recurrence("FREQ=SECONDLY"))).startswith("spec.window.freezes[0].every.rru")
    assert check(opens=[recurrence(), recurrence(zone="CET")]).startswith("spec.window.opens[1].zone is 'CET'")
    assert check(opens=[recurrence()] * 11).startswith("spec.window.opens is 11: write at most 10")
    assert "at most 50, of which 10 recur" in check(*[freeze(start, end)] * 51)
    assert "at most 50, of which 10 recur" in check(*[Freeze("why", "SRE", every=recurrence())] * 11)


def test_a_policy_names_the_field_of_its_window() -> None:
    spec = yaml.safe_load((POLICIES / "normal.yaml").read_text())["spec"]
    spec["window"]["opens"][0]["rrule"] = "FREQ=MINUTELY"
    with pytest.raises(FieldError, match=r"spec\.window\.opens\[0\]\.rrule is 'FREQ=MINUTELY': write FREQ="):
        parse_policy(spec, frozenset({"envoy"}))


# --- How long a change needs ---


def shipped(name: str) -> Policy:
    return parse_policy(yaml.safe_load((POLICIES / f"{name}.yaml").read_text())["spec"], frozenset({"envoy"}))


def test_the_time_that_a_change_needs() -> None:
    policy = Policy((Step(10, 10 * M), Step(50, 10 * M), Step(100, 15 * M)), low_traffic=LowTraffic.HOLD)
    # 35 min of bakes, 10 min for pods to get ready, 30 s to drain.
    assert policy.needs() == 45 * M + timedelta(seconds=30)
    # Without a canary: pods get ready, and are watched for the last bake.
    assert policy.needs(canary=False) == 25 * M


def test_few_users_double_the_bakes() -> None:
    normal = shipped("normal")
    assert normal.low_traffic is LowTraffic.CONTINUE
    assert normal.needs() == 2 * 35 * M + 10 * M + timedelta(seconds=30)


def test_the_shipped_windows_are_those_of_the_process() -> None:
    normal, standard, emergency = (shipped(name).window for name in ("normal", "standard", "emergency"))
    assert found(normal, at(11, 23), 1) == [(at(12, 6, 2), at(12, 6, 4))]
    assert normal.on_close is OnClose.FINISH
    assert standard == emergency == ANY_TIME
    assert opening_for(normal, at(11, 23), shipped("normal").needs()), "a normal change fits into its window"
