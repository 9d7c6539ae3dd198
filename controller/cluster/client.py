"""The sole place that talks HTTP to the API server: JSON in and out, every call with a time limit, every failure named.

Typed models stay out: they cost 30 times the CPU and lose fields that they do not know. `ApiClient` is used for what it
is good at, configuration, credentials and the connection pool; what it leaves undone is done here: raising on 4xx and
5xx, limiting time, retrying reads, reading watches line by line.
"""

import asyncio
import builtins
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple, Self, TypeVar, overload
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import tenacity
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from controller.errors import ExpiredError, NotServedError, PermanentError, SerinError, TransientError, from_response

Json = dict[str, Any]
T = TypeVar("T")

PAGE = 500
TRIES = 3
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


class _Request(NamedTuple):
    """What a request is called in errors and logs."""

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""


_decode = msgspec.json.Decoder(Json).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_line = msgspec.json.Decoder(_WatchLine).decode

ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
SUBJECT_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False)


class Client:
    """One connection pool to one API server, as one identity. Every method raises the errors of `controller.errors`."""

    def __init__(self, api: ApiClient, reload: Callable[[], Any], timeout: timedelta) -> None:
        self._api = api
        self._reload = reload
        self._limit = timeout.total_seconds()
        self._headers = {"Accept": "application/json", "User-Agent": "serin"}

    @classmethod
    async def connect(cls, *, kubeconfig: str | None, impersonate: str | None, timeout: timedelta) -> Self:  # noqa: ASYNC109 (of each call)
        """A client with the credentials of `kubeconfig` (paths as in KUBECONFIG), or of the pod when it is None.

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
                        kubeconfig, client_configuration=configuration, persist_config=False
                    )
            except Exception as error:
                where = kubeconfig or "the pod's ServiceAccount (no KUBECONFIG was given)"
                raise PermanentError("NoCredentials", f"cannot load credentials from {where}: {error}") from error

        await load()
        client = cls(ApiClient(configuration), load, timeout)
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
        request = _Request("get", resource.label, namespace or "", name)
        return _decode_json(await self._read(request, resource.path(namespace, name)), request)

    @overload
    async def list(
        self,
        resource: Resource,
        namespace: str | None = ...,
        *,
        label_selector: str = ...,
        field_selector: str = ...,
        limit: int = ...,
    ) -> tuple[list[Json], str]: ...
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
    ) -> tuple[list[T], str]: ...
    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE,
        decode: Callable[[msgspec.Raw], Any] = _decode,
    ) -> tuple[list[Any], str]:
        """All objects, read in pages of `limit`, and the resource version to watch from: the whole list or an error.

        Items carry no `kind` and `apiVersion` where the API server leaves them out. `decode` turns the JSON of one
        object into what is kept, page by page, so that a large list is never in memory whole.
        """
        request = _Request("list", resource.label, namespace or "")
        query = {"labelSelector": label_selector, "fieldSelector": field_selector, "limit": str(limit)}
        for _ in range(TRIES):
            items: list[Any] = []
            token = ""
            try:
                while True:
                    body = await self._read(request, resource.path(namespace), query | {"continue": token})
                    try:
                        page = _decode_page(body)
                        items += [decode(raw) for raw in page.items or ()]
                    except msgspec.DecodeError as error:
                        raise _not_json(request, body, error) from error
                    if not (token := page.metadata.continue_):
                        return items, page.metadata.resourceVersion
            except ExpiredError:
                continue  # the token outlived its snapshot: what was read so far belongs to a list that is no more
        raise TransientError("ListExpired", f"list {resource.label}: the continue token expired {TRIES} times in a row")

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
        request = _Request("watch", resource.label, namespace or "")
        lasting = random.randint(300, 600)  # noqa: S311 (as client-go: the watches of many clients end at different times)
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "timeoutSeconds": str(lasting),
        }
        silence = aiohttp.ClientTimeout(sock_connect=self._limit, sock_read=inactivity_max.total_seconds())
        response = await self._named(
            request, self._send(request, "GET", resource.path(namespace), query, limit=silence)
        )
        try:
            rest = b""
            chunks = aiter(response.content.iter_any())
            while chunk := await self._named(request, anext(chunks, b"")):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _event(request, line)
            if rest.strip():
                raise TransientError("CutShort", f"{_title(request)}: the watch ended in the middle of an event")
        finally:
            response.close()

    async def version(self) -> tuple[int, int]:
        """The API server's (major, minor)."""
        request = _Request("get", "/version")
        info = _decode_json(await self._read(request, "/version"), request)
        return int(info["major"]), int("".join(filter(str.isdigit, info["minor"])))

    async def api_resources(self, group_version: str) -> set[str] | None:
        """The plurals that are served under a group and version like `apps/v1` or `v1`; None when it is not there.

        None is the word of the API server, which lists its groups; a 404 of something in between raises.
        """
        request = _Request("discover", group_version)
        try:
            path = f"/{'apis' if '/' in group_version else 'api'}/{group_version}"
            found = _decode_json(await self._read(request, path), request)
        except NotServedError as error:
            groups = _decode_json(await self._read(request, "/apis"), request)["groups"]
            if any(version["groupVersion"] == group_version for group in groups for version in group["versions"]):
                raise TransientError("DiscoveryDisagrees", error.message) from error
            return None
        return {resource["name"] for resource in found["resources"] if "/" not in resource["name"]}

    async def access_review(self, verb: str, group: str, resource: str, namespace: str | None, name: str = "") -> bool:
        """Whether this identity may `verb` the resource, in `namespace` or (None) everywhere; "" is the core group."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace or "", "name": name}
        review = await self._review(ACCESS_REVIEWS, {"resourceAttributes": attributes})
        return bool(review["status"]["allowed"])

    async def who_am_i(self) -> str:
        """The user name that the API server sees."""
        return str((await self._review(SUBJECT_REVIEWS, None))["status"]["userInfo"]["username"])

    async def _review(self, resource: Resource, spec: Json | None) -> Json:
        request = _Request("create", resource.label)
        body = {"apiVersion": resource.group_version, "kind": resource.kind} | ({"spec": spec} if spec else {})
        return _decode_json(await self._read(request, resource.path(), method="POST", body=body), request)

    # Writes: tried once, for only the caller can know whether a lost answer was a yes

    async def create(self, resource: Resource, namespace: str | None, obj: Json, *, dry_run: bool = False) -> Json:
        request = _Request("create", resource.label, namespace or "", obj["metadata"].get("name", ""))
        query = {"dryRun": "All" if dry_run else ""}
        return _decode_json(await self._write(request, "POST", resource.path(namespace), query, obj), request)

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
        request = _Request("patch", resource.label, namespace or "", name)
        query = {"fieldManager": field_manager, "force": "true" if content_type == "apply" else ""}
        path = resource.path(namespace, name, subresource)
        return _decode_json(
            await self._write(request, "PATCH", path, query, patch, CONTENT_TYPES[content_type]), request
        )

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
        request = _Request("delete", resource.label, namespace or "", name)
        wanted = {"uid": uid, "resourceVersion": resource_version}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {key: value for key, value in wanted.items() if value is not None},
        }
        await self._write(request, "DELETE", resource.path(namespace, name), {}, options)

    # One exchange

    async def _read(
        self,
        request: _Request,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: Any = None,
    ) -> bytes:
        """Up to three tries within the time limit; one that hangs is given up at half of it: another can follow."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limit

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, TransientError) else None
            return max(
                tenacity.wait_random_exponential(multiplier=0.1, max=1)(state), asked.total_seconds() if asked else 0
            )

        def stop(state: tenacity.RetryCallState) -> bool:
            return state.attempt_number >= TRIES or loop.time() + state.upcoming_sleep >= end

        async def attempt() -> bytes:
            limit = min(end - loop.time(), self._limit / 2)
            return await self._exchange(request, method, path, query or {}, body, limit=limit)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TransientError), wait=wait, stop=stop, reraise=True
        )
        return await retrying(attempt)

    async def _write(
        self,
        request: _Request,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        content_type: str = "application/json",
    ) -> bytes:
        return await self._exchange(request, method, path, query, body, content_type, limit=self._limit)

    async def _exchange(
        self,
        request: _Request,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        content_type: str = "application/json",
        *,
        limit: float,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=limit)

        async def exchange() -> bytes:
            response = await self._send(request, method, path, query, body, content_type, limit=timeout)
            return await response.read()

        return await self._named(request, exchange())

    async def _send(
        self,
        request: _Request,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        content_type: str = "application/json",
        *,
        limit: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """The open response of a request that the server accepted; an error of `from_response` otherwise."""
        if present := {key: value for key, value in query.items() if value}:
            path += "?" + urlencode(present)
        _, url, headers, _, _ = await self._api.param_serialize(
            method, path, header_params={**self._headers, "Content-Type": content_type}, auth_settings=["BearerToken"]
        )
        answer = await self._api.call_api(method, url, headers, body, _request_timeout=limit)
        response: aiohttp.ClientResponse = answer.response
        if 200 <= response.status < 300:
            return response
        text = (await response.read()).decode(errors="replace")
        try:
            status = _decode(text)
        except msgspec.DecodeError:
            status = {}
        if response.status == 401:
            await self._reload()  # a token of an exec plugin or a token file that ran out: the next try has the new one
        raise from_response(
            response.status,
            status if status.get("kind") == "Status" else text,
            retry_after=response.headers.get("Retry-After", ""),
            **request._asdict(),
        )

    @staticmethod
    async def _named(request: _Request, work: Awaitable[T]) -> T:
        """Await `work`; what goes wrong on the way to the API server is a TransientError that names the request."""
        try:
            return await work
        except SerinError:
            raise
        except TimeoutError as error:
            raise TransientError("Timeout", f"{_title(request)}: no answer within the time limit") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError("ConnectionLost", f"{_title(request)}: {error or type(error).__name__}") from error


def _event(request: _Request, line: bytes) -> Event:
    try:
        decoded = _decode_line(line)
    except msgspec.DecodeError as error:
        raise _not_json(request, line, error) from error
    if decoded.type == "ERROR":
        status = _decode_json(decoded.object, request)
        raise from_response(int(status.get("code") or 500), status, **request._asdict())
    return Event(decoded.type, decoded.object)


def _decode_json(body: bytes | msgspec.Raw, request: _Request) -> Json:
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise _not_json(request, bytes(body), error) from error


def _not_json(request: _Request, body: bytes, error: Exception) -> TransientError:
    text = " ".join(body[:200].decode(errors="replace").split())
    return TransientError(
        "NotTheApiServer", f"{_title(request)}: an answer that the API server does not give ({error}): {text}"
    )


def _title(request: _Request) -> str:
    return " ".join(filter(None, request))
