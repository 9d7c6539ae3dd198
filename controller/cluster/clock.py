"""The API server's clock, by the dates of its answers.

Moments in status, in objects and in metrics come from several machines. A controller whose own clock is wrong would
call good data stale, or bake an hour too short; so it goes by the clock that the cluster's objects are stamped with.
"""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from statistics import median

HEARD_MAX = 9
"""The median of so many answers counts: one that was long on its way moves nothing."""
TOLERATED = timedelta(seconds=2)
"""The dates of answers have whole seconds, and answers take a while; less than this is no difference."""
HALF_A_SECOND = timedelta(seconds=0.5)


def local() -> datetime:
    return datetime.now(UTC)


class Clock:
    """`here`: the clock of this machine."""

    def __init__(self, here: Callable[[], datetime] = local) -> None:
        self._here = here
        self._heard: deque[float] = deque(maxlen=HEARD_MAX)

    def heard(self, date: str | None) -> None:
        """An answer's `Date`; one that is no date says nothing."""
        try:
            there = parsedate_to_datetime(date or "")
        except ValueError:
            return
        if there.tzinfo is not None:
            self._heard.append((there + HALF_A_SECOND - self._here()).total_seconds())

    @property
    def behind(self) -> timedelta:
        """How far this machine's clock is behind the API server's; negative where it is ahead."""
        return timedelta(seconds=median(self._heard)) if self._heard else timedelta()

    def now(self) -> datetime:
        behind = self.behind
        return self._here() + behind if abs(behind) > TOLERATED else self._here()
