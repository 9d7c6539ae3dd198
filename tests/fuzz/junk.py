"""What nobody meant to send: hostile text, JSON of the wrong shape, and documents with something wrong somewhere.

The same examples every time; `SERIN_FUZZ_EXAMPLES=20000` takes so many of each property, and others each time.
"""

import copy
import os
import unicodedata
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Json = Any
LONG = os.environ.get("SERIN_FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(LONG or 150),
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

HOSTILE = (
    "a\nb", "\x1b[2J", "\u202eevil", "\u2028", "\x00", '"} or vector(1) #', "{{ .Values }}", "${jndi:x}", "x" * 5000,
    "CHG-20261123-001", "-1", "1e999", "NaN", "99999999999999d", "99:99", "2026-13-45T00:00:00Z", "../..", "\ud800",
)  # fmt: skip
texts = st.sampled_from(HOSTILE) | st.text(max_size=30)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**400])
    | st.floats()
    | texts
)  # fmt: skip
values: st.SearchStrategy[Json] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def places(document: Json, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@st.composite
def spoilt(draw: st.DrawFn, document: Json, most: int = 3) -> Json:
    """The document with one to `most` things replaced, left out or added."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from([place for place in places(made) if place]))
        *above, last = path
        parent = made
        for key in above:
            parent = parent[key]
        match draw(st.sampled_from(("replace", "replace", "leave out", "add"))):
            case "leave out":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(texts)] = draw(values)
            case _:
                parent[last] = draw(values)
        if not any(place for place in places(made)):
            return made
    return made


def plain(text: str) -> bool:
    """Whether it is safe in a log, an event and a terminal: one line, nothing that is not seen."""
    return all(ch == " " or unicodedata.category(ch)[0] not in "CZ" for ch in text)
