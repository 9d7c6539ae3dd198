"""Change IDs, and the change-request form as it is claimed by annotations."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from controller.core.codec import JSON
from controller.core.form import FIELDS, Field, filled, text_of
from controller.core.policy import JOB_NAME, ChangeType

PREFIX = "serin.dev/"
CHANGE_LABEL = PREFIX + "change"
RUN_LABEL = PREFIX + "run"
HELD = PREFIX + "held"
REQUESTED_BY = PREFIX + "requested-by"
RETRY = PREFIX + "retry"
"""Names a change that was rolled back: its revision may be run again."""
JOBS = PREFIX + "jobs"
"""Names CronJobs, separated by commas, that are to be run before the change starts."""
JOBS_MAX = 10
JOB_LABEL = PREFIX + "job"
"""`true` on a CronJob: whoever may name it in a change may have it run."""
AUTO = "auto"

_CONTROL = ("Cc", "Cf", "Co", "Cs", "Cn")
_ID = re.compile(r"CHG-(\d{4})(\d{2})(\d{2})-\d{3,6}")

TYPE = PREFIX + "type"
KNOWN = (TYPE, HELD, REQUESTED_BY, RETRY, JOBS, *(PREFIX + f.annotation for f in FIELDS))
"""Every annotation of ours that a Deployment may have."""


@dataclass(frozen=True)
class Problem:
    """Why something cannot be used: a reason in CamelCase, and a sentence that says what to do."""

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def printable(text: str, most: int = 200) -> str:
    """Text from outside, safe in logs, events and terminals: control and format characters are shown as escapes."""
    shown = "".join(
        ch if ch == " " or unicodedata.category(ch)[0] not in "CZ" else ch.encode("unicode_escape").decode()
        for ch in text[: most + 1]
    )
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def check_id(text: str, where: str = f"label {CHANGE_LABEL}") -> Problem | None:
    match = _ID.fullmatch(text)
    if match:
        try:
            date(*map(int, match.groups()))
        except ValueError:
            return Problem(
                "InvalidChangeID",
                f"{where} is {text!r}: {'-'.join(match.groups())} is not a date; write CHG-YYYYMMDD-NNN",
            )
        return None
    mend = "write CHG-YYYYMMDD-NNN, like CHG-20261123-001, or auto to have it numbered"
    return Problem("InvalidChangeID", f"{where} is {printable(text, 70)!r}: {mend}")


def next_id(today: date, taken: Iterable[str]) -> str:
    """The lowest change ID of the day above all that are taken."""
    start = f"CHG-{today:%Y%m%d}-"
    numbers = [int(i.removeprefix(start)) for i in taken if i.startswith(start) and i.removeprefix(start).isdigit()]
    return f"{start}{max(numbers, default=0) + 1:03d}"


def object_name(change_id: str) -> str:
    return change_id.lower()


def change_type(annotations: Mapping[str, str]) -> ChangeType | Problem:
    text = annotations.get(TYPE, ChangeType.NORMAL)
    try:
        return ChangeType(text)
    except ValueError:
        return Problem(
            "UnknownType", f"annotation {TYPE} is {printable(text, 40)!r}: write standard, normal or emergency"
        )


def job_names(annotations: Mapping[str, str]) -> list[str] | Problem:
    """The CronJobs that a Deployment asks to be run before its change starts."""
    names = list(dict.fromkeys(name.strip() for name in annotations.get(JOBS, "").split(",") if name.strip()))
    if bad := next((name for name in names if not JOB_NAME.fullmatch(name)), ""):
        mend = "write names of CronJobs, separated by commas"
        return Problem("InvalidAnnotation", f"annotation {JOBS} names {printable(bad, 60)!r}: {mend}")
    if len(names) > JOBS_MAX:
        return Problem("InvalidAnnotation", f"annotation {JOBS} names {len(names)} CronJobs: write at most {JOBS_MAX}")
    return names


def form_of(annotations: Mapping[str, str]) -> JSON:
    """The part of a ChangeRequest's spec that the annotations of the form claim."""
    return filled({f.name: f.normal(annotations.get(PREFIX + f.annotation, "")) for f in FIELDS})


def check_form(annotations: Mapping[str, str]) -> Problem | None:
    """The first annotation of the form that cannot be used."""
    found = (
        _check_text(f, annotations.get(PREFIX + f.annotation, ""), f"annotation {PREFIX}{f.annotation}") for f in FIELDS
    )
    message = next(filter(None, found), "")
    return Problem("InvalidAnnotation", message) if message else None


def check_spec(spec: JSON) -> Problem | None:
    """The first field of a form that was written beforehand and cannot be used."""
    message = next(filter(None, (_check_text(f, text_of(spec, f.name), f"spec.{f.name}") for f in FIELDS)), "")
    return Problem("InvalidForm", message) if message else None


def _check_text(f: Field, text: str, where: str) -> str:
    """What is wrong with the text of a field, too long, with control characters or none of the choices; or nothing."""
    if not text:
        return ""
    if len(text) > f.most:
        return f"{where} has {len(text)} characters: write at most {f.most}, and link to the rest"
    if bad := next((ch for ch in text if ch not in "\n\t" and unicodedata.category(ch) in _CONTROL), ""):
        return f"{where} has the control character {bad.encode('unicode_escape').decode()}: write plain text"
    mend = f.mend(text)
    return f"{where} is {printable(text, 40)!r}: {mend}" if mend else ""
