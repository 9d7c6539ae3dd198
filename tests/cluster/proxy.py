"""A reverse proxy on loopback between the client and the real API server that fails on demand, as real ones do."""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]
When = Callable[[web.Request], bool]

FOREVER = 10**9
HOP_HEADERS = {"host", "transfer-encoding", "content-encoding", "content-length", "connection"}


def watches(request: web.Request) -> bool:
    return request.query.get("watch") == "true"


def lists(request: web.Request) -> bool:
    return request.method == "GET" and "limit" in request.query


def pages_on(request: web.Request) -> bool:
    return "continue" in request.query


def writes(request: web.Request) -> bool:
    return request.method != "GET"


def anything(request: web.Request) -> bool:
    return True


class Proxy:
    """`url` leads to the API server; `requests` are those that came, refused ones included."""

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.requests: list[web.Request] = []
        self._upstream = upstream
        self._session = session
        self._faults: deque[tuple[When, Act, list[int]]] = deque()

    def inject(self, act: Act, when: When = anything, times: int = FOREVER) -> None:
        self._faults.append((when, act, [times]))

    def heal(self) -> None:
        self._faults.clear()

    def count(self, when: When = anything) -> int:
        return sum(map(when, self.requests))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        for when, act, left in self._faults:
            if left[0] > 0 and when(request):
                left[0] -= 1
                return await act(request)
        return await self.forward(request)

    async def forward(self, request: web.Request, cut_after: int | None = None) -> web.StreamResponse:
        """Pass the exchange on; with `cut_after` the connection breaks after that many bytes of the answer."""
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_HEADERS}
        url = self._upstream + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=await request.read()) as answer:
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in HOP_HEADERS}
            response = web.StreamResponse(status=answer.status, headers=kept)
            response.enable_chunked_encoding()
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                if cut_after is not None:
                    await response.write(chunk[:cut_after])
                    return break_off(request, response)
                await response.write(chunk)
            await response.write_eof()
            return response

    async def cut(self, request: web.Request) -> web.StreamResponse:
        return await self.forward(request, cut_after=40)

    async def lose_answer(self, request: web.Request) -> web.StreamResponse:
        """The API server does what was asked; the client never hears of it."""
        return await self.forward(request, cut_after=0)


def break_off(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return response


def text(status: int, body: str = "upstream connect error", **headers: str) -> Act:
    async def act(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return act


def failure(code: int, reason: str, message: str = "injected") -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def status(code: int, reason: str, **headers: str) -> Act:
    async def act(request: web.Request) -> web.StreamResponse:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return web.json_response(failure(code, reason), status=code, headers=named)

    return act


def stream(lines: Sequence[bytes], *, silent_for: float = 0) -> Act:
    """A watch that says `lines`, is silent for that many seconds, and ends."""

    async def act(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        await asyncio.sleep(silent_for)
        await response.write_eof()
        return response

    return act


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits for an hour")


def kubeconfig(path: Path, server: str, user: dict[str, Any]) -> Path:
    named = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        "clusters": [{"name": "proxy", "cluster": {"server": server}}],
        "users": [{"name": "proxy", "user": user}],
    }
    path.write_text(json.dumps(named))
    return path


@asynccontextmanager
async def in_front_of(server: str) -> AsyncIterator[Proxy]:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    connector = aiohttp.TCPConnector(ssl=trusting, limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as session:
        proxy = Proxy(server, session)
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield proxy
        finally:
            await runner.cleanup()
