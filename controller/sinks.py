"""Where people are told: sinks as they are configured, and what each is sent. No sink comes from anywhere else.

A sink answers with a status code and nothing that is read. Its secrets are read from files or variables at each
attempt, so that they can be changed, and are shown to nobody.
"""

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from controller.core.codec import FieldError, decode, format_moment
from controller.core.model import Change, Told
from controller.core.notices import AUDIENCES, KIND, Route, notice_id
from controller.errors import PermanentError

FILE = "sinks.yaml"
"""What is read of a folder: a mounted Secret."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_AUDIENCE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
OURS = ("content-type", "content-length", "host", "transfer-encoding", "connection")
MRKDWN_MAX = 2900
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Format(StrEnum):
    CLOUDEVENTS = "cloudevents"
    SLACK = "slack"


@dataclass(frozen=True)
class Header:
    """A header whose value is in a file or in a variable of the environment."""

    name: str = "Authorization"
    file: str = ""
    env: str = ""


@dataclass(frozen=True)
class Sink(Route):
    """A route, and where it leads: one of `url`, `url_file` and `url_env`."""

    url: str = ""
    url_file: str = ""
    url_env: str = ""
    format: Format = Format.CLOUDEVENTS
    header: Header | None = None

    def address(self) -> str:
        """PermanentError when it cannot be read or used."""
        url = self.url or _secret(self.name, self.url_file, self.url_env)
        if problem := _unusable(url):
            raise PermanentError("SinkUnusable", f"the address of sink {self.name}: {problem}")
        return url

    def headers(self) -> dict[str, str]:
        """PermanentError when its value cannot be read or used."""
        kind = "application/cloudevents+json" if self.format is Format.CLOUDEVENTS else "application/json"
        headers = {"Content-Type": f"{kind}; charset=utf-8"}
        if self.header:
            value = _secret(self.name, self.header.file, self.header.env)
            if not value or not value.isprintable() or not value.isascii():
                raise PermanentError(
                    "SinkUnusable", f"header {self.header.name} of sink {self.name}: write one line of plain text"
                )
            headers[self.header.name] = value
        return headers


def _secret(sink: str, file: str, variable: str) -> str:
    if variable:
        return os.environ.get(variable, "").strip()
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise PermanentError("SinkUnusable", f"{file} of sink {sink} cannot be read: {why}") from None


# --- From the settings ---


def parse_sinks(text: str) -> tuple[Sink, ...]:
    """From a list as JSON or YAML, or the path of a file or folder with one; a folder without sinks.yaml has none.

    Raises:
        FieldError: names the field, the value and the mend; never a secret.
    """
    folder = Path()
    if not text.lstrip().startswith("["):
        path = Path(text)
        if path.is_dir():
            path /= FILE
            if not path.exists():
                return ()
        folder = path.parent
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise FieldError("", str(path), f"it cannot be read: {why}") from None
    try:
        listed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "somewhere"
        raise FieldError("", where, "write a list of sinks, as YAML or JSON") from None
    if not isinstance(listed, list):
        raise FieldError("", type(listed).__name__, "write a list of sinks, as YAML or JSON")
    sinks = tuple(_sink(each, f"[{i}]", folder) for i, each in enumerate(listed))
    names = [sink.name for sink in sinks]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise FieldError(f"[{i}].name", name, "give every sink a name of its own")
    return sinks


def _sink(data: Any, path: str, folder: Path) -> Sink:
    try:
        sink = decode(Sink, data, path)
    except FieldError as error:
        secret = error.path.endswith(".url") or error.mend.startswith("no such field")  # it may be a token
        raise FieldError(error.path, "…" if secret else error.value, error.mend) from None
    if not _NAME.fullmatch(sink.name):
        raise FieldError(f"{path}.name", sink.name, "write a-z, 0-9 and -, at most 32 characters")
    for i, audience in enumerate(sink.audiences):
        if not _AUDIENCE.fullmatch(audience):
            mend = f"write {', '.join(AUDIENCES)}, or what a policy's escalateTo names"
            raise FieldError(f"{path}.audiences[{i}]", audience, mend)
    for i, kind in enumerate(sink.kinds):
        if not kind.startswith(KIND):
            raise FieldError(f"{path}.kinds[{i}]", kind, f"write a kind of notice, like {KIND}change.*")
    given = [name for name in ("url", "url_file", "url_env") if getattr(sink, name)]
    if len(given) != 1:
        raise FieldError(f"{path}.url", len(given), "give one of url, urlFile and urlEnv")
    if sink.url and (problem := _unusable(sink.url)):
        raise FieldError(f"{path}.url", _shown(sink.url), problem)
    header = sink.header
    if header:
        if not _HEADER.fullmatch(header.name) or header.name.lower() in OURS:
            raise FieldError(f"{path}.header.name", header.name, "write the name of a header, like Authorization")
        if bool(header.file) == bool(header.env):
            raise FieldError(f"{path}.header", header.name, "give its value by one of file and env")
        header = replace(header, file=str(folder / header.file) if header.file else "")
    sink = replace(sink, header=header, url_file=str(folder / sink.url_file) if sink.url_file else "")
    try:
        sink.address()
        sink.headers()
    except PermanentError as error:
        raise FieldError(path, sink.name, error.message) from None
    return sink


def _unusable(url: str) -> str:
    """What to write instead; empty: it is good. Without TLS only what does not leave the machine or the cluster."""
    try:
        parts = urlsplit(url)
        host, usable = parts.hostname or "", parts.port != 0
    except ValueError:
        host, usable = "", False
    if not usable or not host or parts.scheme not in ("http", "https") or not url.isascii() or not url.isprintable():
        return "write the address of a webhook, like https://hooks.example.com/serin"
    if parts.username is not None or parts.password is not None:
        return "write no password into it: give it as a header"
    if parts.scheme == "http" and not _near(host):
        return "write https://; plain http is for loopback and for Services of the cluster (NAME.NAMESPACE.svc)"
    return ""


def _near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith((".svc", ".svc.cluster.local"))


def _shown(url: str) -> str:
    """Without its path, which is a secret at many a chat."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}/…"


# --- What is sent ---


def body(sink: Sink, change: Change, told: Told, cluster: str) -> dict[str, Any]:
    """The same for the same notice, however often it is sent."""
    if sink.format is Format.SLACK:
        return _slack(change, told, cluster)
    return {
        "specversion": "1.0",
        "id": notice_id(change, told),
        "source": f"/serin/{cluster}" if cluster else "/serin",
        "type": told.kind,
        "subject": f"{change.namespace}/{change.name}",
        "time": format_moment(told.at),
        "datacontenttype": "application/json",
        "data": {
            "changeId": change.change_id,
            "changeType": change.type.value if change.type else "",
            "namespace": change.namespace,
            "name": change.name,
            "uid": change.uid,
            "cluster": cluster,
            "audience": list(told.audience),
            "text": told.text,
            "command": told.command,
        },
    }


def _slack(change: Change, told: Told, cluster: str) -> dict[str, Any]:
    text = slack_text(f"[{cluster}] {told.text}" if cluster else told.text)
    command = slack_text(told.command)
    section = {"type": "mrkdwn", "text": text, "verbatim": True}
    code = {"type": "mrkdwn", "text": f"```{command}```", "verbatim": True}
    blocks = [{"type": "section", "block_id": notice_id(change, told)[:255], "text": section}]
    return {
        "text": f"{text} – {command}" if command else text,
        "blocks": [*blocks, {"type": "section", "text": code}] if command else blocks,
    }


def slack_text(text: str) -> str:
    """Plain text that stays text: no link, no mention, no code of its own.

    `&`, `<` and `>` are what Slack itself reads; a backtick would end our code block; an @ at the start of a word
    mentions people in what only looks like Slack.
    """
    text = re.sub(r"(?<!\w)@", "@\u2060", text.replace("`", "'"))
    escaped = [ESCAPES.get(ch, ch) for ch in text]
    lengths = accumulate(map(len, escaped))
    fitting = sum(length < MRKDWN_MAX for length in lengths)
    return "".join(escaped[:fitting]) + ("…" if fitting < len(escaped) else "")
