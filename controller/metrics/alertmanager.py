"""Incidents that an Alertmanager tells of by itself, kept for a time beside those that Prometheus answers with. Pure.

Source of the form: the webhook of Alertmanager, version 4 (prometheus.io, "Alerting configuration", webhook_config);
seen on Alertmanager 0.34.2, which tries again where a replica that stands by refuses.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec

from controller.core.model import Incident
from controller.metrics.arms import Subject
from controller.metrics.incidents import Alert, incidents_of

KEPT_MAX = 1000
"""Alerts that are kept; of more, those that were not heard of for longest are forgotten."""


class Told(msgspec.Struct, rename="camel", frozen=True):
    """One alert of a post; `starts_at` is the moment at which Prometheus began to call it firing."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    starts_at: Annotated[datetime, msgspec.Meta(tz=True)]


class _Post(msgspec.Struct):
    version: Literal["4"]
    alerts: list[Told]


_read = msgspec.json.Decoder(_Post).decode


def read_post(body: bytes) -> list[Told]:
    """The alerts of a post; ValueError when this is not what an Alertmanager posts."""
    alerts = _read(body).alerts
    if any(not 2000 <= told.starts_at.year <= 9000 for told in alerts):
        raise ValueError("startsAt is no moment at which an alert could begin")
    return alerts


@dataclass(frozen=True)
class _Kept:
    alert: Alert
    began_at: datetime
    firing: bool
    heard_at: datetime


class ToldAlerts:
    """The alerts that are firing as far as we were told, one for each set of labels.

    One that was not told again within `expiry` is over: whoever could say so may be gone.
    """

    def __init__(self, expiry: timedelta) -> None:
        self._expiry = expiry
        self._kept: dict[frozenset[tuple[str, str]], _Kept] = {}

    def take(self, alerts: Iterable[Told], now: datetime) -> None:
        """What is older than what is known changes nothing, nor does a post that comes again after the end."""
        self._forget(now)
        for told in alerts:
            key = frozenset(told.labels.items())
            firing = told.status == "firing"
            # A clock that is ahead must not let an incident begin after a change that is yet to come.
            began_at = min(told.starts_at, now).astimezone(UTC)
            known = self._kept.pop(key, None)  # the newest is the last
            if known and (began_at < known.began_at or (began_at == known.began_at and firing > known.firing)):
                self._kept[key] = known
            else:
                self._kept[key] = _Kept(Alert(told.labels, began_at), began_at, firing, now)
        for key in list(self._kept)[: max(0, len(self._kept) - KEPT_MAX)]:
            del self._kept[key]

    def incidents(self, subjects: Iterable[Subject], now: datetime) -> tuple[Incident, ...]:
        """Those of the alerts that are P0 by the policies of the subjects, and about them."""
        self._forget(now)
        firing = [kept.alert for kept in self._kept.values() if kept.firing]
        found: list[Incident] = []
        for subject in subjects if firing else ():
            wanted = subject.incidents.labels.items()
            found += incidents_of(subject, [alert for alert in firing if wanted <= alert.labels.items()])[0]
        return merged(found)

    def _forget(self, now: datetime) -> None:
        self._kept = {key: kept for key, kept in self._kept.items() if now - kept.heard_at <= self._expiry}


def merged(incidents: Iterable[Incident]) -> tuple[Incident, ...]:
    """Of those with the same labels one, that began when the first of them did."""
    found: dict[frozenset[tuple[str, str]], Incident] = {}
    for incident in incidents:
        key = frozenset(incident.labels.items())
        known = found.get(key, incident)
        found[key] = replace(known, began_at=min(known.began_at, incident.began_at))
    return tuple(found.values())
