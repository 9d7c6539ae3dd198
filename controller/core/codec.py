"""Between frozen dataclasses and the JSON of the API server: camelCase keys, RFC 3339 moments, "5m" and "1%".

One codec for status and policies, so that a bad field is named the same way everywhere.
"""

import dataclasses
import enum
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NewType, TypeVar

JSON = Any
Ratio = NewType("Ratio", float)
"""A share between 0 and 1; "1%" or "99.9%" in JSON."""

T = TypeVar("T")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?")
EMPTY: tuple[Any, ...] = (None, (), {}, "")
_UNITS = ("days", "hours", "minutes", "seconds", "milliseconds")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


class FieldError(ValueError):
    """A field that cannot be used: its path, the value found, and what to write instead."""

    def __init__(self, path: str, value: object, mend: str) -> None:
        self.path, self.value, self.mend = path, value, mend
        super().__init__(f"{_short(repr(path)[1:-1], 200)} is {_short(repr(value), 80)}: {mend}")


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def parse_duration(text: str) -> timedelta:
    """`1h30m`, `90s`, `500ms`; ValueError for anything else."""
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        raise ValueError(text)
    return timedelta(**{unit: int(part) for unit, part in zip(_UNITS, match.groups(), strict=True) if part})


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back, to the millisecond."""
    left = round(value / timedelta(milliseconds=1))
    if left <= 0:
        return "0s"
    parts = []
    for letter, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, left = divmod(left, size)
        parts.append(f"{count}{letter}" if count else "")
    return "".join(parts)


_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|)", re.ASCII)
_FACTORS = {"m": Fraction(1, 1000), "": Fraction(1)}
_FACTORS |= {unit: Fraction(1000**i) for i, unit in enumerate("kMGTP", 1)}
_FACTORS |= {f"{unit}i": Fraction(1024**i) for i, unit in enumerate("KMGTP", 1)}


def parse_quantity(text: str) -> Fraction:
    """A quantity of Kubernetes, like `250m` or `1.5Gi`; ValueError for anything else, exponents and signs too."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return Fraction(match[1]) * _FACTORS[match[2]]


def parse_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment.astimezone(UTC)


def format_moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_ratio(value: float) -> str:
    return f"{value * 100:.10g}%"


def canonical(value: JSON) -> str:
    """The one text of a JSON value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: JSON) -> str:
    """64 hex digits; the same for the same JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def encode(value: object) -> JSON:
    """JSON of a dataclass; fields that are None or empty, and are that too when they are missing, are left out."""
    return _encode(value, type(value))


def _encode(value: Any, kind: Any) -> JSON:
    if value is None:
        return None
    if dataclasses.is_dataclass(value):
        hints = _hints(typing.cast(Any, type(value)))
        pairs = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {camel(f.name): _encode(v, hints[f.name]) for f, v in pairs if not (v in EMPTY and _default(f) == v)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return format_moment(value)
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, tuple):
        return [_encode(item, _item(kind)) for item in value]
    return format_ratio(value) if _is_ratio(kind) else value


def _optional(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def decode(kind: type[T], data: JSON, path: str = "") -> T:
    """A `kind` from JSON.

    Raises:
        FieldError: the first field that is missing, unknown or of the wrong form.
    """
    return typing.cast(T, _decode(kind, data, path))


def _decode(kind: Any, data: JSON, path: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if origin in (types.UnionType, typing.Union):
        rest = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
        return None if data is None else _decode(rest[0], data, path)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, data, path)
    if origin is tuple:
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise FieldError(path, data, "write a list")
        return tuple(_decode(_item(kind), item, f"{path}[{i}]") for i, item in enumerate(data))
    if origin in (Mapping, dict):
        if not isinstance(data, Mapping):
            raise FieldError(path, data, "write a map")
        return dict(data)
    return _decode_scalar(kind, data, path)


def _decode_fields(kind: Any, data: JSON, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise FieldError(path, data, "write a map of fields")
    hints: dict[str, Any] = _hints(kind)
    fields = {camel(f.name): f for f in dataclasses.fields(kind)}
    prefix = f"{path}." if path else ""
    if unknown := sorted(set(data) - set(fields), key=str):  # in YAML, a name may be a number
        mend = f"no such field; known are {', '.join(sorted(fields))}"
        raise FieldError(f"{prefix}{unknown[0]}", data[unknown[0]], mend)
    values = {}
    for key, f in fields.items():
        if key in data:
            values[f.name] = _decode(hints[f.name], data[key], prefix + key)
        elif not _optional(f):
            raise FieldError(prefix + key, None, "this field is required")
    return kind(**values)


def _decode_scalar(kind: Any, data: JSON, path: str) -> Any:
    if _is_ratio(kind):
        try:
            value = float(data.removesuffix("%")) / 100 if isinstance(data, str) and data.endswith("%") else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise FieldError(path, data, 'write a percentage between 0 and 100, like "1%"')
        return Ratio(value)
    if kind is datetime or kind is timedelta:
        try:
            return parse_moment(data) if kind is datetime else parse_duration(data)
        except (ValueError, TypeError, OverflowError):
            mend = (
                "write a moment with a zone, like 2026-11-23T08:00:00Z"
                if kind is datetime
                else "write a duration, like 90s, 5m or 1h30m"
            )
            raise FieldError(path, data, mend) from None
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(data)
        except ValueError:
            raise FieldError(path, data, f"write one of {', '.join(m.value for m in kind)}") from None
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise FieldError(
            path, data, f"write {'a whole number' if kind is int else 'text' if kind is str else 'true or false'}"
        )
    return data


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _item(kind: Any) -> Any:
    args = typing.get_args(kind)
    return args[0] if args else Any


def _is_ratio(kind: Any) -> bool:
    return kind is Ratio or Ratio in typing.get_args(kind)
