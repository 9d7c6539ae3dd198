"""The reflector: a copy of the objects of one kind, kept current by a list and the watch that follows it.

A watch that the server ends is taken up where it stopped; after anything else the whole list is read again, so that
what was deleted meanwhile goes too. Between two attempts there is always a pause, which doubles until a watch has
lasted: a server that hangs up at once is asked a few times a minute, never a thousand times a second.
"""

import asyncio
import builtins
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import msgspec
import structlog

from controller.cluster.client import INACTIVITY_MAX, Client, Resource
from controller.errors import ExpiredError, NotServedError, SerinError, TransientError, back_off

T = TypeVar("T")
log = structlog.get_logger()

PAUSE_FIRST = timedelta(milliseconds=250)
PAUSE_MAX = timedelta(seconds=10)
LASTING = timedelta(seconds=30)
"""A watch of that length was a good one: the next pause is short again."""
LOOK_AGAIN_AFTER = timedelta(seconds=30)


class Key(NamedTuple):
    """Where an object is; `namespace` is "" for cluster-wide kinds."""

    namespace: str
    name: str


class _Metadata(msgspec.Struct):
    resourceVersion: str
    name: str = ""
    namespace: str = ""


class _Head(msgspec.Struct):
    metadata: _Metadata


class _Read(NamedTuple, Generic[T]):
    """An object as it came: its projected value, or why there is none."""

    key: Key
    version: int
    value: T | None
    trouble: str


_decode_head = msgspec.json.Decoder(_Head).decode


class Cache(Generic[T]):
    """Projected objects of one kind. Reads are synchronous and never wait; `run` keeps them current.

    `shape` is what msgspec decodes an object into (a Struct of the fields that are used is 3 times faster than a dict),
    and `project` makes the kept value of it. `on_change(old, new)` is called when a value appears, differs or goes;
    None stands for "not there". `indexes` name functions from a value to the keys under which `by` finds it.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        project: Callable[[Any], T],
        on_change: Callable[[T | None, T | None], None],
        *,
        shape: Any = dict[str, Any],
        label_selector: str = "",
        indexes: Mapping[str, Callable[[T], Iterable[Hashable]]] | None = None,
        look_again_after: timedelta = LOOK_AGAIN_AFTER,
        inactivity_max: timedelta = INACTIVITY_MAX,
    ) -> None:
        self.resource = resource
        self.available = True
        """False while the API server does not serve this kind."""
        self.trouble: SerinError | None = None
        """Why the last list or watch failed; None while a watch runs."""
        self.unreadable: dict[Key, str] = {}
        """Objects that could not be projected, and why. They count as absent."""
        self._client = client
        self._project = project
        self._on_change = on_change
        self._decode_shape = msgspec.json.Decoder(shape).decode
        self._label_selector = label_selector
        self._look_again_after = look_again_after
        self._inactivity_max = inactivity_max
        self._values: dict[Key, T] = {}
        self._keys_of = dict(indexes or {})
        self._indexed: dict[str, dict[Hashable, dict[Key, None]]] = {name: {} for name in self._keys_of}
        self._version = 0  # what is not newer is a replay
        self._synced = asyncio.Event()
        self._contact_at = asyncio.get_running_loop().time()

    async def synced(self) -> None:
        """Return when the first list is in, or when it is known that the kind is not served."""
        await self._synced.wait()

    @property
    def version(self) -> int:
        """The newest resource version that was seen."""
        return self._version

    @property
    def age(self) -> timedelta:
        """Time since the API server last said something about this kind. A quiet watch says so once a minute."""
        return timedelta(seconds=asyncio.get_running_loop().time() - self._contact_at)

    def get(self, namespace: str, name: str) -> T | None:
        return self._values.get(Key(namespace, name))

    def list(self, namespace: str | None = None) -> builtins.list[T]:
        return [value for key, value in self._values.items() if namespace is None or key.namespace == namespace]

    def by(self, index: str, key: Hashable) -> builtins.list[T]:
        """The values that the function `index` gave that key."""
        return [self._values[at] for at in self._indexed[index].get(key, ())]

    async def run(self) -> NoReturn:
        """Keep the copy current until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        current = False  # whether the watch can go on from what we have
        while True:
            pause = timedelta(0)
            watching_at = None
            try:
                if not current:
                    await self._relist()
                current, watching_at = False, loop.time()
                current = await self._watch()
            except NotServedError as error:
                pause = await self._not_served(error)
            except SerinError as error:
                self._failed(error)
                pause = (error.retry_after if isinstance(error, TransientError) else None) or pause
            lasted = watching_at is not None and loop.time() - watching_at >= LASTING.total_seconds()
            failures = 1 if lasted else failures + 1
            await asyncio.sleep(max(pause, back_off(failures, PAUSE_FIRST, PAUSE_MAX)).total_seconds())

    async def _relist(self) -> None:
        items, listed = await self._client.list(self.resource, label_selector=self._label_selector, decode=self._read)
        version = int(listed)
        if version < self._version:
            raise TransientError(
                "StaleList", f"list {self.resource.label}: version {version}, but {self._version} was seen"
            )
        self._version = version
        there = {item.key for item in items}
        for key in [key for key in self._values if key not in there]:
            self._store(key, None)
        self.unreadable = {key: why for key, why in self.unreadable.items() if key in there}
        for item in items:
            self._take(item)
        self._contact()
        self._synced.set()

    async def _watch(self) -> bool:
        """Follow the watch until the server ends it; whether it brought us further."""
        started = self._version
        watch = self._client.watch(
            self.resource,
            resource_version=str(started),
            label_selector=self._label_selector,
            inactivity_max=self._inactivity_max,
        )
        async with aclosing(watch) as events:
            async for event in events:
                self._contact()
                try:
                    metadata = _decode_head(event.raw).metadata
                    version = int(metadata.resourceVersion)
                except (msgspec.DecodeError, ValueError) as error:
                    raise TransientError("BadEvent", f"watch {self.resource.label}: {error}") from error
                if version <= self._version:
                    continue
                self._version = version
                if event.type == "DELETED":
                    key = Key(metadata.namespace, metadata.name)
                    self.unreadable.pop(key, None)
                    self._store(key, None)
                elif event.type != "BOOKMARK":
                    self._take(self._read(event.raw))
        return self._version > started

    def _read(self, raw: msgspec.Raw) -> _Read[T]:
        metadata = _decode_head(raw).metadata
        key, version = Key(metadata.namespace, metadata.name), int(metadata.resourceVersion)
        try:
            return _Read(key, version, self._project(self._decode_shape(raw)), "")
        except (msgspec.DecodeError, ValueError, LookupError, TypeError, AttributeError) as error:
            # One odd object must not hide the others.
            return _Read(key, version, None, f"{type(error).__name__}: {error}")

    def _take(self, item: _Read[T]) -> None:
        if item.value is not None:
            self.unreadable.pop(item.key, None)
        elif self.unreadable.get(item.key) != item.trouble:
            self.unreadable[item.key] = item.trouble
            log.error("object_unreadable", resource=self.resource.label, **item.key._asdict(), why=item.trouble)
        self._store(item.key, item.value)

    def _store(self, key: Key, new: T | None) -> None:
        old = self._values.get(key)
        if old == new:
            return
        for name, keys_of in self._keys_of.items():
            index = self._indexed[name]
            for entry in keys_of(old) if old is not None else ():
                index[entry].pop(key, None)
                if not index[entry]:
                    del index[entry]
            for entry in keys_of(new) if new is not None else ():
                index.setdefault(entry, {})[key] = None
        if new is None:
            del self._values[key]
        else:
            self._values[key] = new
        self._on_change(old, new)

    async def _not_served(self, error: NotServedError) -> timedelta:
        """Empty the copy only when the API server lists its kinds and this one is not among them."""
        try:
            served = await self._client.api_resources(self.resource.group_version)
        except SerinError as unsure:
            self._failed(unsure)
            return timedelta(0)
        if served is not None and self.resource.plural in served:
            self._failed(TransientError("DiscoveryDisagrees", error.message))
            return timedelta(0)
        if self.available:
            log.info("kind_not_served", resource=self.resource.label)
        self.available = False
        self.trouble = error
        for key in list(self._values):
            self._store(key, None)
        self.unreadable.clear()
        self._contact_at = asyncio.get_running_loop().time()
        self._synced.set()
        return self._look_again_after

    def _contact(self) -> None:
        self._contact_at = asyncio.get_running_loop().time()
        self.available = True
        self.trouble = None

    def _failed(self, error: SerinError) -> None:
        if not isinstance(error, ExpiredError) and (self.trouble is None or self.trouble.reason != error.reason):
            log.warning("watch_failed", resource=self.resource.label, reason=error.reason, message=error.message)
        self.trouble = error
