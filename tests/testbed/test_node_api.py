"""The node's API client, against a server that misbehaves."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from testbed.node import api
from testbed.node.api import Api, ApiError

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def client(directory: Path, answer: Answer) -> AsyncIterator[Api]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        kubeconfig = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": str(server.make_url("/"))}}],
            "users": [{"name": "other", "user": {}}, {"name": "u", "user": {"token": "secret"}}],
        }
        (directory / "kubeconfig").write_text(json.dumps(kubeconfig))
        async with Api.connect(directory / "kubeconfig") as connected:
            yield connected


def scripted(*answers: int | None) -> tuple[Answer, list[web.Request]]:
    """A server that gives these codes one after the other; None breaks the connection."""
    requests: list[web.Request] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        code = answers[len(requests)]
        requests.append(request)
        if code is None:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({}, status=code or 200)

    return answer, requests


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("RETRY_AFTER", "RELIST_AFTER", "RELIST_AFTER_MAX"):
        monkeypatch.setattr(api, pause, getattr(api, pause) / 100)


@pytest.mark.parametrize(("last", "done"), [(200, True), (201, True), (404, False), (409, False)])
async def test_a_write_insists_until_it_is_answered(tmp_path: Path, last: int, done: bool) -> None:
    answer, requests = scripted(503, None, 429, last)
    async with client(tmp_path, answer) as connected:
        assert await connected.insist("POST", "/api/v1/x", {}) is done
    assert len(requests) == 4
    assert {request.headers["Authorization"] for request in requests} == {"Bearer secret"}


@pytest.mark.parametrize("refusal", [401, 403, 422])
async def test_a_refusal_is_final(tmp_path: Path, refusal: int) -> None:
    answer, requests = scripted(refusal)
    async with client(tmp_path, answer) as connected:
        with pytest.raises(ApiError, match=str(refusal)):
            await connected.insist("PATCH", "/api/v1/x", {}, content_type=api.STRATEGIC)
    assert [request.content_type for request in requests] == ["application/strategic-merge-patch+json"]


async def test_a_broken_watch_begins_again_with_a_list(tmp_path: Path) -> None:
    large = {"name": "large", "padding": "x" * 3_000_000}
    watches: list[list[Any]] = [
        [{"type": "ADDED", "object": large}],
        [{"type": "MODIFIED", "object": {"name": "b"}}, {"type": "ERROR", "object": {"code": 410}}],
        ["a proxy's 503"],
        [{"type": "DELETED", "object": {"name": "c"}}],
    ]
    served = iter(watches)

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["fieldSelector"] == "spec.nodeName=n"
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": [{"name": "a"}]})
        assert request.query["resourceVersion"] == "7"
        lines = [line if isinstance(line, str) else json.dumps(line) for line in next(served)]
        return web.Response(text="".join(f"{line}\n" for line in lines))

    seen: list[tuple[str, str]] = []
    async with client(tmp_path, answer) as connected:
        async for kind, objects in connected.follow("/api/v1/pods", "spec.nodeName=n"):
            seen.append((kind, objects[0]["name"]))
            if kind == "DELETED":
                break
    sync = ("SYNC", "a")
    assert seen == [sync, ("ADDED", "large"), sync, ("MODIFIED", "b"), sync, sync, ("DELETED", "c")]
