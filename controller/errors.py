"""Errors are named for what happens next: retry, read again, or show.

`from_response` is the one place where an answer of the API server becomes such an error; the table is its code.
Every error has a `reason` (one CamelCase word, fit for a status or an event) and a `message` (a sentence for people).
"""

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from controller.core.change import printable

REASON_MAX, MESSAGE_MAX = 60, 1500
RETRY_AFTER_MAX = timedelta(minutes=1)
"""A proxy that asks for an hour must not keep a rollback from happening."""


class SerinError(Exception):
    """What all errors of the program share."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class TransientError(SerinError):
    """Retry: time-outs, lost connections, throttling, 5xx, answers that are not the API server's."""

    def __init__(self, reason: str, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


class ConflictError(SerinError):
    """Read again, then decide again: the object is not the one that was decided about."""


class AlreadyExistsError(ConflictError):
    """The object to be created is there already."""


class PermanentError(SerinError):
    """Show it, do not retry: the same request would be refused again."""


class NotFoundError(PermanentError):
    """The API server itself says that the named object, or its namespace, does not exist."""


class NotServedError(PermanentError):
    """404 that names no object: this API is not installed, or something in between does not pass it on."""


class ExpiredError(PermanentError):
    """410: the resource version or the continue token is too old; list again."""


class ForbiddenError(PermanentError):
    """403, from RBAC, quota or admission.

    `verb`, `resource` (with its group after a dot) and `namespace` ("" for the cluster) are those of the request.
    """

    def __init__(self, reason: str, message: str, *, verb: str, resource: str, namespace: str) -> None:
        super().__init__(reason, message)
        self.verb = verb
        self.resource = resource
        self.namespace = namespace


class LeaseLostError(SerinError):
    """This process no longer leads: stop writing and exit."""


def from_response(
    status: int,
    body: Mapping[str, Any] | str,
    *,
    verb: str,
    resource: str,
    namespace: str = "",
    name: str = "",
    retry_after: str = "",
) -> SerinError:
    """The error that an answer with HTTP `status` is.

    `body` is the decoded Status object, or the text of an answer that is none. `retry_after` is the header as it came
    (whole seconds; a date is ignored: clocks of two machines are not compared).
    """
    request = " ".join(filter(None, (verb, resource, "/".join(filter(None, (namespace, name))))))
    wait = (
        min(timedelta(seconds=int(retry_after[:9])), RETRY_AFTER_MAX)
        if retry_after.isascii() and retry_after.isdigit()
        else None
    )
    if isinstance(body, str):
        message = f"{request}: HTTP {status}: {printable(' '.join(body.split()))}"
        return (
            NotServedError("NotServed", message) if status == 404 else TransientError("NotTheApiServer", message, wait)
        )

    said = body.get("details")
    details = said if isinstance(said, dict) else {}
    reason = printable(str(body.get("reason") or f"HTTP{status}"), REASON_MAX)
    message = f"{request}: {printable(str(body.get('message') or reason), MESSAGE_MAX)}"
    if status == 409:
        return (AlreadyExistsError if reason == "AlreadyExists" else ConflictError)(reason, message)
    # 401 too: it is also the answer of an API server that cannot reach etcd to look up our ServiceAccount.
    if status in (401, 408, 425, 429) or status >= 500:
        return TransientError(reason, message, wait)
    if status == 404:
        return NotFoundError(reason, message) if details.get("name") else NotServedError("NotServed", message)
    if status == 410:
        return ExpiredError(reason, message)
    if status == 403:
        causes = details.get("causes") or ()
        terminating = any(isinstance(c, dict) and c.get("reason") == "NamespaceTerminating" for c in causes)
        return ForbiddenError(
            "NamespaceTerminating" if terminating else reason,
            message,
            verb=verb,
            resource=resource,
            namespace=namespace,
        )
    return PermanentError(reason, message)


def back_off(failures: int, first: timedelta, most: timedelta) -> timedelta:
    """The wait after so many failures in a row (≥ 1): doubling from `first` to `most`, less up to a half at random."""
    longest = min(first * (1 << min(failures - 1, 30)), most)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (it spreads load, it keeps no secret)
