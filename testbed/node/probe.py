"""Probes: what to ask, how often, and what a run of answers means."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from testbed.node.api import Json
from testbed.node.process import Process
from testbed.node.spec import ConfigError, named_port

FIRST_LOOK = timedelta(milliseconds=50)


@dataclass(frozen=True)
class Probe:
    """One probe of a container; exactly one of `http`, `tcp_port` and `argv` says how it asks."""

    host: str
    http: Json | None
    tcp_port: int | None
    argv: list[str] | None
    env: dict[str, str]
    initial_delay: timedelta
    period: timedelta
    timeout: timedelta
    success_threshold: int
    failure_threshold: int

    @classmethod
    def read(cls, spec: Json, container: Json, ip: str, env: dict[str, str]) -> Self:
        """From `readinessProbe` and the like, as the API server defaulted it. Raises ConfigError."""
        http, tcp, run = spec.get("httpGet"), spec.get("tcpSocket"), spec.get("exec")
        if http is not None:
            http = {**http, "port": named_port(container, http["port"])}
        elif tcp is None and run is None:
            raise ConfigError("a probe of this node is httpGet, tcpSocket or exec")
        return cls(
            host=(http or tcp or {}).get("host") or ip,
            http=http,
            tcp_port=None if tcp is None else named_port(container, tcp["port"]),
            argv=None if run is None else run["command"],
            env=env,
            initial_delay=timedelta(seconds=spec.get("initialDelaySeconds", 0)),
            period=timedelta(seconds=spec.get("periodSeconds", 10)),
            timeout=timedelta(seconds=spec.get("timeoutSeconds", 1)),
            success_threshold=spec.get("successThreshold", 1),
            failure_threshold=spec.get("failureThreshold", 3),
        )

    async def ask(self) -> bool:
        """Ask once. No answer within the time-out is a no."""
        try:
            async with asyncio.timeout(self.timeout.total_seconds()):
                if self.http is not None:
                    return 200 <= await _http_status(self.host, self.http) < 400
                if self.tcp_port is not None:
                    _, writer = await asyncio.open_connection(self.host, self.tcp_port)
                    writer.close()
                    return True
                return await self._run()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            return False

    async def _run(self) -> bool:
        assert self.argv is not None
        process = Process(self.argv, self.env, log=None)
        try:
            return await process.wait() == 0
        finally:
            process.kill()


async def _http_status(host: str, get: Json) -> int:
    """The status code of one GET. Raises OSError or ValueError when there is none."""
    tls: ssl.SSLContext | None = None
    if get.get("scheme") == "HTTPS":
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE  # a kubelet does not verify either
    reader, writer = await asyncio.open_connection(host, get["port"], ssl=tls)
    try:
        headers = {"Host": f"{host}:{get['port']}", "User-Agent": "kube-probe/testbed", "Connection": "close"}
        headers.update({header["name"]: header["value"] for header in get.get("httpHeaders", [])})
        lines = [f"GET {get.get('path') or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        protocol, code, *_ = (await reader.readline()).split(maxsplit=2)
        if not protocol.startswith(b"HTTP/"):
            raise ValueError("not HTTP")
        return int(code)
    finally:
        writer.close()


class Streak:
    """A verdict that turns only after enough equal answers in a row."""

    def __init__(self, passing: bool, success_threshold: int, failure_threshold: int) -> None:
        self.passing = passing
        self._needed = {True: success_threshold, False: failure_threshold}
        self._against = 0

    def see(self, answer: bool) -> bool:
        """Take in one answer and give the verdict."""
        self._against = 0 if answer == self.passing else self._against + 1
        if self._against >= self._needed[answer]:
            self.passing, self._against = answer, 0
        return self.passing


def first_looks(period: timedelta) -> Iterator[timedelta]:
    """Pauses until the first yes: short, so that a healthy pod is ready soon, then the period."""
    pause = min(FIRST_LOOK, period)
    while True:
        yield pause
        pause = min(pause * 2, period)
