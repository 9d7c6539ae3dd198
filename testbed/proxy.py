"""A reverse proxy in front of a real API server or Prometheus that fails on demand, as real ones and their networks do.

    with Thread().in_front_of("https://10.243.0.1:6443") as proxy:
        proxy.inject(status(409, "Conflict"), both(writes, under("/httproutes/")), times=1)

Clients speak plain HTTP to it. What no fault matches is passed on as it is, watches line by line. An act is told of a
request and answers it; those that pass it on first are methods.
"""

import asyncio
import json
import ssl
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]
When = Callable[[web.Request], bool]

FOREVER = 10**9
REMEMBERED = 5000
HOP_HEADERS = {"host", "transfer-encoding", "content-encoding", "content-length", "connection"}


# --- Which requests ---


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


def under(*parts: str) -> When:
    """Those whose path has all these parts."""
    return lambda request: all(part in request.path for part in parts)


def both(*conditions: When) -> When:
    return lambda request: all(condition(request) for condition in conditions)


# --- The proxy ---


@dataclass
class Fault:
    """`when` a request matches, `act` answers it: `times` times, after `skip` that were spared."""

    when: When
    act: Act
    times: int
    skip: int
    hits: int = 0

    def strikes(self, request: web.Request) -> bool:
        if self.hits >= self.times or not self.when(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class Proxy:
    """`url` leads to the server; `requests` are the last that came, refused ones included.

    Faults may be injected and lifted from any thread.
    """

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.requests: deque[web.Request] = deque(maxlen=REMEMBERED)
        self._upstream = upstream
        self._session = session
        self._faults: tuple[Fault, ...] = ()
        self._detached: set[asyncio.Task[Answer]] = set()

    def inject(self, act: Act, when: When = anything, times: int = FOREVER, *, skip: int = 0) -> Fault:
        """The first fault that strikes a request answers it."""
        fault = Fault(when, act, times, skip)
        self._faults = (*self._faults, fault)
        return fault

    def lift(self, fault: Fault) -> None:
        self._faults = tuple(other for other in self._faults if other is not fault)

    def heal(self) -> None:
        self._faults = ()

    def count(self, when: When = anything) -> int:
        return sum(map(when, self.requests))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        await request.read()  # now: an act may answer when the client is gone
        fault = next((fault for fault in self._faults if fault.strikes(request)), None)
        try:
            return await (fault.act(request) if fault else self.forward(request))
        except ConnectionResetError:  # the client is gone
            return hang_up(request)

    async def forward(self, request: web.Request, cut_after: int | None = None) -> web.StreamResponse:
        """Pass the exchange on; with `cut_after` the connection breaks after that many bytes of the answer."""
        async with self._asking(request) as answer:
            response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
            response.enable_chunked_encoding()
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                if cut_after is not None:
                    await response.write(chunk[:cut_after])
                    return break_off(request, response)
                await response.write(chunk)
            await response.write_eof()
            return response

    async def exchange(self, request: web.Request) -> Answer:
        """Pass a request on that is no watch; the whole answer."""
        async with self._asking(request) as answer:
            return Answer(answer.status, _kept(answer.headers), await answer.read())

    @asynccontextmanager
    async def _asking(self, request: web.Request) -> AsyncIterator[aiohttp.ClientResponse]:
        headers, url = _kept(request.headers), self._upstream + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=await request.read()) as answer:
            yield answer

    # --- Acts that pass the request on ---

    async def cut(self, request: web.Request) -> web.StreamResponse:
        return await self.forward(request, cut_after=40)

    async def lose_answer(self, request: web.Request) -> web.StreamResponse:
        """The server does what was asked; the client never hears of it."""
        await self.exchange(request)
        return hang_up(request)

    def late(self, released: asyncio.Event, told: Callable[[web.Request, Answer], None]) -> Act:
        """It reaches the server when `released` is set, though the client may be gone by then; `told` hears of it."""

        async def wait_and_ask(request: web.Request) -> Answer:
            await released.wait()
            answer = await self.exchange(request)
            told(request, answer)
            return answer

        async def act(request: web.Request) -> web.StreamResponse:
            task = asyncio.create_task(wait_and_ask(request))
            self._detached.add(task)
            task.add_done_callback(self._detached.discard)
            return (await asyncio.shield(task)).response()

        return act

    def edited(self, edit: Callable[[Any], Any]) -> Act:
        """The JSON of the answer as `edit` makes it."""

        async def act(request: web.Request) -> web.StreamResponse:
            answer = await self.exchange(request)
            return web.json_response(edit(json.loads(answer.body)), status=answer.status)

        return act

    def replayed(self, fresh: int, stale: int) -> Act:
        """One that lags behind, or a cache before it: of each address, after `fresh` answers, the first one again
        `stale` times."""
        first: dict[str, Answer] = {}
        asked: Counter[str] = Counter()

        async def act(request: web.Request) -> web.StreamResponse:
            address = request.raw_path
            asked[address] += 1
            if fresh < asked[address] <= fresh + stale:
                return first[address].response()
            answer = await self.exchange(request)
            first.setdefault(address, answer)
            return answer.response()

        return act

    def dripping(self, pause: timedelta) -> Act:
        """A byte at a time."""

        async def act(request: web.Request) -> web.StreamResponse:
            answer = await self.exchange(request)
            response = web.StreamResponse(status=answer.status, headers=answer.headers)
            await response.prepare(request)
            for i in range(len(answer.body)):
                await response.write(answer.body[i : i + 1])
                await asyncio.sleep(pause.total_seconds())
            await response.write_eof()
            return response

        return act


def _kept(headers: Any) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() not in HOP_HEADERS}


# --- Acts that do not ---


def break_off(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


def hang_up(request: web.Request) -> web.StreamResponse:
    """Without a word."""
    return break_off(request, web.Response(status=500))


async def refuse(request: web.Request) -> web.StreamResponse:
    return hang_up(request)


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


# --- Running one ---


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
async def in_front_of(server: str, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Proxy]:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    connector = aiohttp.TCPConnector(ssl=trusting, limit=0)
    patient = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=True, timeout=patient) as session:
        proxy = Proxy(server, session)
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        proxy.url = f"http://{host}:{runner.addresses[0][1]}"
        try:
            yield proxy
        finally:
            await runner.cleanup()


class Thread:
    """The loop that proxies run in beside tests that wait."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    @contextmanager
    def in_front_of(self, server: str, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Proxy]:
        opened = in_front_of(server, host=host, port=port)
        proxy = asyncio.run_coroutine_threadsafe(opened.__aenter__(), self.loop).result(10)
        try:
            yield proxy
        finally:
            asyncio.run_coroutine_threadsafe(opened.__aexit__(None, None, None), self.loop).result(10)

    def release(self, event: asyncio.Event) -> None:
        """Set it in the loop that waits for it."""
        self.loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
