"""The sole place that talks HTTP to the API server: JSON in and out, every call with a time limit, every failure named.

Typed models stay out: they cost 30 times the CPU and lose fields that they do not know. `ApiClient` is used for what it
is good at, configuration, credentials and the connection pool; what it leaves undone is done here: raising on 4xx and
5xx, limiting time, retrying reads, reading watches line by line.
"""

import asyncio
import builtins
import itertools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, NamedTuple, Self, TypeVar, overload
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from controller.cluster.clock import Clock
from controller.core.change import printable
from controller.errors import (
    ExpiredError,
    NotServedError,
    PermanentError,
    SerinError,
    TransientError,
    back_off,
    from_response,
)

Json = dict[str, Any]
T = TypeVar("T")

PAGE = 500
TRIES = 3
PAUSE_FIRST, PAUSE_MAX = timedelta(seconds=0.1), timedelta(seconds=1)
INACTIVITY_MAX = timedelta(seconds=70)
"""The API server sends a bookmark about once a minute: a watch that is silent for longer is dead."""

CONTENT_TYPES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Resource(NamedTuple):
    """A kind of object and where the API server keeps it; `group` is "" for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def label(self) -> str:
        """As `kubectl` and RBAC messages name it: `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        where = ["namespaces", namespace] if self.namespaced and namespace else []
        parts = filter(None, [*where, self.plural, name, subresource])
        return f"/{'apis' if self.group else 'api'}/{self.group_version}/" + "/".join(quote(p, safe="") for p in parts)


class Event(NamedTuple):
    """One line of a watch; `raw` is the object's JSON (of a BOOKMARK only its resourceVersion counts)."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    raw: msgspec.Raw


class _PageMetadata(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _PageMetadata
    items: list[msgspec.Raw] | None = None


class _WatchLine(msgspec.Struct):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


class _Call(NamedTuple):
    """A request, and what it is called in errors (`verb` to `name`)."""

    verb: str
    resource: str
    namespace: str
    name: str
    method: str
    path: str
    query: Mapping[str, str] = {}
    body: Any = None
    content_type: str = "application/json"

    @property
    def title(self) -> str:
        return " ".join(filter(None, (self.verb, self.resource, self.namespace, self.name)))


_decode = msgspec.json.Decoder(Json).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_line = msgspec.json.Decoder(_WatchLine).decode

ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
SUBJECT_ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False)
SUBJECT_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False)


class Client:
    """One connection pool to one API server, as one identity. Every method raises the errors of `controller.errors`."""

    def __init__(self, api: ApiClient, reload: Callable[[], Any], timeout: timedelta) -> None:
        self._api = api
        self._reload = reload
        self._limit = timeout.total_seconds()
        self._headers = {"Accept": "application/json"}
        self.clock = Clock()

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None,
        impersonate: str | None,
        timeout: timedelta,  # noqa: ASYNC109 (of each call)
        context: str | None = None,
    ) -> Self:
        """A client with the credentials of `kubeconfig` (paths as in KUBECONFIG), or of the pod when it is None.

        `context`: the one of the kubeconfig to use, in place of its current one.
        With `impersonate` it acts as that user, directly if these credentials are that user's, else by impersonation;
        the API server itself adds the groups of a ServiceAccount. PermanentError when it ends up as somebody else.
        """
        configuration = Configuration()
        configuration.connection_pool_maxsize = 0  # watches hold theirs for good: a limit would starve the calls
        configuration.disable_strict_ssl_verification = True  # RFC 5280 to the letter refuses CAs that kubectl takes

        async def load() -> None:
            try:
                if kubeconfig is None:
                    kubernetes_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
                else:
                    await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                        kubeconfig, context=context, client_configuration=configuration, persist_config=False
                    )
            except Exception as error:
                where = kubeconfig or "the pod's ServiceAccount (no KUBECONFIG was given)"
                raise PermanentError("NoCredentials", f"cannot load credentials from {where}: {error}") from error

        await load()
        api = ApiClient(configuration)
        api.user_agent = "serin"
        client = cls(api, load, timeout)
        try:
            if impersonate is not None and await client.who_am_i() != impersonate:
                client._headers["Impersonate-User"] = impersonate
                if (user := await client.who_am_i()) != impersonate:
                    raise PermanentError(
                        "WrongIdentity", f"asked to act as {impersonate}, but the API server sees {user}"
                    )
        except BaseException:
            await client.close()
            raise
        return client

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    # Reads

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        path = resource.path(namespace, name)
        return await self._read(_Call("get", resource.label, namespace or "", name, "GET", path))

    @overload
    async def list(
        self,
        resource: Resource,
        namespace: str | None = ...,
        *,
        label_selector: str = ...,
        field_selector: str = ...,
        limit: int = ...,
    ) -> tuple[builtins.list[Json], str]: ...
    @overload
    async def list(
        self,
        resource: Resource,
        namespace: str | None = ...,
        *,
        label_selector: str = ...,
        field_selector: str = ...,
        limit: int = ...,
        decode: Callable[[msgspec.Raw], T],
    ) -> tuple[builtins.list[T], str]: ...
    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        decode: Callable[[msgspec.Raw], Any] = _decode,
    ) -> tuple[builtins.list[Any], str]:
        """All objects, read in pages of `limit`, and the resource version to watch from: the whole list or an error.

        Items carry no `kind` and `apiVersion` where the API server leaves them out. `decode` turns the JSON of one
        object into what is kept, page by page, so that a large list is never in memory whole.
        """
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": str(limit)}
        call = _Call("list", resource.label, namespace or "", "", "GET", resource.path(namespace), query)
        for _ in range(TRIES):
            items: builtins.list[Any] = []
            query["continue"] = ""
            try:
                while True:
                    page = await self._read_as(_decode_page, call)
                    try:
                        items += [decode(raw) for raw in page.items or ()]
                    except msgspec.DecodeError as error:
                        raise TransientError("BadObject", f"{call.title}: {error}") from error
                    if not page.metadata.continue_:
                        return items, page.metadata.resourceVersion
                    query["continue"] = page.metadata.continue_
            except ExpiredError:
                continue  # the token outlived its snapshot: what was read so far belongs to a list that is no more
        raise TransientError("ListExpired", f"{call.title}: the continue token expired {TRIES} times in a row")

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        inactivity_max: timedelta = INACTIVITY_MAX,
    ) -> AsyncGenerator[Event, None]:
        """Events after `resource_version`, bookmarks among them, until the server ends the watch, which is no error.

        Raises on all else: an ERROR event as the error it carries (410: ExpiredError), a line that is no JSON, a
        connection that breaks off or is silent for `inactivity_max`. Close it with `contextlib.aclosing`.
        """
        lasting = random.randint(300, 600)  # noqa: S311 (as client-go: the watches of many clients end at different times)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "timeoutSeconds": str(lasting),
        }
        call = _Call("watch", resource.label, namespace or "", "", "GET", resource.path(namespace), query)
        silence = aiohttp.ClientTimeout(sock_connect=self._limit, sock_read=inactivity_max.total_seconds())
        response = await _named(call, self._send(call, silence))
        try:
            rest = b""
            chunks = aiter(response.content.iter_any())
            while chunk := await _named(call, anext(chunks, b"")):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _event(call, line)
            if rest.strip():
                raise TransientError("CutShort", f"{call.title}: the watch ended in the middle of an event")
        finally:
            if response.connection and response.connection.transport:
                response.connection.transport.abort()  # no TLS good-bye: the server would first finish its stream
            response.close()

    async def pod_text(self, namespace: str, pod: str, port: int, path: str) -> str:
        """What a pod answers on a port, through the API server."""
        proxied = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}:{port}/proxy{path}"
        call = _Call("get", "pods/proxy", namespace, pod, "GET", proxied)
        return await self._read_as(lambda body: body.decode(errors="replace"), call)

    async def version(self) -> tuple[int, int]:
        """The API server's (major, minor)."""
        info = await self._read(_Call("get", "version", "", "", "GET", "/version"))
        return int(info["major"]), int("".join(filter(str.isdigit, info["minor"])))

    async def api_resources(self, group_version: str) -> set[str] | None:
        """The plurals that are served under a group and version like `apps/v1` or `v1`; None when it is not there.

        None is the word of the API server, which lists its groups; a 404 of something in between raises.
        """
        path = f"/{'apis' if '/' in group_version else 'api'}/{group_version}"
        try:
            found = await self._read(_Call("discover", group_version, "", "", "GET", path))
        except NotServedError as error:
            groups = (await self._read(_Call("discover", "groups", "", "", "GET", "/apis")))["groups"]
            if any(version["groupVersion"] == group_version for group in groups for version in group["versions"]):
                raise TransientError("DiscoveryDisagrees", error.message) from error
            return None
        return {resource["name"] for resource in found["resources"] if "/" not in resource["name"]}

    async def schema(self, resource: Resource) -> Json:
        """The OpenAPI schema by which objects of this kind are kept.

        Raises:
            NotServedError: none is published for it.
        """
        path = f"/openapi/v3/apis/{resource.group_version}"
        call = _Call("get", f"schema of {resource.label}", "", "", "GET", path)
        published = (await self._read(call))["components"]["schemas"]
        for schema in published.values():
            for each in schema.get("x-kubernetes-group-version-kind") or ():
                if f"{each['group']}/{each['version']}" == resource.group_version and each["kind"] == resource.kind:
                    return dict(schema)
        raise NotServedError("NotServed", f"{call.title}: not published")

    async def access_review(self, verb: str, group: str, resource: str, namespace: str | None, name: str = "") -> bool:
        """Whether this identity may `verb` the resource, in `namespace` or (None) everywhere; "" is the core group."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace or "", "name": name}
        review = await self._review(ACCESS_REVIEWS, spec={"resourceAttributes": attributes})
        return bool(review["status"]["allowed"])

    async def subject_review(
        self, user: str, groups: Sequence[str], verb: str, group: str, resource: str, namespace: str, name: str
    ) -> bool:
        """Whether `user`, with these groups, may `verb` the named resource in the namespace."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace, "name": name}
        asked = {"user": user, "groups": list(groups), "resourceAttributes": attributes}
        review = await self._review(SUBJECT_ACCESS_REVIEWS, spec=asked)
        return bool(review["status"]["allowed"])

    async def who_am_i(self) -> str:
        """The user name that the API server sees."""
        return str((await self._review(SUBJECT_REVIEWS))["status"]["userInfo"]["username"])

    async def _review(self, resource: Resource, **fields: Json) -> Json:
        body = {"apiVersion": resource.group_version, "kind": resource.kind, **fields}
        return await self._read(_Call("create", resource.label, "", "", "POST", resource.path(), body=body))

    # Writes: tried once, for only the caller can know whether a lost answer was a yes

    async def create(self, resource: Resource, namespace: str | None, obj: Json, *, dry_run: bool = False) -> Json:
        name, query = obj["metadata"].get("name", ""), {"dryRun": "All" if dry_run else ""}
        path = resource.path(namespace)
        return await self._write(_Call("create", resource.label, namespace or "", name, "POST", path, query, obj))

    async def patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Json | builtins.list[Json],
        *,
        content_type: Literal["merge", "json", "apply"] = "merge",
        subresource: str = "",
        field_manager: str = "serin",
    ) -> Json:
        """The patched object. `apply` takes the fields over from other managers, as befits a controller's own fields.

        A `metadata.resourceVersion` in the patch makes it a precondition: ConflictError when the object has moved on.
        """
        query = {"fieldManager": field_manager, "force": "true" if content_type == "apply" else ""}
        path, media = resource.path(namespace, name, subresource), CONTENT_TYPES[content_type]
        label = f"{resource.label}/{subresource}" if subresource else resource.label
        return await self._write(_Call("patch", label, namespace or "", name, "PATCH", path, query, patch, media))

    async def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] = "Background",
    ) -> None:
        """Delete the object, if it still has that `uid` and `resource_version` (else ConflictError)."""
        wanted = {"uid": uid, "resourceVersion": resource_version}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {key: value for key, value in wanted.items() if value is not None},
        }
        path = resource.path(namespace, name)
        await self._write(_Call("delete", resource.label, namespace or "", name, "DELETE", path, body=options))

    # One exchange

    async def _read(self, call: _Call) -> Json:
        return await self._read_as(_decode, call)

    async def _read_as(self, decode: Callable[[bytes], T], call: _Call) -> T:
        """Up to three tries within the time limit; one that hangs is given up at half of it: another can follow."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limit
        # Not tenacity: each call leaves a ring of thirty objects, and an error all frames with what they hold.
        for tries in itertools.count(1):
            try:
                return await self._exchange(call, min(end - loop.time(), self._limit / 2), decode)
            except TransientError as error:
                pause = max(back_off(tries, PAUSE_FIRST, PAUSE_MAX), error.retry_after or timedelta()).total_seconds()
                if tries >= TRIES or loop.time() + pause >= end:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _write(self, call: _Call) -> Json:
        return await self._exchange(call, self._limit, _decode)

    async def _exchange(self, call: _Call, limit: float, decode: Callable[[bytes], T]) -> T:
        async def exchange() -> bytes:
            response = await self._send(call, aiohttp.ClientTimeout(total=limit))
            return await response.read()

        body = await _named(call, exchange())
        try:
            return decode(body)
        except msgspec.DecodeError as error:
            raise _not_json(call, body, error) from error

    async def _send(self, call: _Call, limit: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """The open response of a request that the server accepted; an error of `from_response` otherwise."""
        present = {key: value for key, value in call.query.items() if value}
        _, url, headers, _, _ = await self._api.param_serialize(
            call.method,
            f"{call.path}?{urlencode(present)}" if present else call.path,
            header_params={**self._headers, "Content-Type": call.content_type},
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(call.method, url, headers, call.body, _request_timeout=limit)
        response: aiohttp.ClientResponse = answer.response
        self.clock.heard(response.headers.get("Date"))
        if 200 <= response.status < 300:
            return response
        text = (await response.read()).decode(errors="replace")
        try:
            status = _decode(text)
        except msgspec.DecodeError:
            status = {}
        if response.status == 401:
            await self._reload()  # a token of an exec plugin or a token file that ran out: the next try has the new one
        raise _error(
            call,
            response.status,
            status if status.get("kind") == "Status" else text,
            retry_after=response.headers.get("Retry-After", ""),
        )


async def _named(call: _Call, work: Awaitable[T]) -> T:
    """Await `work`; what goes wrong on the way to the API server is a TransientError that names the request."""
    try:
        return await work
    except TimeoutError as error:
        raise TransientError("Timeout", f"{call.title}: no answer within the time limit") from error
    except (aiohttp.ClientError, OSError) as error:
        raise TransientError("ConnectionLost", f"{call.title}: {error or type(error).__name__}") from error


def _event(call: _Call, line: bytes) -> Event:
    try:
        decoded = _decode_line(line)
        if decoded.type == "ERROR":
            status = _decode(decoded.object)
            code = status.get("code")
            raise _error(call, code if isinstance(code, int) else 500, status)
    except msgspec.DecodeError as error:
        raise _not_json(call, line, error) from error
    return Event(decoded.type, decoded.object)


def _error(call: _Call, status: int, body: Json | str, retry_after: str = "") -> SerinError:
    return from_response(
        status,
        body,
        verb=call.verb,
        resource=call.resource,
        namespace=call.namespace,
        name=call.name,
        retry_after=retry_after,
    )


def _not_json(call: _Call, body: bytes, error: Exception) -> TransientError:
    text = printable(" ".join(body[:200].decode(errors="replace").split()))
    return TransientError(
        "NotTheApiServer", f"{call.title}: not an answer of the API server ({printable(str(error))}): {text}"
    )
