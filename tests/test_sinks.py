"""Sinks come from the settings alone, are refused by name when they cannot be used, and show no secret."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.codec import FieldError
from controller.core.model import Change, Told
from controller.core.policy import ChangeType
from controller.errors import PermanentError
from controller.sinks import Format, Header, Sink, body, parse_sinks, slack_text

HOOK = "https://hooks.example.com/services/T0/B0/S3CRET"
CHANGE = Change("shop", "chg-20261123-001", "CHG-20261123-001", ChangeType.NORMAL, uid="4f1d")
TOLD = Told(
    "transition/Progressing.1/2026-11-23T08:00:00.000Z",
    "dev.serin.change.started",
    datetime(2026, 11, 23, 8, tzinfo=UTC),
    ("requester", "approver"),
    "shop/CHG-20261123-001 (normal): started: step 1 of 3: 10 %",
    "kubectl serin status CHG-20261123-001 -n shop",
    ("chat",),
)
CHAT = Sink("chat", url=HOOK, format=Format.SLACK)


# --- Configuration ---


def one(**fields: Any) -> str:
    return json.dumps([{"name": "chat", "url": HOOK} | fields])


def test_a_list_says_who_is_told_what_and_where(tmp_path: Path) -> None:
    (tmp_path / "chat-url").write_text(f"{HOOK}\n")
    (tmp_path / "token").write_text("Bearer S3CRET\n")
    (tmp_path / "sinks.yaml").write_text(
        """
        - name: chat
          format: slack
          urlFile: chat-url
          audiences: [requester, engineering-managers]
          types: [normal]
          namespaces: [shop, shop-*]
        - name: pager
          url: http://pager.ops.svc:8080/events
          audiences: [cto]
          kinds: [dev.serin.emergency.*]
          header: {name: X-Token, file: token}
        """
    )
    for given_as in (tmp_path, tmp_path / "sinks.yaml"):
        chat, pager = parse_sinks(str(given_as))
        assert (chat.address(), chat.format, chat.types) == (HOOK, Format.SLACK, (ChangeType.NORMAL,))
        assert chat.audiences == ("requester", "engineering-managers")
        assert pager.headers()["X-Token"] == "Bearer S3CRET"
        assert pager.header == Header("X-Token", file=str(tmp_path / "token"))


def test_secrets_are_read_anew_so_that_they_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_URL", HOOK)
    monkeypatch.setenv("CHAT_TOKEN", "one")
    (sink,) = parse_sinks('[{"name": "chat", "urlEnv": "CHAT_URL", "header": {"env": "CHAT_TOKEN"}}]')
    monkeypatch.setenv("CHAT_TOKEN", "two")
    assert sink.headers()["Authorization"] == "two"
    monkeypatch.setenv("CHAT_URL", "http://elsewhere.example")
    with pytest.raises(PermanentError, match="write https"):
        sink.address()


def test_an_empty_folder_has_no_sinks(tmp_path: Path) -> None:
    """As an optional Secret that does not exist is mounted."""
    assert parse_sinks(str(tmp_path)) == ()
    assert parse_sinks("[]") == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("/nowhere/sinks.yaml", "'/nowhere/sinks.yaml': it cannot be read: No such file"),
        ("[{", "line 1': write a list of sinks"),
        (one(name="Chat!"), "[0].name is 'Chat!': write a-z"),
        (one(colour="red"), "[0].colour is '…': no such field"),
        (one(url="ftp://files.example.com"), "[0].url is 'ftp://files.example.com/…': write the address"),
        (one(url="http://hooks.example.com/x"), "[0].url is 'http://hooks.example.com/…': write https"),
        (one(url="http://10.0.0.7/x"), "write https"),
        (one(url="http://localhost.example.com/x"), "write https"),
        (one(url="https://bob:S3CRET@hooks.example.com/x"), "write no password into it"),
        (one(url="https://hooks.example.com:99999/"), "write the address"),
        (one(url="https://hooks.example.com/\nHost: x"), "write the address"),
        (one(urlFile="/etc/serin/url"), "give one of url, urlFile and urlEnv"),
        (one(format="email"), "[0].format is 'email': write one of cloudevents, slack"),
        (one(types=["urgent"]), "[0].types[0] is 'urgent': write one of standard, normal, emergency"),
        (one(audiences=["The CTO"]), "[0].audiences[0] is 'The CTO': write requester, approver"),
        (one(kinds=["started"]), "[0].kinds[0] is 'started': write a kind of notice, like dev.serin.change.*"),
        (one(header={"name": "Host", "env": "X"}), "[0].header.name is 'Host'"),
        (one(header={"name": "X-A\r\nB", "env": "X"}), "write the name of a header"),
        (one(header={"value": "S3CRET"}), "[0].header.value is '…': no such field"),
        (one(header={}), "[0].header is 'Authorization': give its value by one of file and env"),
        (one(header={"file": "/nowhere/token"}), "/nowhere/token of sink chat cannot be read"),
        (one(header={"env": "NOT_SET_ANYWHERE"}), "write one line of plain text"),
        (f"{one()[:-1]}, {one()[1:]}", "[1].name is 'chat': give every sink a name of its own"),
    ],
)
def test_a_sink_that_cannot_be_used_is_named_with_the_mend_and_without_its_secret(text: str, complaint: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_sinks(text)
    assert complaint in str(caught.value)
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "a.b.svc", "a.b.svc.cluster.local"])
def test_plain_http_is_for_what_does_not_leave_machine_or_cluster(host: str) -> None:
    assert parse_sinks(one(url=f"http://{host}:8080/x"))


@given(st.text(max_size=40))
def test_whatever_is_written_for_an_address_is_used_or_refused(url: str) -> None:
    try:
        (sink,) = parse_sinks(one(url=url))
    except FieldError:
        return
    assert re.match(r"https?://", sink.address())


# --- What is sent ---


def test_a_cloud_event() -> None:
    sink = replace(CHAT, format=Format.CLOUDEVENTS)
    assert sink.headers() == {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    event = body(sink, CHANGE, TOLD, "prod-eu")
    assert {key: event[key] for key in ("specversion", "id", "source", "type", "subject", "time")} == {
        "specversion": "1.0",
        "id": "4f1d/transition/Progressing.1/2026-11-23T08:00:00.000Z",
        "source": "/serin/prod-eu",
        "type": "dev.serin.change.started",
        "subject": "shop/chg-20261123-001",
        "time": "2026-11-23T08:00:00.000Z",
    }
    assert event["data"]["text"] == TOLD.text
    assert event["data"]["audience"] == ["requester", "approver"]
    # The attributes of CloudEvents 1.0 are lower-case letters and digits, and none is empty.
    assert all(re.fullmatch(r"[a-z0-9]+", name) for name in event)
    assert all(event.values())


def test_what_slack_shows() -> None:
    shown = body(CHAT, CHANGE, TOLD, "prod-eu")
    assert shown["text"].startswith("[prod-eu] shop/CHG-20261123-001 (normal): started")
    section, command = shown["blocks"]
    assert section["block_id"] == "4f1d/transition/Progressing.1/2026-11-23T08:00:00.000Z"
    assert section["text"]["verbatim"]
    assert command["text"]["text"] == "```kubectl serin status CHG-20261123-001 -n shop```"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<!channel> now", "&lt;!channel&gt; now"),
        ("<https://evil.example|click>", "&lt;https://evil.example|click&gt;"),
        ("&lt;!here&gt;", "&amp;lt;!here&amp;gt;"),
        ("@channel @here", "@\u2060channel @\u2060here"),
        ("alice@example.com", "alice@example.com"),
        ("```x```", "'''x'''"),
    ],
)
def test_text_stays_text_in_slack(text: str, shown: str) -> None:
    assert slack_text(text) == shown


@given(st.text(alphabet=st.sampled_from("<>&@!|`#abc \u2060") | st.characters(), max_size=4000))
def test_no_text_makes_a_link_a_mention_or_an_end_of_the_code(text: str) -> None:
    for part in (
        slack_text(text),
        *(b["text"]["text"] for b in body(CHAT, CHANGE, replace(TOLD, text=text), "")["blocks"]),
    ):
        assert "<" not in part
        assert ">" not in part
        assert re.search(r"&(?!amp;|lt;|gt;)", part) is None
        assert re.search(r"(?<!\w)@\w", part) is None
        assert len(part) <= 3000, "Slack refuses more"
    assert "`" not in slack_text(text)
    json.dumps(body(CHAT, CHANGE, replace(TOLD, text=text), "")).encode("utf-8", "strict")


def test_a_long_text_is_cut_between_characters_and_not_inside_an_escape() -> None:
    shown = slack_text("&" * 4000)
    assert 2890 < len(shown) <= 3000
    assert shown == "&amp;" * (len(shown) // 5) + "…"


@given(st.text(max_size=200))
def test_nothing_that_slack_reads_is_lost(text: str) -> None:
    shown = slack_text(text).replace("\u2060", "").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown == text.replace("`", "'").replace("\u2060", "")
