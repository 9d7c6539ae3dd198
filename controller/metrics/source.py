"""Prometheus: asked once a metric for all changes. The sole importer of prometheus_api_client.

That package is synchronous, so it runs in threads; it leaves the parameters of a POST in the URL and drops warnings, so
its session is ours.
"""

import asyncio
import dataclasses
import io
import itertools
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util.retry import Retry

from controller.core.change import Problem, printable
from controller.core.model import Incident, Measurements
from controller.core.samples import Arm
from controller.metrics.arms import Subject
from controller.metrics.batch import Answer, Answers, Batch, Reading, lacks_bucket
from controller.metrics.counters import Series, parse
from controller.metrics.incidents import Alert, incidents_of, incidents_query, read_alerts

__all__ = ["Prometheus", "Subject"]

_TRIES = 2
_PAUSE = (0.05, 0.2)
"""Seconds between two tries, at random."""
_CHUNK = 1 << 16


class Prometheus:
    """A server with the Prometheus query API at `url`. No question takes longer than `timeout`, tries included."""

    def __init__(self, url: str, *, timeout: timedelta) -> None:
        self._at = re.sub(r"//[^/]*@", "//", url)  # without a password
        self._timeout = timeout.total_seconds()
        self._session = _Session(self._timeout / _TRIES)
        self._client = PrometheusConnect(
            url.rstrip("/"), retry=Retry(0), session=self._session, timeout=self._timeout / _TRIES, method="POST"
        )
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="prometheus")

    async def measure(self, subjects: Sequence[Subject], now: datetime) -> Mapping[tuple[str, str], Measurements]:
        """What is known of each change, by (namespace, name): the arms of all its targets, and their incidents.

        Raises nothing for what Prometheus does: that is the `problem` of the changes that it concerns, and the arms of
        the rules that could be measured are there nevertheless.
        """
        sources = list(dict.fromkeys(subject.source for subject in subjects))
        label_sets = {_key(subject.incidents.labels): subject.incidents.labels for subject in subjects}
        readings, alerts = await asyncio.gather(
            asyncio.gather(*(self._read([s for s in subjects if s.source == each], now) for each in sources)),
            asyncio.gather(*(self._alerts(labels) for labels in label_sets.values())),
        )
        found = dict(zip(label_sets, alerts, strict=True))
        changes: dict[tuple[str, str], _Findings] = defaultdict(_Findings)
        for subject, reading in itertools.chain.from_iterable(readings):
            change = changes[subject.namespace, subject.change]
            change.add(subject, reading, found[_key(subject.incidents.labels)])
        return {change: findings.measurements(now) for change, findings in changes.items()}

    async def ping(self) -> str:
        """Empty, or the problem."""
        answer = await self._query("vector(1)")
        return str(answer) if isinstance(answer, Problem) else ""

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    async def _read(self, subjects: Sequence[Subject], now: datetime) -> list[tuple[Subject, Reading]]:
        batch = Batch(subjects, now)
        asked = (batch.heartbeat_query, batch.requests_query, batch.latency_query, batch.profile_query)
        queries = [query() if batch else "" for query in asked]
        heartbeat, requests_, latency, profile = await asyncio.gather(*map(self._query, queries))
        answers = Answers(heartbeat, requests_, latency, profile=profile)
        # In a thread: for a thousand changes it takes long enough to be missed by the event loop.
        readings = await asyncio.to_thread(batch.read, answers)
        if lacks_bucket(readings):
            answers = dataclasses.replace(answers, edges=await self._query(batch.edges_query()))
            readings = await asyncio.to_thread(batch.read, answers)
        return list(zip(subjects, readings, strict=True))

    async def _alerts(self, labels: Mapping[str, str]) -> list[Alert] | Problem:
        try:
            query = incidents_query(labels)
        except ValueError as error:
            return Problem("InvalidQuery", str(error))
        answer = await self._query(query)
        return answer if isinstance(answer, Problem) else read_alerts(answer)

    async def _query(self, query: str) -> Answer:
        """The series that answer `query`; none for no query."""
        if not query:
            return ()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._tried(query)
        except Exception as error:
            if problem := self._problem(error):
                return problem
            raise

    async def _tried(self, query: str) -> Sequence[Series]:
        for tries in itertools.count(1):
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, query)
            except Exception as error:
                if tries >= _TRIES or not _may_pass(error):
                    raise
            await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311 (it spreads load, it keeps no secret)
        raise AssertionError("the last try returns or raises")

    def _ask(self, query: str) -> Sequence[Series]:
        try:
            return parse(self._client.custom_query(query))
        except (requests.JSONDecodeError, KeyError, TypeError) as error:  # not JSON, or not Prometheus'
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _problem(self, error: Exception) -> Problem | None:
        """What an error means for people; None for one that is ours."""
        match error:
            case _PartialError():
                return Problem(
                    "PartialData", f"{self._at} answered with a part of the data only ({error}): mend what it warns of"
                )
            case _RefusedError(status=400 | 422):
                return Problem(
                    "InvalidQuery",
                    f"{self._at} refuses the query ({error}): mend the ChangePolicy, or raise its limits",
                )
            case _RefusedError(status=status) if status == 429 or status >= 500:
                return Problem("PrometheusError", f"{self._at} fails ({error}): look at its log and its load")
            case _RefusedError() | ValueError() if not isinstance(error, requests.RequestException):
                return Problem(
                    "PrometheusError",
                    f"{self._at} does not answer like Prometheus ({printable(str(error))}): check SERIN_PROMETHEUS_URL",
                )
            case TimeoutError() | requests.Timeout():
                return Problem(
                    "PrometheusUnreachable",
                    f"{self._at} did not answer within {self._timeout:g} s: check that it is up and not overloaded",
                )
            case requests.RequestException() | HTTPError():
                return Problem(
                    "PrometheusUnreachable",
                    f"{self._at}: {_innermost(error)}: check SERIN_PROMETHEUS_URL and that Prometheus is up",
                )
        return None


class _Findings:
    """What is found out about one change, target by target."""

    def __init__(self) -> None:
        self._arms: dict[tuple[str, str, str], Arm] = {}
        self._incidents: list[Incident] = []
        self._problems: list[Problem] = []
        self._profiles: dict[str, tuple[timedelta, ...]] = {}

    def add(self, subject: Subject, reading: Reading, alerts: list[Alert] | Problem) -> None:
        self._arms |= {(subject.target, rule, arm): samples for (rule, arm), samples in reading.arms.items()}
        self._problems += reading.problems
        if reading.profile:
            self._profiles[subject.target] = reading.profile
        if isinstance(alerts, Problem):
            self._problems.append(alerts)
        else:
            incidents, unknown = incidents_of(subject, alerts)
            self._incidents += (incident for incident in incidents if incident not in self._incidents)
            self._problems += unknown

    def measurements(self, now: datetime) -> Measurements:
        problem = "; ".join(dict.fromkeys(map(str, self._problems)))
        return Measurements(now, self._arms, tuple(self._incidents), problem, self._profiles)


class _RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {printable(_error_text(body))}")
        self.status = status


class _PartialError(Exception):
    """200, with warnings."""

    def __init__(self, warnings: Iterable[object]) -> None:
        super().__init__(printable("; ".join(map(str, warnings))))


class _Session(requests.Session):
    """Sends the parameters of a POST in its body, reads within a time limit, and raises for all that is not whole."""

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        if request.method == "POST":
            request.params, request.data = {}, request.params
        return super().prepare_request(request)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        deadline = time.monotonic() + self._timeout
        # A redirect would make a GET without parameters of the POST, and is most often a login page.
        response = super().send(request, **{**kwargs, "stream": True, "allow_redirects": False})
        try:
            body = _read(response, deadline)
        finally:
            response.close()
        if response.status_code != 200:
            raise _RefusedError(response.status_code, body)
        response.raw = io.BytesIO(body)
        if b'"warnings"' in body and (warnings := json.loads(body).get("warnings")):
            raise _PartialError(warnings)
        return response


def _read(response: requests.Response, deadline: float) -> bytes:
    """The body. The time-out of requests is for each read: a byte a second would never end."""
    chunks = []
    try:
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            chunks.append(chunk)
            if time.monotonic() > deadline:
                raise requests.ReadTimeout
    except ReadTimeoutError as error:
        raise requests.ReadTimeout from error
    return b"".join(chunks)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, requests.Timeout) or (
        isinstance(error, _RefusedError) and (error.status == 429 or error.status >= 500)
    )


def _error_text(body: bytes) -> str:
    """What Prometheus says was wrong, or the text of whatever answered."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return " ".join(body[:1000].decode(errors="replace").split())


def _innermost(error: BaseException) -> str:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return printable(str(error) or type(error).__name__)


def _key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))
