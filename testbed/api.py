"""The API server without kubectl, which would take the machine's time: one kept connection, and watches."""

import http.client
import json
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import yaml

from testbed.bed import Bed
from testbed.control_plane import ADMIN

Json = dict[str, Any]


class Api:
    """As a user of the bed. Any thread may ask."""

    def __init__(self, bed: Bed, user: str = ADMIN) -> None:
        config = yaml.safe_load(bed.kubeconfig(user).read_text())
        cluster = config["clusters"][0]["cluster"]
        self._context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._address = urllib.parse.urlsplit(cluster["server"]).netloc
        self._connection = self._connect(20)
        self._headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        self._lock = threading.Lock()

    def get(self, path: str) -> Json | None:
        """The decoded object or list; None when there is none."""
        status, found = self.ask("GET", path)
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        assert status == http.HTTPStatus.OK, found
        return found

    def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Status and decoded answer; the body of a PATCH is a merge patch."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        text = json.dumps(body) if body is not None else None
        with self._lock:
            try:
                return self._exchange(method, path, text, kind)
            except (OSError, http.client.HTTPException):  # it was idle for too long, and the server has hung up
                self._connection.close()
                return self._exchange(method, path, text, kind)

    def _exchange(self, method: str, path: str, text: str | None, kind: str) -> tuple[int, Json]:
        self._connection.request(method, path, text, {**self._headers, "Content-Type": kind})
        response = self._connection.getresponse()
        return response.status, dict(json.loads(response.read()))

    def watch(self, path: str, since: str) -> "Watch":
        """What happens to the objects of a list after the resource version `since`, on a connection of its own."""
        connection = self._connect(None)
        query = urllib.parse.urlencode({"watch": "true", "resourceVersion": since, "timeoutSeconds": "7200"})
        connection.request("GET", f"{path}?{query}", headers=self._headers)
        return Watch(connection)

    def close(self) -> None:
        self._connection.close()

    def _connect(self, timeout: float | None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, timeout=timeout, context=self._context)


class Watch:
    """Iterate over (type, object) until the server or `close` ends it."""

    def __init__(self, connection: http.client.HTTPSConnection) -> None:
        self._connection = connection
        self._socket = connection.sock
        self._response = connection.getresponse()
        assert self._response.status == http.HTTPStatus.OK, self._response.read()

    def __iter__(self) -> Iterator[tuple[str, Json]]:
        while line := self._response.readline():
            event = json.loads(line)
            yield event["type"], event["object"]

    def close(self) -> None:
        """From another thread: whoever iterates comes to the end."""
        self._socket.shutdown(2)

    def end(self) -> None:
        """By whoever iterated."""
        self._response.close()
        self._connection.close()
