"""Prometheus as it was: what it would have answered at a moment that is over."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import requests

from controller.core.model import Measurements
from controller.metrics.arms import Subject
from controller.metrics.counters import Series, parse
from controller.metrics.source import Prometheus

__all__ = ["Past"]


class Past(Prometheus):
    """Asked as `Prometheus` is, about the moment that `measure` is given. One question at a time."""

    _moment: datetime

    async def measure(self, subjects: Sequence[Subject], now: datetime) -> Mapping[tuple[str, str], Measurements]:
        self._moment = now
        return await super().measure(subjects, now)

    def _ask(self, query: str) -> Sequence[Series]:
        try:
            return parse(self._client.custom_query(query, params={"time": f"{self._moment.timestamp():.3f}"}))
        except (requests.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
