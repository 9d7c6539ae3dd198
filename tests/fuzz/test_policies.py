"""ChangePolicies and their windows: whatever is written, it is a policy that works or a field that is named."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.core.codec import FieldError, encode
from controller.core.policy import Policy, parse_policy
from controller.core.windows import timing
from controller.metrics.presets import PRESETS
from tests.fuzz.junk import FUZZ, HOSTILE, Json, plain, spoilt, values

ROOT = Path(__file__).parents[2]
SHIPPED = [yaml.safe_load((ROOT / f"policies/{name}.yaml").read_text())["spec"] for name in ("standard", "normal")]
WINDOW = {
    "onClose": "hold",
    "opens": [
        {
            "name": "sunday",
            "rrule": "FREQ=MONTHLY;BYDAY=1SU",
            "start": "02:00",
            "duration": "2h",
            "zone": "Europe/Berlin",
        },
        {
            "name": "daily",
            "rrule": "FREQ=DAILY;INTERVAL=2",
            "start": "23:30",
            "duration": "1h",
            "zone": "UTC",
            "since": "2026-01-04",
        },
    ],
    "freezes": [
        {"reason": "Christmas", "owner": "cto", "from": "2026-12-18T00:00:00+01:00", "until": "2027-01-04T00:00:00Z"},
        {
            "reason": "close",
            "owner": "cfo",
            "every": {
                "name": "q",
                "rrule": "FREQ=MONTHLY;BYMONTHDAY=-1",
                "start": "00:00",
                "duration": "24h",
                "zone": "UTC",
            },
        },
    ],
}
rrules = st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY", "MINUTELY", "SECONDLY"]).flatmap(
    lambda every: st.lists(
        st.sampled_from(
            ["INTERVAL=0", "INTERVAL=999", "COUNT=99999999", "BYDAY=5SU", "BYDAY=XX", "BYMONTHDAY=31", "BYHOUR=1"]
        )
        | st.sampled_from(
            ["BYSETPOS=-1", "BYMONTH=2", "UNTIL=20200101T000000Z", "WKST=MO", "BYWEEKNO=53", "BYYEARDAY=-366", "X"]
        ),
        max_size=3,
    ).map(lambda parts: ";".join([f"FREQ={every}", *parts]))
)
NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)


def parsed(spec: Json) -> Policy | None:
    """The policy; None when it is refused, in plain words."""
    try:
        return parse_policy(spec, frozenset(PRESETS))
    except FieldError as error:
        words = str(error)
    assert plain(words)
    assert len(words) < 2000
    return None


def read(spec: Json) -> None:
    policy = parsed(spec)
    if policy is None:
        return
    assert parse_policy(encode(policy), frozenset(PRESETS)) == policy
    found = timing(policy.window, NOW, policy.needs(canary=True), None)
    assert found is None or plain(found.message)


@FUZZ
@given(st.sampled_from(SHIPPED).flatmap(spoilt))
def test_a_policy_with_something_wrong(spec: Json) -> None:
    read(spec)


@FUZZ
@given(spoilt(WINDOW), st.integers(0, 10**9))
def test_windows_with_something_wrong(window: Json, later: int) -> None:
    policy = parsed({**SHIPPED[1], "window": window})
    if policy is None:
        return
    found = timing(policy.window, NOW + timedelta(seconds=later), timedelta(hours=1), None)
    assert found is None or plain(found.message)


@FUZZ
@given(rrules, st.sampled_from(["02:00", "24:00", "2", "23:59"]), st.sampled_from(["2h", "0s", "40d", "1ms"]))
def test_any_recurrence_is_refused_or_found_within_the_time_of_a_look(rrule: str, start: str, duration: str) -> None:
    each = {"name": "w", "rrule": rrule, "start": start, "duration": duration, "zone": "Australia/Lord_Howe"}
    began = time.process_time()
    read({**SHIPPED[1], "window": {"opens": [each], "freezes": [{"reason": "r", "owner": "o", "every": each}]}})
    assert time.process_time() - began < 2


@FUZZ
@given(values)
def test_what_is_no_policy_at_all(spec: Json) -> None:
    read(spec)


@pytest.mark.parametrize("name", [*HOSTILE, 7, None, True])
def test_a_field_of_an_odd_name_is_named_in_one_line(name: object) -> None:
    """YAML has keys that are no text."""
    with pytest.raises(FieldError) as refused:
        parse_policy({**SHIPPED[0], name: 1, "zz": 2}, frozenset(PRESETS))
    assert plain(str(refused.value))
