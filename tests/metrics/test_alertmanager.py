"""controller.metrics.alertmanager: what is kept of the alerts that were posted, and whose incidents they are."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.model import Incident
from controller.metrics.alertmanager import KEPT_MAX, Told, ToldAlerts, merged, read_post
from tests.metrics.subjects import START, seconds, subject

EXPIRY = timedelta(minutes=5)
LABELS = {"alertname": "ShopDown", "severity": "P0", "namespace": "default", "deployment": "shop"}


def post(*alerts: dict[str, Any], **more: Any) -> bytes:
    """As an Alertmanager posts, version 4 of its webhook."""
    whole = {
        "version": "4",
        "groupKey": '{}:{alertname="ShopDown"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "serin",
        "groupLabels": {"alertname": "ShopDown"},
        "commonLabels": LABELS,
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "alerts": list(alerts),
    }
    return json.dumps(whole | more).encode()


def alert(status: str = "firing", *, began: datetime = START, **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": LABELS | labels,
        "annotations": {"summary": "nobody can buy"},
        "startsAt": began.isoformat(),
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else (began + EXPIRY).isoformat(),
        "generatorURL": "http://prometheus:9090/graph",
        "fingerprint": "c5f4a6e7b8d90123",
    }


class Clock:
    """ToldAlerts, `seconds` after START."""

    def __init__(self) -> None:
        self.alerts = ToldAlerts(EXPIRY)

    def told(self, after: float, *alerts: dict[str, Any]) -> None:
        self.alerts.take(read_post(post(*alerts)), START + seconds(after))

    def names(self, after: float) -> list[str]:
        return [incident.name for incident in self.alerts.incidents([subject()], START + seconds(after))]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_firing_alert_is_an_incident_since_it_fires(clock: Clock) -> None:
    clock.told(10, alert())
    [incident] = clock.alerts.incidents([subject()], START + seconds(10))
    assert incident == Incident("ShopDown", LABELS, START)


def test_moments_may_have_any_zone_and_nanoseconds(clock: Clock) -> None:
    moment = START.astimezone(timezone(timedelta(hours=2))).isoformat().replace("+02:00", ".123456789+02:00")
    clock.told(10, alert() | {"startsAt": moment})
    [incident] = clock.alerts.incidents([subject()], START + seconds(10))
    assert timedelta() < incident.began_at - START < seconds(1)
    assert incident.began_at.tzinfo is UTC


def test_a_resolved_alert_is_none(clock: Clock) -> None:
    clock.told(10, alert())
    clock.told(60, alert("resolved"))
    assert clock.names(60) == []


def test_one_that_is_not_repeated_is_over(clock: Clock) -> None:
    clock.told(10, alert())
    assert clock.names(10 + 300) == ["ShopDown"]
    assert clock.names(10 + 301) == []
    clock.told(20, alert())
    clock.told(300, alert())
    assert clock.names(599) == ["ShopDown"]


def test_a_post_that_comes_again_after_the_end_changes_nothing(clock: Clock) -> None:
    clock.told(10, alert())
    clock.told(60, alert("resolved"))
    clock.told(61, alert())
    assert clock.names(61) == []
    clock.told(62, alert(began=START - seconds(600)))
    assert clock.names(62) == []


def test_one_that_fires_anew_is_an_incident_again(clock: Clock) -> None:
    clock.told(10, alert())
    clock.told(60, alert("resolved"))
    clock.told(90, alert(began=START + seconds(80)))
    [incident] = clock.alerts.incidents([subject()], START + seconds(90))
    assert incident.began_at == START + seconds(80)
    clock.told(91, alert("resolved"))  # the end of the first, late
    assert clock.names(91) == ["ShopDown"]


def test_a_clock_that_is_ahead_moves_no_incident_behind_the_start_of_a_change(clock: Clock) -> None:
    clock.told(10, alert(began=START + timedelta(days=1)))
    [incident] = clock.alerts.incidents([subject()], START + seconds(10))
    assert incident.began_at == START + seconds(10)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, True),
        ({"cluster": "eu-1"}, True),
        ({"severity": "P1"}, False),
        ({"deployment": "cart"}, False),
        ({"namespace": "other"}, False),
    ],
)
def test_it_must_be_p0_and_about_the_workload(clock: Clock, labels: dict[str, str], expected: bool) -> None:
    clock.told(10, alert() | {"labels": LABELS | labels})
    assert clock.names(10) == (["ShopDown"] if expected else [])


def test_the_policy_says_what_p0_is(clock: Clock) -> None:
    clock.told(10, alert())
    assert not clock.alerts.incidents([subject(incidents={"page": "yes"})], START + seconds(10))


def test_an_incident_of_two_targets_is_one(clock: Clock) -> None:
    clock.told(10, alert(deployment=""))
    assert len(clock.alerts.incidents([subject(), subject("cart")], START + seconds(10))) == 1


def test_no_more_are_kept_than_there_is_room_for(clock: Clock) -> None:
    clock.told(10, alert())
    clock.told(11, *(alert(deployment=f"app-{i}") for i in range(KEPT_MAX - 1)))
    assert clock.names(11) == ["ShopDown"]
    clock.told(12, alert())  # heard of again
    clock.told(13, alert(deployment="another"))
    assert clock.names(13) == ["ShopDown"]
    clock.told(14, *(alert(deployment=f"app-{i}") for i in range(KEPT_MAX)))
    assert clock.names(14) == []


def test_the_same_alert_of_prometheus_and_of_alertmanager_is_one_that_began_with_the_earlier() -> None:
    """ALERTS_FOR_STATE has the beginning of the condition, Alertmanager that of the firing."""
    asked, told = (Incident("ShopDown", LABELS, START + seconds(s)) for s in (0, 60))
    other = Incident("ShopDown", LABELS | {"cluster": "eu-1"}, START)
    assert merged([asked, told, other]) == (asked, other)
    assert merged([told, asked]) == (asked,)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b"\xff", b"[" * 10000, b'{"version": "4"}',
        post(version="3"), post(alerts="none"), post({"status": "firing"}), post(alert("suppressed")),
        post(alert() | {"labels": {"alertname": 7}}), post(alert() | {"labels": ["a"]}),
        post(alert() | {"startsAt": "yesterday"}), post(alert() | {"startsAt": "2026-11-23T08:00:00"}),
        post(alert() | {"startsAt": "0001-01-01T00:00:00+14:00"}), post(alert() | {"startsAt": 1.5}),
        post(alert() | {"startsAt": "9999-12-31T23:59:59-14:00"}),
    ],
)  # fmt: skip
def test_what_an_alertmanager_never_posts_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any text)
        read_post(body)


@given(body=st.binary() | st.text().map(str.encode))
def test_whatever_is_posted_it_is_read_or_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any text)
        read_post(body)


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["firing", "resolved"]), st.integers(-900, 900), st.sampled_from(["shop", "cart"])),
        max_size=12,
    )
)
def test_the_newest_of_a_set_of_labels_decides(events: list[tuple[str, int, str]]) -> None:
    """Told all at once and in any order: that with the latest beginning counts, its end before its repetition."""
    clock = Clock()
    now = 1000
    clock.told(now, *(alert(status, began=START + seconds(began), deployment=name) for status, began, name in events))
    mine = [(began, status) for status, began, name in events if name == "shop"]
    last = max((began for began, _ in mine), default=0)
    firing = bool(mine) and {status for began, status in mine if began == last} == {"firing"}
    assert bool(clock.names(now)) == firing


def test_told_is_what_it_is_made_of() -> None:
    [told] = read_post(post(alert()))
    assert told == Told("firing", LABELS, START)
