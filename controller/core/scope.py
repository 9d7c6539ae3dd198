"""What a type of change may change: each difference is looked for among what the policy allows. Pure, and fails closed.

A version is `[v]MAJOR.MINOR.PATCH[-SUFFIX]` in the tag. A step of a patch version keeps the repository, the `v`, major
and minor version and the suffix (`-alpine`), and its patch is not lower. A suffix that names a pre-release, an alias
like `latest` or `1.4`, and a digest alone are no versions: nothing with them on either side is such a step. Beside a
version a digest may come, go and change: it is what runs, and the version beside it is the requester's word.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

from controller.core.codec import parse_quantity
from controller.core.diff import Difference
from controller.core.policy import BOUNDED, Bounds, ImageStep, Scope

_NAME = r"[A-Za-z0-9._/-]+"
_CONTAINER = rf"(?:containers|initContainers)\[{_NAME}\]"
_IMAGE = re.compile(rf"{_CONTAINER}\.image")
_VARIABLE = re.compile(rf"{_CONTAINER}\.env\[({_NAME})\]")
_RESOURCE = re.compile(rf"{_CONTAINER}\.resources\.(?:requests|limits)(?:\.([a-z]+)|\[({_NAME})\])")
_METADATA = re.compile(rf"metadata\.(annotations|labels)\[({_NAME})\]")

_REFERENCE = re.compile(
    r"(?P<repository>[a-z0-9][A-Za-z0-9._:/-]*?):(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})(?:@sha256:[0-9a-f]{64})?"
)
_VERSION = re.compile(r"(v?)(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(?:-([A-Za-z0-9._-]+))?")
_PRE_RELEASE = re.compile(
    r"(?:^|[^a-z])(?:a|alpha|b|beta|c|rc|cr|pre|preview|dev|snapshot|nightly|canary|next|m|milestone|ea|edge|test|pr)"
    r"(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Version:
    repository: str
    prefix: str
    major: int
    minor: int
    patch: int
    suffix: str = ""


def version(image: str) -> Version | None:
    """What an image reference says of its version; None: it says none, or that of a pre-release."""
    found = _REFERENCE.fullmatch(image)
    said = found and _VERSION.fullmatch(found["tag"])
    if not found or not said or _PRE_RELEASE.search(said[5] or ""):
        return None
    return Version(found["repository"], said[1], int(said[2]), int(said[3]), int(said[4]), said[5] or "")


def outside(differences: Iterable[Difference], scope: Scope) -> tuple[Difference, ...]:
    """What the scope does not allow."""
    return tuple(difference for difference in differences if refusal(difference, scope))


def refusal(difference: Difference, scope: Scope) -> str:
    """Why a difference is not allowed, in a few words without values from a template's environment; empty: it is."""
    path = difference.path
    if _IMAGE.fullmatch(path):
        return _of_image(difference, scope.images)
    if found := _VARIABLE.fullmatch(path):
        return "" if _matches(found[1], scope.env) else "is none of the variables that may change"
    if found := _RESOURCE.fullmatch(path):
        return _of_resource(difference, found[1] or found[2], scope.resources)
    if found := _METADATA.fullmatch(path):
        patterns = scope.annotations if found[1] == "annotations" else scope.labels
        return "" if _matches(found[2], patterns) else f"is none of the {found[1]} that may change"
    return "may not change"


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _of_image(difference: Difference, step: ImageStep) -> str:
    before, after = version(difference.before), version(difference.after)
    moves = f"from {difference.before or 'none'} to {difference.after or 'none'}"
    if step is ImageStep.NONE:
        return f"may not change ({moves})"
    if before is None or after is None:
        return f"is no step between two released versions ({moves})"
    if before.repository != after.repository:
        return f"changes its repository ({moves})"
    kept = [(v.prefix, v.major, v.minor, v.suffix) for v in (before, after)]
    return "" if kept[0] == kept[1] and before.patch <= after.patch else f"is no step of a patch version ({moves})"


def _of_resource(difference: Difference, name: str, bounds: Bounds | None) -> str:
    if bounds is None or name not in BOUNDED:
        return "may not change"
    try:
        before, after = parse_quantity(difference.before), parse_quantity(difference.after)
    except ValueError:
        return "may not be added or removed"
    moves = f"from {difference.before} to {difference.after}"
    factor = Fraction(bounds.factor)
    if before > after * factor or after > before * factor:
        return f"changes by more than a factor of {bounds.factor:g} ({moves})"
    most = bounds.max.get(name)
    return f"is more than {most} ({moves})" if most and after > parse_quantity(most) else ""
