"""Delivery to real HTTP servers on loopback that fail in every way."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from aiohttp import web

from controller import notify
from controller.core.model import Change, Receipt, State, Told
from controller.core.notices import DECLARED
from controller.core.policy import ChangeType
from controller.notify import Notifier
from controller.sinks import Format, Header, Sink

pytestmark = pytest.mark.usefixtures("in_namespace", "short_pauses")
CHANGE = Change("shop", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL, uid="4f1d")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "ANSWER_MAX": 2,
        "PAUSE_FIRST": 0.02,
        "PAUSE_MAX": 0.1,
        "REFUSED_FIRST": 0.05,
        "REFUSED_MAX": 0.1,
        "RETRY_AFTER_MAX": 0.5,
    }.items():
        monkeypatch.setattr(notify, name, timedelta(seconds=seconds))


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Server:
    """A webhook that answers as it is told to, and remembers what it was sent."""

    answers: list[Answer] = field(default_factory=list)
    """One for each request, the last of them for good; none: 204."""
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    at: list[datetime] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/S3CRET"

    @property
    def ids(self) -> list[str]:
        return [str(sent["id"]) for _, sent in self.requests]

    async def receive(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((dict(request.headers), await request.json()))
        self.at.append(now())
        if not self.answers:
            return web.Response(status=204)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Server]:
    server = Server(list(answers))
    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", server.receive)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


def status(code: int, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=code, headers=headers, text="<script>S3CRET answer</script>")

    return answer


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=200)
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def told(what: str, *sinks: str, kind: str = "dev.serin.change.advanced", age: timedelta = timedelta()) -> Told:
    return Told(what, kind, now() - age, ("requester",), f"text of {what}", "kubectl serin status", sinks)


@dataclass(frozen=True)
class Known:
    change: Change
    state: State


class Cluster:
    """The changes and what they owe; receipts are committed as the reconciler does it, when `commits`."""

    def __init__(self, *notices: Told, changes: int = 1) -> None:
        self.known = {
            f"chg-{i}": Known(replace(CHANGE, name=f"chg-{i}", uid=f"uid-{i}"), State(told=notices))
            for i in range(changes)
        }
        self.commits = True
        self.leads = True
        self.outcomes: list[tuple[str, str]] = []
        self.notifier: Notifier | None = None

    def owed(self, sink: str) -> Iterable[Known]:
        return [k for k in self.known.values() if any(sink in t.owed for t in k.state.told)]

    def wake(self, namespace: str, name: str) -> None:
        if self.commits:
            asyncio.get_running_loop().call_soon(self.commit, name)

    def commit(self, name: str) -> None:
        assert self.notifier
        known = self.known[name]
        for what, receipt in self.notifier.receipts(known.change):
            known = replace(known, state=replace(known.state, told=acknowledged(known.state.told, what, receipt)))
        self.known[name] = known
        self.notifier.look()

    def notified(self, sink: str, outcome: str) -> None:
        self.outcomes.append((sink, outcome))

    @asynccontextmanager
    async def telling(self, *sinks: Sink) -> AsyncIterator[Notifier]:
        self.notifier = Notifier(
            sinks,
            cluster="",
            owed=self.owed,
            known=lambda namespace, name: self.known.get(name),
            leads=lambda: self.leads,
            wake=self.wake,
            reports=self,
            now=now,
        )
        running = asyncio.create_task(self.notifier.run())
        try:
            yield self.notifier
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @property
    def outstanding(self) -> list[tuple[str, str]]:
        return [(t.what, sink) for k in self.known.values() for t in k.state.told for sink in t.owed]


def acknowledged(notices: tuple[Told, ...], what: str, receipt: Receipt) -> tuple[Told, ...]:
    return tuple(
        replace(t, owed=tuple(s for s in t.owed if s != receipt.sink), receipts=(*t.receipts, receipt))
        if t.what == what and receipt.sink in t.owed
        else t
        for t in notices
    )


async def until(done: Callable[[], object], within: float = 30) -> None:
    async with asyncio.timeout(within):
        while not done():  # noqa: ASYNC110 (what is waited for is a server's or a task's, and has no event)
            await asyncio.sleep(0.005)


def sink(server: Server, name: str = "chat", **fields: Any) -> Sink:
    return Sink(name, url=server.url, **fields)


# --- It arrives ---


async def test_every_notice_arrives_once_oldest_first_and_its_receipt_comes_back() -> None:
    cluster = Cluster(*(told(f"n{i}", "chat", age=timedelta(minutes=9 - i)) for i in range(3)))
    async with serving() as server, cluster.telling(sink(server)) as notifier:
        await until(lambda: not cluster.outstanding)
        assert server.ids == ["uid-0/n0", "uid-0/n1", "uid-0/n2"]
        receipts = [r.sink for t in cluster.known["chg-0"].state.told for r in t.receipts]
        assert receipts == ["chat"] * 3
        await until(lambda: not notifier.receipts(cluster.known["chg-0"].change))
        assert notifier.oldest("chat") == timedelta()
        headers, _ = server.requests[0]
        assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert cluster.outcomes == [("chat", "delivered")] * 3


async def test_what_is_new_is_sent_without_delay() -> None:
    cluster = Cluster()
    async with serving() as server, cluster.telling(sink(server)) as notifier:
        await asyncio.sleep(0.05)
        cluster.known["chg-0"] = replace(cluster.known["chg-0"], state=State(told=(told("new", "chat"),)))
        notifier.look()
        await until(lambda: not cluster.outstanding)
        assert server.ids == ["uid-0/new"]


async def test_the_header_is_sent_and_a_sink_without_its_secret_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(told("n", "chat"))
    async with serving() as server, cluster.telling(sink(server, header=Header("X-Token", env="CHAT_TOKEN"))):
        await until(lambda: ("chat", "unusable") in cluster.outcomes)
        assert not server.requests
        monkeypatch.setenv("CHAT_TOKEN", "S3CRET")
        await until(lambda: not cluster.outstanding)
        assert server.requests[0][0]["X-Token"] == "S3CRET"


async def test_an_emergency_does_not_wait_behind_others() -> None:
    urgent = told(DECLARED, "chat", kind="dev.serin.emergency.declared")
    cluster = Cluster(*(told(f"n{i}", "chat", age=timedelta(hours=1)) for i in range(30)), urgent)
    async with serving() as server, cluster.telling(sink(server)):
        await until(lambda: not cluster.outstanding)
        assert server.ids[0] == f"uid-0/{DECLARED}"
        assert len(set(server.ids)) == len(server.ids) == 31


async def test_slack_is_sent_what_slack_reads() -> None:
    cluster = Cluster(told("n", "chat"))
    async with serving() as server, cluster.telling(sink(server, format=Format.SLACK)):
        await until(lambda: not cluster.outstanding)
        headers, sent = server.requests[0]
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        assert sent["text"] == "text of n – kubectl serin status"


# --- It does not arrive at first ---


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (status(500), "failed"),
        (status(503), "failed"),
        (status(429), "failed"),
        (status(401), "failed"),
        (status(404), "failed"),
        (status(302, Location="/elsewhere"), "redirected"),
        (status(307, Location="/elsewhere"), "redirected"),
        (status(400), "refused"),
        (status(422), "refused"),
        (never, "timeout"),
        (hang_up, "unreachable"),
    ],
)
async def test_whatever_goes_wrong_first_it_arrives_in_the_end_and_is_the_same(answer: Answer, outcome: str) -> None:
    cluster = Cluster(told("n", "chat"))
    async with serving(answer, answer, status(200)) as server, cluster.telling(sink(server)):
        await until(lambda: not cluster.outstanding)
        assert cluster.outcomes == [("chat", outcome)] * 2 + [("chat", "delivered")]
        assert [json.dumps(sent) for _, sent in server.requests] == [json.dumps(server.requests[0][1])] * 3


async def test_a_redirect_is_not_followed() -> None:
    async with serving() as elsewhere:
        async with serving(status(308, Location=elsewhere.url)) as server:
            cluster = Cluster(told("n", "chat"))
            async with cluster.telling(sink(server)):
                await until(lambda: len(server.requests) >= 3)
        assert not elsewhere.requests
        assert cluster.outstanding


async def test_a_server_that_is_not_there_yet() -> None:
    cluster = Cluster(told("n", "chat"))
    async with serving() as gone:
        pass
    async with cluster.telling(Sink("chat", url=gone.url)):
        await until(lambda: cluster.outcomes.count(("chat", "unreachable")) >= 3)
        assert cluster.outstanding


async def test_an_answer_without_end_is_not_read() -> None:
    cluster = Cluster(told("n", "chat"))
    async with serving(endless) as server, cluster.telling(sink(server)):
        await until(lambda: not cluster.outstanding)
    assert cluster.outcomes == [("chat", "delivered")]


async def test_a_sink_that_asks_for_time_is_given_it() -> None:
    cluster = Cluster(told("n", "chat"))
    async with serving(status(429, **{"Retry-After": "3600"}), status(200)) as server, cluster.telling(sink(server)):
        await until(lambda: not cluster.outstanding)
        assert timedelta(seconds=0.45) < server.at[1] - server.at[0] < timedelta(minutes=1), "an hour is not waited"


async def test_pauses_grow_to_a_limit() -> None:
    cluster = Cluster(told("n", "chat"))
    async with serving(status(500)) as server, cluster.telling(sink(server)):
        await until(lambda: len(server.at) >= 9)
        pauses = [later - before for before, later in zip(server.at, server.at[1:], strict=False)]
    assert min(pauses[4:]) > timedelta(seconds=0.04)


async def test_one_that_is_refused_does_not_hold_up_the_others() -> None:
    async def picky(request: web.Request) -> web.Response:
        return web.Response(status=400 if (await request.json())["id"].endswith("/bad") else 200)

    cluster = Cluster(told("bad", "chat", age=timedelta(hours=1)), told("good", "chat"))
    async with serving(picky) as server, cluster.telling(sink(server)) as notifier:
        await until(lambda: cluster.outstanding == [("bad", "chat")])
        await until(lambda: server.ids.count("uid-0/bad") >= 3)
        assert server.ids.count("uid-0/good") == 1
        assert notifier.oldest("chat") > timedelta(minutes=59)


async def test_a_dead_sink_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "ANSWER_MAX", timedelta(minutes=1))
    cluster = Cluster(*(told(f"n{i}", "dead", "nowhere", "chat") for i in range(5)))
    nowhere = Sink("nowhere", url="http://127.0.0.1:1/")
    async with serving(never) as dead, serving() as server, cluster.telling(sink(dead, "dead"), nowhere, sink(server)):
        await until(lambda: len(server.ids) == 5)


async def test_a_receipt_that_could_not_be_committed_is_kept_until_it_is() -> None:
    cluster = Cluster(told("n", "chat"))
    cluster.commits = False
    async with serving() as server, cluster.telling(sink(server)) as notifier:
        await until(lambda: server.ids)
        notifier.look()
        await asyncio.sleep(0.1)
        assert server.ids == ["uid-0/n"], "not sent again"
        assert [what for what, _ in notifier.receipts(cluster.known["chg-0"].change)] == ["n"]


async def test_another_process_sends_it_again_with_the_same_id() -> None:
    cluster = Cluster(told("n", "chat"))
    cluster.commits = False
    async with serving() as server:
        for _ in range(2):
            async with cluster.telling(sink(server)):
                await until(lambda: server.ids)
                await asyncio.sleep(0.05)
        assert server.ids == ["uid-0/n"] * 2


async def test_only_who_leads_sends() -> None:
    cluster = Cluster(told("n", "chat"))
    cluster.leads = False
    async with serving() as server, cluster.telling(sink(server)) as notifier:
        await asyncio.sleep(0.1)
        assert not server.requests
        cluster.leads = True
        notifier.look()
        await until(lambda: not cluster.outstanding)


async def test_what_is_older_than_a_week_is_not_sent() -> None:
    cluster = Cluster(told("old", "chat", age=timedelta(days=7, seconds=1)), told("new", "chat"))
    async with serving() as server, cluster.telling(sink(server)):
        await until(lambda: server.ids)
        await asyncio.sleep(0.05)
        assert server.ids == ["uid-0/new"]


async def test_nothing_grows_here_however_much_is_owed() -> None:
    cluster = Cluster(*(told(f"n{i}", "chat") for i in range(20)), changes=50)
    async with serving() as server, cluster.telling(sink(server)) as notifier:
        await until(lambda: not cluster.outstanding)
        assert len(set(server.ids)) == 1000
        await until(lambda: not notifier._receipts)
        cluster.known.clear()
        notifier.look()
        await asyncio.sleep(0.02)
        assert not any(line.refused for line in notifier._lines.values())


async def test_a_fault_of_ours_ends_neither_the_process_nor_the_line() -> None:
    cluster = Cluster(told("n", "chat"))
    owed, failures = cluster.owed, [RuntimeError("oops")]

    def failing(sink: str) -> Iterable[Known]:
        if failures:
            raise failures.pop()
        return owed(sink)

    cluster.owed = failing  # type: ignore[method-assign]
    async with serving() as server, cluster.telling(sink(server)):
        await until(lambda: not cluster.outstanding)


async def test_neither_secrets_nor_answers_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_TOKEN", "S3CRET")
    cluster = Cluster(told("n", "chat"), told("m", "chat"))
    with structlog.testing.capture_logs() as lines:
        answers = (status(500), status(302, Location="http://S3CRET"), status(400), hang_up, status(200))
        async with serving(*answers) as server, cluster.telling(sink(server, header=Header(env="CHAT_TOKEN"))):
            await until(lambda: not cluster.outstanding)
    assert {line["event"] for line in lines} == {"notice_not_delivered", "notice_delivered"}
    assert "S3CRET" not in repr(lines)
