"""The process's own settings, from SERIN_ variables. What a rollout does is no setting: it stands in ChangePolicies."""

import logging
import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from controller.core.codec import FieldError, format_duration, parse_duration
from controller.errors import PermanentError
from controller.sinks import Sink, parse_sinks

PREFIX = "SERIN_"
IDENTITY = "system:serviceaccount:serin-system:serin"
"""Whom the controller acts as, in and out of the cluster. No setting: the admission policies know it by this name."""


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        return logging.getLevelNamesMapping()[self.upper()]


class LogFormat(StrEnum):
    JSON = "json"
    CONSOLE = "console"


class Address(NamedTuple):
    """Where a server listens; port 0 takes any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _mend(text: str, **context: str) -> PydanticCustomError:
    return PydanticCustomError("mend", "{mend}", {"mend": text} | context)


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        duration = parse_duration(value)
    except ValueError:
        duration = timedelta()
    if duration <= timedelta():
        raise _mend("write a duration above zero, like 500ms, 30s or 5m")
    return duration


def _address(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([^\[\]:\s]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise _mend("write HOST:PORT, like 127.0.0.1:9810 or [::]:8080")
    return Address(match[1] or match[2], int(match[3]))


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise _mend("write the address of Prometheus, like http://prometheus.monitoring:9090")
    return value.rstrip("/")


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        raise _mend("write the name of a namespace")
    return value


def _sinks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_sinks(value)
    except FieldError as error:
        raise _mend(error.mend, value=f"{error.path} {error.value}".strip()) from None


def _cluster(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value):
        raise _mend("write a short name, like prod-eu")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]


class Settings(BaseSettings):
    """Every setting; each description and default is shown by `serin run --help`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    prometheus_url: Annotated[str, BeforeValidator(_url)] = Field(
        description="address of Prometheus, like http://prometheus.monitoring:9090"
    )
    prometheus_timeout: Duration = Field(default=timedelta(seconds=10), description="time limit of one query")
    measure_interval: Duration = Field(
        default=timedelta(seconds=5), description="how often running changes are measured"
    )
    resync: Duration = Field(
        default=timedelta(seconds=30), description="how often every change is looked at, event or not"
    )
    workers: int = Field(default=4, ge=1, le=64, description="changes that are worked on at the same time, 1 to 64")
    kubeconfig: str | None = Field(
        default=None,
        validation_alias="KUBECONFIG",
        description="kubeconfig of the cluster; without it the ServiceAccount of the pod is used",
    )
    namespace: Annotated[str, BeforeValidator(_name)] = Field(
        default="serin-system", description="the controller's own namespace, where its lease is"
    )
    listen: Annotated[Address, NoDecode, BeforeValidator(_address)] = Field(
        default=Address("127.0.0.1", 9810), description="where /metrics, /healthz, /readyz and /alerts are served"
    )
    alert_token_file: Path | None = Field(
        default=None, description="file with the bearer token for POST /alerts; without it there is none"
    )
    alert_expiry: Duration = Field(
        default=timedelta(minutes=5), description="a posted alert that is not repeated for so long is over"
    )
    sinks: Annotated[tuple[Sink, ...], NoDecode, BeforeValidator(_sinks)] = Field(
        default=(), description="who is notified: a list as JSON, or the file or folder with it"
    )
    cluster: Annotated[str, BeforeValidator(_cluster)] | None = Field(
        default=None, description="the name of this cluster, as notifications show it"
    )
    log_level: LogLevel = Field(default=LogLevel.INFO, description="debug, info, warning or error")
    log_format: LogFormat = Field(default=LogFormat.JSON, description="json, or console for people")
    audit_file: Path | None = Field(
        default=None, description="file that the audit trail is appended to; standard output has it in any case"
    )
    lease_duration: Duration = Field(
        default=timedelta(seconds=15), description="after which another replica may take over"
    )
    lease_renew_deadline: Duration = Field(
        default=timedelta(seconds=10), description="after which a leader that cannot renew its lease stops writing"
    )
    lease_retry: Duration = Field(
        default=timedelta(seconds=2), description="how often the lease is renewed, or tried for"
    )

    @model_validator(mode="after")
    def _lease_in_order(self) -> Self:
        for shorter, longer in (("lease_retry", "lease_renew_deadline"), ("lease_renew_deadline", "lease_duration")):
            value, limit = getattr(self, shorter), getattr(self, longer)
            if value >= limit:
                mend = f"write less than {_variable(longer)}, {_shown(limit)}"
                raise _mend(mend, field=shorter, value=_shown(value))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings,)


def load_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        PermanentError: names every variable that cannot be used, its value, and what to write instead.
    """
    try:
        return Settings.model_validate({})
    except ValidationError as error:
        raise PermanentError("InvalidSettings", "; ".join(_complaint(e) for e in error.errors())) from None


def _complaint(error: ErrorDetails) -> str:
    """`SERIN_WORKERS is '0': input should be greater than or equal to 1`."""
    context = error.get("ctx", {})
    field = str(context["field"] if "field" in context else error["loc"][0])
    if error["type"] == "missing":
        return f"{_variable(field)} is not set: give the {Settings.model_fields[field].description}"
    mend = str(context.get("mend") or error["msg"])
    return f"{_variable(field)} is {_shown(context.get('value', error['input']))!r}: {mend[0].lower() + mend[1:]}"


def help_text() -> str:
    """Every variable, its default and its meaning, a line or two each, for 80 columns."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.default is PydanticUndefined else f"default {_shown(field.default)}"
        note = "" if field.default in (None, ()) else f" ({default})"
        lines += [_variable(name) + note, f"    {field.description}"]
    return "\n".join(lines)


def _variable(field: str) -> str:
    alias = Settings.model_fields[field].validation_alias
    return str(alias) if alias else PREFIX + field.upper()


def _shown(value: Any) -> str:
    """As it would be written in the environment, without a password."""
    text = format_duration(value) if isinstance(value, timedelta) else str(value)
    return re.sub(r"//[^/@]*@", "//***@", text)
