"""What was counted, and when: the raw material of every judgement."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Sample:
    """Requests counted in one interval that ended at `at` (the data's own timestamp): total, and how many were bad."""

    at: datetime
    bad: float
    total: float
    pods: tuple[tuple[str, float, float], ...] = ()
    """(name, bad, total) of each pod that was scraped then; empty where the source does not count by pod."""


@dataclass(frozen=True)
class Arm:
    """The samples of one workload, oldest first.

    `fresh_at`: the newest moment at which the metrics path was seen to work.
    `scraped_every`: the median time between two scrapes of one series; None when none was scraped twice.
    """

    samples: tuple[Sample, ...] = ()
    fresh_at: datetime | None = None
    scraped_every: timedelta | None = None
