"""The few calls of the Kubernetes API that a node makes."""

import asyncio
import base64
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

Json = dict[str, Any]
log = logging.getLogger(__name__)

STRATEGIC = "strategic-merge-patch+json"
RETRY_AFTER = timedelta(milliseconds=500)
RELIST_AFTER = timedelta(milliseconds=200)
RELIST_AFTER_MAX = timedelta(seconds=1)


class ApiError(Exception):
    """The server refused a request. `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One server, as the user of a kubeconfig's current context."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server.rstrip("/")

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path) -> AsyncIterator[Self]:
        """Open a connection pool. Raises KeyError or StopIteration when the kubeconfig lacks what it names."""
        cluster, user = _current(kubeconfig)
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        connector = aiohttp.TCPConnector(ssl=_tls(cluster, user), limit=50)
        # A watch's line is a whole object, up to 1.5 MB; the reader takes lines of twice its buffer.
        async with aiohttp.ClientSession(connector=connector, headers=headers, read_bufsize=1 << 21) as session:
            yield cls(session, cluster["server"])

    async def call(self, method: str, path: str, body: Json | None = None, *, content_type: str = "json") -> Json:
        """One request; `content_type` is `json` or a patch type such as STRATEGIC.

        Raises ApiError when it is refused, aiohttp.ClientError or TimeoutError when there is no answer.
        """
        async with self._session.request(
            method,
            self._server + path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": f"application/{content_type}"},
            timeout=aiohttp.ClientTimeout(total=30),
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiError(response.status, text)
            answer: Json = json.loads(text)
            return answer

    async def insist(self, method: str, path: str, body: Json, *, content_type: str = "json") -> bool:
        """Call until it is answered: the server may be down for a while. False when the object is gone or is another
        one by now. Raises ApiError when it is refused for good."""
        while True:
            try:
                await self.call(method, path, body, content_type=content_type)
                return True
            except ApiError as error:
                if error.status in (404, 409):
                    return False
                if error.status not in (429, 500, 502, 503, 504):
                    raise
                log.warning("%s %s: %s", method, path, error)
            except (aiohttp.ClientError, TimeoutError) as error:
                log.warning("%s %s: %s", method, path, error)
            await asyncio.sleep(RETRY_AFTER.total_seconds())

    async def follow(self, path: str, selector: str) -> AsyncIterator[tuple[str, list[Json]]]:
        """The objects at `path` that match the field selector, for ever: first `("SYNC", all of them)`, then
        `("ADDED" | "MODIFIED" | "DELETED", [object])`, and a SYNC again whenever the watch ended."""
        pause = RELIST_AFTER
        while True:
            try:
                listed = await self.call("GET", f"{path}?fieldSelector={selector}")
                yield "SYNC", listed["items"]
                version = listed["metadata"]["resourceVersion"]
                async for event in self._watch(f"{path}?watch=1&fieldSelector={selector}&resourceVersion={version}"):
                    if event["type"] == "ERROR":
                        break
                    pause = RELIST_AFTER
                    yield event["type"], [event["object"]]
            except (ApiError, aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
                log.warning("watch of %s broke: %s", path, error)
            await asyncio.sleep(pause.total_seconds())
            pause = min(pause * 2, RELIST_AFTER_MAX)

    async def _watch(self, path: str) -> AsyncIterator[Json]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with self._session.get(self._server + path, timeout=timeout) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            async for line in response.content:
                yield json.loads(line)


def _current(kubeconfig: Path) -> tuple[Json, Json]:
    config = yaml.safe_load(kubeconfig.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    return cluster, _named(config["users"], context["user"])["user"]


def _named(entries: list[Json], name: str) -> Json:
    return next(entry for entry in entries if entry["name"] == name)


def _tls(cluster: Json, user: Json) -> ssl.SSLContext:
    """TLS as the kubeconfig's entries say; each credential may be a file or be written in it."""
    tls = ssl.create_default_context(cadata=_content(cluster, "certificate-authority"))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _content(user, "client-certificate"), _content(user, "client-key")
    if certificate and key:
        with tempfile.NamedTemporaryFile("w") as pem:  # the ssl module loads client certificates from files only
            pem.write(f"{certificate}\n{key}")
            pem.flush()
            tls.load_cert_chain(pem.name)
    return tls


def _content(entry: Json, key: str) -> str | None:
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"]).decode()
    return Path(entry[key]).read_text() if key in entry else None
