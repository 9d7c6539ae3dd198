"""Where an Alertmanager posts its alerts: beside what Prometheus answers, and when it does not."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from aiohttp import web

from controller.metrics.alertmanager import ToldAlerts, read_post

log = structlog.get_logger()

PATH = "/alerts"
BODY_MAX = 1 << 20
BODY_WITHIN = timedelta(seconds=10)
TOKEN_MIN = 16
"""Characters; a shorter token is none."""


class AlertEndpoint:
    """Takes what is posted with the token that stands in `token_file`; without a token there is no such place.

    `leads`: another replica answers 503 and closes the connection, so that the Alertmanager tries again elsewhere.
    `taken` is called after each post that told something; `counted` with a word for how each ended.
    """

    def __init__(
        self,
        token_file: Path | None,
        alerts: ToldAlerts,
        *,
        leads: Callable[[], bool],
        taken: Callable[[], None],
        counted: Callable[[str], None],
        now: Callable[[], datetime],
    ) -> None:
        self._token_file, self._alerts = token_file, alerts
        self._leads, self._taken, self._counted, self._now = leads, taken, counted, now

    async def answer(self, request: web.Request) -> web.Response:
        """An answer never repeats what was posted."""
        status, word = await self._judge(request)
        if status != 404:
            self._counted(word)
        response = web.Response(status=status, text=f"{word}\n")
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if status != 200:
            response.force_close()
        return response

    async def _judge(self, request: web.Request) -> tuple[int, str]:
        token = self._token()
        if not token:
            return 404, "not found"
        if not _same(request.headers.get("Authorization", ""), f"Bearer {token}"):
            return 401, "unauthorized"
        if not self._leads():
            return 503, "standby"
        try:
            async with asyncio.timeout(BODY_WITHIN.total_seconds()):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return 413, "too large"
        except TimeoutError:
            return 408, "too slow"
        try:
            told = read_post(body)
        except ValueError as error:
            log.warning("alerts_refused", reason="NotAlertmanager", message=str(error))
            return 400, "malformed"
        self._alerts.take(told, self._now())
        self._taken()
        return 200, "ok"

    def _token(self) -> str:
        """Read each time: a Secret that is made, changed or deleted takes effect without a restart."""
        try:
            token = self._token_file.read_text().strip() if self._token_file else ""
        except (OSError, UnicodeDecodeError):
            return ""
        return token if len(token) >= TOKEN_MIN else ""


def _same(given: str, wanted: str) -> bool:
    """In a time that tells nothing of where they differ, nor of how long either is."""
    digests = (hashlib.sha256(text.encode(errors="surrogateescape")).digest() for text in (given, wanted))
    return hmac.compare_digest(*digests)
