"""Leader election on a coordination.k8s.io/v1 Lease: at most one process holds it at any instant.

Why it holds: our own lease runs from before a renewal was sent, for `renew_deadline`; another takes it only after it
has seen the Lease unchanged for `duration`, counted from when it saw the last change. Each counts by its own clock, so
machines may disagree about the time. `duration - renew_deadline` is the slack for clocks that run at different speeds
and for a write that was begun just before the end. Every write to the Lease carries the resource version that was read.
"""

import asyncio
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn

import structlog

from controller.cluster.client import Client, Json, Resource
from controller.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    SerinError,
    TransientError,
)

log = structlog.get_logger()

LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")


def _since_boot() -> float:
    """Seconds that include a suspend, which CLOCK_MONOTONIC (and the event loop's clock) leaves out on Linux."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class _Seen(NamedTuple):
    """The Lease as it was last read: `version` is its resource version, `at` when we first saw that, by our clock."""

    holder: str
    version: str
    duration: float
    transitions: int
    at: float


class Lease:
    """One contender; `identity` must differ between processes, a restarted one included.

    `acquire`, then `keep` for as long as it leads, then `release`. Before every write: `held()`.
    """

    def __init__(
        self,
        client: Client,
        identity: str,
        *,
        namespace: str = "serin-system",
        name: str = "serin",
        duration: timedelta = timedelta(seconds=15),
        renew_deadline: timedelta = timedelta(seconds=10),
        retry: timedelta = timedelta(seconds=2),
        clock: Callable[[], float] = _since_boot,
    ) -> None:
        if not timedelta(0) < retry < renew_deadline < duration:
            raise ValueError("needs 0 < retry < renew_deadline < duration")
        self.identity = identity
        self._client = client
        self._namespace, self._name = namespace, name
        self._duration, self._deadline, self._retry = (t.total_seconds() for t in (duration, renew_deadline, retry))
        self._clock = clock
        self._seen: _Seen | None = None
        self._renewed_at: float | None = None

    def held(self) -> bool:
        """Whether this process leads now. Ask right before each write: after a suspend it is false at once."""
        return self._left() > 0

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last read; "" for nobody."""
        return self._seen.holder if self._seen else ""

    async def acquire(self) -> None:
        """Return when the Lease is held. PermanentError when it cannot be: no right to it, no such namespace."""
        while True:
            try:
                async with asyncio.timeout(self._deadline):
                    await self._try_to_take()
            except (TransientError, ConflictError, TimeoutError) as error:
                log.info("lease_not_taken", reason=getattr(error, "reason", "Timeout"), holder=self.holder)
            if self.held():
                log.info("lease_acquired", identity=self.identity, transitions=self._seen and self._seen.transitions)
                return
            await asyncio.sleep(self._retry)

    async def keep(self) -> NoReturn:
        """Renew for as long as possible; LeaseLostError at the moment the lease is not held any more."""
        why: Exception | str = "the process stood still for too long"
        while self.held():
            await asyncio.sleep(min(self._retry, self._left()))
            if not self.held():
                break
            try:
                async with asyncio.timeout(self._left()):
                    await self._rewrite(self.identity)
            except (SerinError, TimeoutError) as error:
                why = error if str(error) else "no answer from the API server"
                log.warning("lease_not_renewed", reason=str(why), left_seconds=self._left())
        self._renewed_at = None
        raise LeaseLostError("LeaseLost", f"{self.identity} leads no more (holder: {self.holder or 'none'}): {why}")

    async def release(self) -> None:
        """Give the Lease up, so that another takes it at its next look. What fails here only makes the other wait."""
        held, self._renewed_at = self.held(), None
        if not held:
            return
        try:
            async with asyncio.timeout(self._retry):
                await self._rewrite(None)
            log.info("lease_released", identity=self.identity)
        except (SerinError, TimeoutError) as error:
            log.warning("lease_not_released", reason=str(error))

    def _left(self) -> float:
        return 0.0 if self._renewed_at is None else self._renewed_at + self._deadline - self._clock()

    async def _try_to_take(self) -> None:
        try:
            await self._look()
        except NotFoundError:
            if self._seen and self._seen.holder and self._clock() < self._seen.at + self._seen.duration:
                return  # somebody deleted the Lease: its holder does not know that yet
            self._seen = None
        seen = self._seen
        if seen is None or seen.holder in ("", self.identity) or self._clock() >= seen.at + seen.duration:
            await self._write(self.identity)

    async def _look(self) -> None:
        self._see(await self._client.get(LEASES, self._namespace, self._name))

    async def _rewrite(self, holder: str | None) -> None:
        """Write our own Lease; once more when someone touched it, or when the answer to our last write was lost."""
        try:
            await self._write(holder)
        except ConflictError:
            await self._look()
            if self.holder != self.identity:
                self._renewed_at = None
                raise
            await self._write(holder)

    async def _write(self, holder: str | None) -> None:
        """Create the Lease, or write it if it still is the one we saw."""
        seen, sent_at = self._seen, self._clock()
        spec: dict[str, Any] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": math.ceil(self._duration),
            "renewTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        if holder and (seen is None or seen.holder != holder):
            spec |= {"acquireTime": spec["renewTime"], "leaseTransitions": seen.transitions + 1 if seen else 0}
        metadata = {"name": self._name, "namespace": self._namespace}
        if seen is None:
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": LEASES.kind, "metadata": metadata, "spec": spec}
            written = await self._client.create(LEASES, self._namespace, lease)
        else:
            patch = {"metadata": {"resourceVersion": seen.version}, "spec": spec}
            try:
                written = await self._client.patch(LEASES, self._namespace, self._name, patch)
            except NotFoundError as error:
                raise ConflictError("Deleted", error.message) from error
        self._see(written)
        self._renewed_at = sent_at if holder else None

    def _see(self, lease: Json) -> None:
        spec = lease.get("spec") or {}
        version = lease["metadata"]["resourceVersion"]
        self._seen = _Seen(
            spec.get("holderIdentity") or "",
            version,
            float(spec.get("leaseDurationSeconds") or self._duration),
            int(spec.get("leaseTransitions") or 0),
            self._seen.at if self._seen and self._seen.version == version else self._clock(),
        )
