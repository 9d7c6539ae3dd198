"""Webhooks on the bed: a chat that is out of order at first, a receiver of events, and the CTO's pager."""

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OUT_OF_ORDER = (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.FOUND, HTTPStatus.TOO_MANY_REQUESTS)
"""What the chat answers its first requests."""
TOKEN = "Bearer of news"


class Hooks:
    """Remembers what each of its three sinks was sent, in that order."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, dict[str, Any]]] = []
        """Sink, answer and body."""
        self._lock = threading.Lock()
        hooks = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = hooks._take(self.path.strip("/"), self.headers["Authorization"], body)
                self.send_response(status)
                self.send_header("Location", "/pager")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def settings(self) -> dict[str, str]:
        """For the controller: who is notified, and the secret that only the pager asks for."""
        address = f"http://127.0.0.1:{self._server.server_port}"
        pager = {"audiences": ["cto"], "header": {"env": "PAGER_TOKEN"}}
        sinks = [
            {"name": "chat", "url": f"{address}/chat", "format": "slack"},
            {"name": "events", "url": f"{address}/events"},
            {"name": "pager", "url": f"{address}/pager", **pager},
        ]
        return {"SERIN_SINKS": json.dumps(sinks), "SERIN_CLUSTER": "bed", "PAGER_TOKEN": TOKEN}

    def _take(self, sink: str, token: str | None, body: dict[str, Any]) -> int:
        with self._lock:
            earlier = sum(to == "chat" for to, _, _ in self.sent)
            status: int = HTTPStatus.NO_CONTENT
            if sink == "chat" and earlier < len(OUT_OF_ORDER):
                status = OUT_OF_ORDER[earlier]
            if sink == "pager" and token != TOKEN:
                status = HTTPStatus.UNAUTHORIZED
            self.sent.append((sink, status, body))
            return status

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # --- What people heard ---

    def events(self, change: str, sink: str = "events") -> list[dict[str, Any]]:
        """The CloudEvents about a change that a sink took, each once, oldest first."""
        with self._lock:
            taken = [body for to, status, body in self.sent if to == sink and status == HTTPStatus.NO_CONTENT]
        found = {body["id"]: body for body in taken if body["data"]["changeId"] == change}
        return list(found.values())

    def kinds(self, change: str, sink: str = "events") -> list[str]:
        return [event["type"].removeprefix("dev.serin.") for event in self.events(change, sink)]

    def chat(self, change: str) -> list[str]:
        """The ids of what the chat took about a change."""
        with self._lock:
            taken = [body for to, status, body in self.sent if to == "chat" and status == HTTPStatus.NO_CONTENT]
        return list(dict.fromkeys(body["blocks"][0]["block_id"] for body in taken if change in body["text"]))
