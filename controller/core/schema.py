"""What an API server with another schema than ours would not keep: it prunes unknown fields without a word."""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from controller.core.codec import JSON, camel


def unkept(kind: Any, schema: JSON, path: str) -> Iterator[str]:
    """Paths of what `codec.encode` may write for `kind`, and an OpenAPI schema would drop or refuse.

    `schema` is that of the value at `path`; a whole field that is unknown is one path, without what is in it.
    """
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    arguments, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        yield from unkept(next(a for a in arguments if a is not types.NoneType), schema, path)
    elif dataclasses.is_dataclass(kind):
        known, hints = schema.get("properties") or {}, typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            name = camel(field.name)
            if name in known:
                yield from unkept(hints[field.name], known[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif origin is tuple:
        yield from unkept(arguments[0], schema.get("items") or {}, f"{path}[]")
    elif origin is Mapping:
        yield from unkept(arguments[1], schema.get("additionalProperties") or {}, f"{path}.*")
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        allowed = schema.get("enum")
        if allowed is not None:
            yield from (f"{path}: {member.value}" for member in kind if member.value not in allowed)
