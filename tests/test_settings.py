"""Settings come from SERIN_ variables alone, and a bad one is named with its value and the mend."""

import os
import re
from datetime import timedelta

import pytest

from controller.errors import PermanentError
from controller.settings import Address, LogFormat, LogLevel, Settings, help_text, load_settings
from controller.sinks import Sink

URL = {"SERIN_PROMETHEUS_URL": "http://prometheus:9090"}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SERIN_") or name == "KUBECONFIG":
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **URL)
    assert settings.model_dump() == {
        "prometheus_url": "http://prometheus:9090",
        "prometheus_timeout": timedelta(seconds=10),
        "measure_interval": timedelta(seconds=5),
        "resync": timedelta(seconds=30),
        "workers": 4,
        "kubeconfig": None,
        "namespace": "serin-system",
        "listen": Address("127.0.0.1", 9810),
        "alert_token_file": None,
        "alert_expiry": timedelta(minutes=5),
        "sinks": (),
        "cluster": None,
        "log_level": LogLevel.INFO,
        "log_format": LogFormat.JSON,
        "audit_file": None,
        "lease_duration": timedelta(seconds=15),
        "lease_renew_deadline": timedelta(seconds=10),
        "lease_retry": timedelta(seconds=2),
    }


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        SERIN_PROMETHEUS_URL="https://prometheus.example/prefix/",
        SERIN_PROMETHEUS_TIMEOUT="2s",
        SERIN_MEASURE_INTERVAL="500ms",
        SERIN_RESYNC="1m30s",
        SERIN_WORKERS="8",
        KUBECONFIG="/one:/two",
        SERIN_NAMESPACE="release",
        SERIN_LISTEN="[::]:8080",
        SERIN_ALERT_TOKEN_FILE="/etc/serin/alerts/token",
        SERIN_ALERT_EXPIRY="10m",
        SERIN_SINKS='[{"name": "chat", "url": "https://hooks.example.com/serin"}]',
        SERIN_CLUSTER="prod-eu",
        SERIN_LOG_LEVEL="debug",
        SERIN_LOG_FORMAT="console",
        SERIN_AUDIT_FILE="/var/lib/serin/audit.jsonl",
        SERIN_LEASE_DURATION="30s",
        SERIN_LEASE_RENEW_DEADLINE="20s",
        SERIN_LEASE_RETRY="5s",
    )
    assert settings.prometheus_url == "https://prometheus.example/prefix"
    assert settings.measure_interval == timedelta(milliseconds=500)
    assert settings.resync == timedelta(seconds=90)
    assert settings.workers == 8
    assert settings.kubeconfig == "/one:/two"
    assert (settings.listen.host, settings.listen.port, str(settings.listen)) == ("::", 8080, "[::]:8080")
    assert settings.sinks == (Sink("chat", url="https://hooks.example.com/serin"),)
    assert settings.cluster == "prod-eu"
    assert str(settings.audit_file) == "/var/lib/serin/audit.jsonl"
    assert settings.log_level.number == 10
    changed = [name for name, field in Settings.model_fields.items() if getattr(settings, name) != field.default]
    assert changed == list(Settings.model_fields), "a variable above is not read"


def test_what_kubernetes_puts_into_the_environment_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named serin gives every pod SERIN_PORT and SERIN_SERVICE_HOST."""
    load(monkeypatch, **URL, SERIN_PORT="tcp://10.0.0.1:80", SERIN_SERVICE_HOST="10.0.0.1", SERIN_WORKERS="")


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({}, "SERIN_PROMETHEUS_URL is not set: give the address of Prometheus, like http://prometheus.monitoring:9090"),
        ({"SERIN_PROMETHEUS_URL": ""}, "SERIN_PROMETHEUS_URL is not set"),
        ({"SERIN_PROMETHEUS_URL": "prometheus:9090"}, "SERIN_PROMETHEUS_URL is 'prometheus:9090': write the address"),
        ({"SERIN_PROMETHEUS_URL": "http://x:99999"}, "SERIN_PROMETHEUS_URL is 'http://x:99999': write the address"),
        (URL | {"SERIN_WORKERS": "many"}, "SERIN_WORKERS is 'many': input should be a valid integer"),
        (URL | {"SERIN_WORKERS": "0"}, "SERIN_WORKERS is '0': input should be greater than or equal to 1"),
        (URL | {"SERIN_RESYNC": "30"}, "SERIN_RESYNC is '30': write a duration above zero, like 500ms, 30s or 5m"),
        (URL | {"SERIN_RESYNC": "0s"}, "SERIN_RESYNC is '0s': write a duration above zero"),
        (URL | {"SERIN_LISTEN": "9810"}, "SERIN_LISTEN is '9810': write HOST:PORT, like 127.0.0.1:9810 or [::]:8080"),
        (URL | {"SERIN_LISTEN": "::1:70000"}, "SERIN_LISTEN is '::1:70000': write HOST:PORT"),
        (URL | {"SERIN_NAMESPACE": "Not_A_Name"}, "SERIN_NAMESPACE is 'Not_A_Name': write the name of a namespace"),
        (URL | {"SERIN_SINKS": "/nowhere"}, "SERIN_SINKS is '/nowhere': it cannot be read: No such file or directory"),
        (URL | {"SERIN_SINKS": '[{"name": "a"}]'}, "SERIN_SINKS is '[0].url 0': give one of url, urlFile and urlEnv"),
        (URL | {"SERIN_CLUSTER": "prod eu"}, "SERIN_CLUSTER is 'prod eu': write a short name, like prod-eu"),
        (URL | {"SERIN_LOG_LEVEL": "loud"}, "SERIN_LOG_LEVEL is 'loud': input should be 'debug', 'info', 'warning'"),
        (
            URL | {"SERIN_LEASE_RETRY": "10s"},
            "SERIN_LEASE_RETRY is '10s': write less than SERIN_LEASE_RENEW_DEADLINE, 10s",
        ),
        (
            URL | {"SERIN_LEASE_DURATION": "5s"},
            "SERIN_LEASE_RENEW_DEADLINE is '10s': write less than SERIN_LEASE_DURATION, 5s",
        ),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_the_mend(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], complaint: str
) -> None:
    with pytest.raises(PermanentError, match=re.escape(complaint)) as caught:
        load(monkeypatch, **variables)
    assert caught.value.reason == "InvalidSettings"
    assert ";" not in caught.value.message


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermanentError) as caught:
        load(monkeypatch, SERIN_WORKERS="0", SERIN_LISTEN="x")
    assert re.findall(r"SERIN_\w+ is", caught.value.message) == [
        "SERIN_PROMETHEUS_URL is",
        "SERIN_WORKERS is",
        "SERIN_LISTEN is",
    ]


def test_a_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermanentError) as caught:
        load(monkeypatch, SERIN_PROMETHEUS_URL="ftp://reader:secret@prometheus")
    assert "secret" not in str(caught.value)


def test_the_help_lists_every_variable_with_its_default() -> None:
    text = help_text()
    assert "SERIN_PROMETHEUS_URL (required)" in text
    assert "SERIN_LISTEN (default 127.0.0.1:9810)" in text
    assert "SERIN_MEASURE_INTERVAL (default 5s)" in text
    assert "KUBECONFIG\n" in text
    assert len(re.findall(r"^(?:SERIN_|KUBECONFIG)", text, re.M)) == len(Settings.model_fields)
    assert max(map(len, text.splitlines())) <= 80
