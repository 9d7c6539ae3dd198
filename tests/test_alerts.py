"""controller.alerts: only who has the token may post, nothing that is posted harms, and changes hear of it at once."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from controller.alerts import BODY_MAX, PATH
from controller.app import _Process
from controller.cluster.client import Client
from controller.cluster.clock import Clock
from controller.cluster.read import Known
from controller.core.model import Change, Measurements, Phase, ServicePair, State, Strategy, Target
from controller.core.policy import ChangeType, Policy, Step
from controller.settings import load_settings
from tests.metrics.test_alertmanager import alert, post

TOKEN = "6f1d2c3b4a5968778695a4b3c2d1e0f0"
CHANGE = Change("default", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL)


def running(since: datetime) -> State:
    return State(
        phase=Phase.PROGRESSING,
        weight=10,
        weighted_at=since,
        settled_at=since,
        policy=Policy((Step(10, timedelta(minutes=5)), Step(100, timedelta(minutes=5)))),
        targets=(Target("shop", "u", "r", Strategy.CANARY, stable_replica_set="shop-6d4c", services=(PAIR,)),),
    )


PAIR = ServicePair("shop", "shop-canary", (80,))


class Place:
    """A whole process of Serin that listens, but for the cluster: it has one change that is running."""

    def __init__(self, process: _Process, url: str, token: Path) -> None:
        self.process, self.url, self.token = process, url, token
        self.leads = True
        self.woken: list[str] = []

    async def send(self, body: bytes, token: str | None = TOKEN, **headers: str) -> tuple[int, str]:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url, data=io.BytesIO(body), headers=headers) as response,
        ):
            return response.status, await response.text()

    def incidents(self) -> list[str]:
        measured = self.process._measured(CHANGE.namespace, CHANGE.name)
        assert measured
        return [incident.name for incident in measured.incidents]

    def outcomes(self) -> dict[str, float]:
        [family] = [f for f in self.process.telemetry.registry.collect() if f.name == "serin_alert_posts"]
        return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_total")}


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Place]:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("SERIN_PROMETHEUS_URL", "http://prometheus.test")
    monkeypatch.setenv("SERIN_ALERT_TOKEN_FILE", str(token))
    monkeypatch.setenv("SERIN_LISTEN", "127.0.0.1:0")
    process = _Process(load_settings(), cast(Client, SimpleNamespace(clock=Clock())))
    since = datetime.now(UTC) - timedelta(minutes=1)
    known = Known(CHANGE, running(since))
    monkeypatch.setattr(
        process.cluster, "known", lambda *key: known if key == (CHANGE.namespace, CHANGE.name) else None
    )
    monkeypatch.setattr(process.cluster.changes, "list", lambda: [known])
    process.measuring._newest[CHANGE.namespace, CHANGE.name] = Measurements(since, problem="PrometheusUnreachable: x")
    runner = await process.serve()
    site = cast(web.TCPSite, next(iter(runner.sites)))
    port = cast(asyncio.Server, site._server).sockets[0].getsockname()[1]
    place = Place(process, f"http://127.0.0.1:{port}{PATH}", token)
    monkeypatch.setattr(process.alerts, "_leads", lambda: place.leads)
    monkeypatch.setattr(process, "_look_at", lambda key: place.woken.append(key.name))
    yield place
    await runner.cleanup()
    await process.prometheus.close()


def fresh(**labels: str) -> dict[str, Any]:
    return alert(began=datetime.now(UTC) - timedelta(seconds=5), **labels)


async def test_an_incident_reaches_the_change_and_wakes_it_though_prometheus_is_away(place: Place) -> None:
    assert place.incidents() == []
    assert await place.send(post(fresh())) == (200, "ok\n")
    assert place.woken == [CHANGE.name]
    assert place.incidents() == ["ShopDown"]
    measured = place.process._measured(CHANGE.namespace, CHANGE.name)
    assert measured
    assert measured.problem == "PrometheusUnreachable: x"
    assert place.outcomes() == {"ok": 1}


async def test_an_incident_of_another_wakes_nobody(place: Place) -> None:
    assert (await place.send(post(fresh(deployment="cart"), fresh(severity="P2"))))[0] == 200
    assert (place.woken, place.incidents()) == ([], [])


async def test_prometheus_and_alertmanager_are_heard_together(place: Place) -> None:
    await place.send(post(fresh()))
    key = (CHANGE.namespace, CHANGE.name)
    known = place.process._measured(*key)
    assert known
    earlier = replace(known.incidents[0], began_at=known.incidents[0].began_at - timedelta(minutes=2))
    place.process.measuring._newest[key] = replace(known, incidents=(earlier,))
    merged = place.process._measured(*key)
    assert merged
    assert merged.incidents == (earlier,)


@pytest.mark.parametrize(
    "token", [None, "", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "x" * 4000, "\xe4" * 32, f"{TOKEN} {TOKEN}"]
)
async def test_without_the_token_nothing_is_taken(place: Place, token: str | None) -> None:
    status, text = await place.send(post(fresh()), token)
    assert (status, text) == (401, "unauthorized\n")
    assert (place.woken, place.incidents()) == ([], [])


@pytest.mark.parametrize("header", [TOKEN, f"Basic {TOKEN}", f"bearer{TOKEN}", f"Bearer  {TOKEN}", f"Token {TOKEN}"])
async def test_another_way_to_say_it_is_none(place: Place, header: str) -> None:
    assert (await place.send(post(fresh()), None, Authorization=header))[0] == 401


@pytest.mark.parametrize("text", [None, "", "\n", "short\n", "x" * 15])
async def test_without_a_token_there_is_no_such_place(place: Place, text: str | None) -> None:
    if text is None:
        place.token.unlink()
    else:
        place.token.write_text(text)
    for token in (TOKEN, "", (text or "").strip()):
        assert await place.send(post(fresh()), token) == (404, "not found\n")
    assert (place.incidents(), place.outcomes()) == ([], {})


async def test_a_token_is_changed_without_a_restart(place: Place) -> None:
    place.token.write_text("another-token-of-some-length")
    assert (await place.send(post(fresh())))[0] == 401
    assert (await place.send(post(fresh()), "another-token-of-some-length"))[0] == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", post(version="3"), post({"status": "<script>evil</script>"}), b"\x00" * 99]
)
async def test_nonsense_is_refused_and_not_repeated(place: Place, body: bytes) -> None:
    assert await place.send(body) == (400, "malformed\n")
    assert place.incidents() == []


async def test_a_body_may_be_large_and_no_larger(place: Place) -> None:
    whole = post(fresh(), externalURL="x" * (BODY_MAX - 2000))
    assert len(whole) < BODY_MAX
    assert (await place.send(whole))[0] == 200
    place.woken.clear()
    assert await place.send(post(fresh(), externalURL="x" * BODY_MAX)) == (413, "too large\n")
    assert place.woken == []


async def test_a_body_that_does_not_say_how_large_it_is_is_cut_off(place: Place) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * (1 << 16)

    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(place.url, data=endless(), headers=headers) as response:
                assert response.status == 413
        except aiohttp.ClientConnectionError:
            pass  # hung up on while it still sent
    assert place.outcomes() == {"too large": 1}


async def test_who_has_no_token_is_not_listened_to(place: Place) -> None:
    """Of a body of a gigabyte no byte is read before the token is seen."""
    port = int(place.url.rsplit(":", 1)[1].removesuffix(PATH))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 30}\r\n\r\n".encode())
    await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
    assert b" 401 " in head
    assert b"Connection: close" in head
    writer.close()


async def test_a_body_that_comes_drop_by_drop_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.alerts.BODY_WITHIN", timedelta(seconds=0.3))
    port = int(place.url.rsplit(":", 1)[1].removesuffix(PATH))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n"
    writer.write(head.encode())
    began = time.monotonic()
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
    assert b" 408 " in answer
    assert 0.2 < time.monotonic() - began < 1.5
    writer.close()


async def test_a_replica_that_stands_by_sends_the_sender_elsewhere(place: Place) -> None:
    place.leads = False
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(place.url, data=post(fresh()), headers=headers) as response,
    ):
        assert (response.status, response.headers["Connection"]) == (503, "close")
    place.leads = True
    assert place.incidents() == []


async def test_a_replay_after_the_end_is_heard_by_nobody(place: Place) -> None:
    firing = post(fresh())
    resolved = json.loads(firing)
    resolved["alerts"][0]["status"] = "resolved"
    await place.send(firing)
    await place.send(json.dumps(resolved).encode())
    assert place.incidents() == []
    place.woken.clear()
    assert (await place.send(firing))[0] == 200
    assert (place.woken, place.incidents()) == ([], [])


@pytest.mark.parametrize("method", ["get", "put", "delete"])
async def test_other_methods_do_nothing(place: Place, method: str) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, place.url) as response:
        assert response.status == 405


async def test_without_the_setting_there_is_no_such_place(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setattr(place.process.alerts, "_token_file", None)
    assert (await place.send(post(fresh())))[0] == 404
