"""Joins the parts to a process: checks that it can work, keeps the caches, leads or waits, and ends for a reason."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

import structlog
import tenacity
from aiohttp import web

from controller.alerts import BODY_MAX, PATH, AlertEndpoint
from controller.cluster import kinds
from controller.cluster.client import Client, Resource
from controller.cluster.lease import Lease
from controller.cluster.read import Cluster, Key, Known
from controller.cluster.write import Writer
from controller.core.model import Change, Measurements, State
from controller.core.schema import unkept
from controller.errors import ConflictError, LeaseLostError, PermanentError, SerinError, TransientError
from controller.measure import Measuring, subjects_of
from controller.metrics.alertmanager import ToldAlerts, merged
from controller.metrics.presets import PRESETS
from controller.metrics.source import Prometheus
from controller.notify import Notifier
from controller.reconcile import Reconciler
from controller.settings import Settings
from controller.telemetry import Telemetry
from controller.trail import Trail
from controller.workqueue import WorkQueue

log = structlog.get_logger()

IDENTITY = "system:serviceaccount:serin-system:serin"
"""Who the controller is, in the cluster and out of it: the admission policies let no one else through."""
KUBERNETES_MIN = (1, 36)
NAMED = 3
"""So many fields are named of those that an old CRD does not know."""
PATIENCE = timedelta(seconds=10)
FINAL = frozenset(("KubernetesTooOld", "NoCredentials", "WrongIdentity"))
"""Refusals at the start that no patience mends."""
SYNC_MAX = timedelta(minutes=1)
SKEW_SAID = timedelta(seconds=5)
CONTACT_MAX = timedelta(minutes=3)
LOOK_AGAIN = timedelta(milliseconds=50)
AUDIT_LOOK = timedelta(seconds=1)
FIRST_LOOK = timedelta(seconds=1)
"""Who has just begun to lead waits no longer for the first measurements: without them every change would be held."""

RIGHTS: Mapping[Resource, str] = {
    kinds.CHANGES: "get list watch create patch delete",
    kinds.DECISIONS: "get list watch",
    kinds.POLICIES: "list watch",
    kinds.DEPLOYMENTS: "get list watch create patch delete",
    kinds.REPLICA_SETS: "list delete",
    kinds.PODS: "list watch",
    kinds.SERVICES: "get list create delete",
    kinds.CRON_JOBS: "get",
    kinds.ARGO_ROLLOUTS: "list",
    kinds.FLAGGER_CANARIES: "list",
    kinds.KRUISE_ROLLOUTS: "list",
    kinds.ARGO_APPLICATIONS: "list",
    kinds.FLUX_KUSTOMIZATIONS: "list",
    kinds.FLUX_RELEASES: "list",
    kinds.JOBS: "get create",
    kinds.CLAIMS: "list",
    kinds.ENDPOINT_SLICES: "list watch",
    kinds.NETWORK_POLICIES: "get list create delete",
    kinds.DISRUPTION_BUDGETS: "get list create delete",
    kinds.AUTOSCALERS: "list patch",
    kinds.HTTP_ROUTES: "get list watch patch",
    kinds.GRPC_ROUTES: "get list watch patch",
    kinds.REFERENCE_GRANTS: "list",
    kinds.EVENTS: "create",
    kinds.ACCESS_REVIEWS: "create",
    kinds.MUTATING_POLICIES: "list",
    kinds.MUTATING_BINDINGS: "list",
    kinds.VALIDATING_POLICIES: "list",
    kinds.VALIDATING_BINDINGS: "list",
}
"""Verbs in all namespaces; manifests/rbac.yaml gives these and no others."""


async def run(settings: Settings) -> None:
    """Run until a signal ends it.

    Raises:
        SerinError: why it cannot work, or may not go on.
    """
    client: Client = await _patiently()(_connect, settings)
    try:
        await _run(settings, client)
    finally:
        await client.close()


def _patiently() -> tenacity.AsyncRetrying:
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_after_delay(PATIENCE),
        wait=tenacity.wait_fixed(1),
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    """What has just been installed takes a moment to be served, and rights to be known to every API server; and one
    that does not answer now is no reason to end, for whoever ends too often is kept waiting by the kubelet."""
    return isinstance(error, SerinError) and error.reason not in FINAL


async def _connect(settings: Settings) -> Client:
    """To a cluster that can be worked with."""
    client = await Client.connect(kubeconfig=settings.kubeconfig, impersonate=IDENTITY, timeout=timedelta(seconds=10))
    try:
        await check_cluster(client)
    except BaseException:
        await client.close()
        raise
    return client


async def check_cluster(client: Client) -> None:
    """PermanentError when this cluster cannot be worked with: too old, no CRDs, rights missing."""
    version = await client.version()
    if version < KUBERNETES_MIN:
        have, want = (".".join(map(str, v)) for v in (version, KUBERNETES_MIN))
        raise PermanentError(
            "KubernetesTooOld",
            f"the API server is {have}, but Serin needs {want}: MutatingAdmissionPolicy is not GA before",
        )
    served = await client.api_resources(kinds.CHANGES.group_version) or set()
    missing = [
        resource.label for resource in (kinds.CHANGES, kinds.DECISIONS, kinds.POLICIES) if resource.plural not in served
    ]
    if missing:
        raise PermanentError(
            "MissingCRDs", f"{', '.join(missing)} not served: kubectl apply --server-side -k manifests/"
        )
    await check_schema(client)
    asked = [(verb, resource) for resource, verbs in RIGHTS.items() for verb in verbs.split()]
    allowed = await asyncio.gather(*(client.access_review(verb, r.group, r.plural, None) for verb, r in asked))
    denied = [f"{verb} {r.label}" for (verb, r), may in zip(asked, allowed, strict=True) if not may]
    if denied:
        raise PermanentError(
            "PermissionDenied", f"{IDENTITY} may not {', '.join(denied)}: kubectl apply --server-side -k manifests/"
        )


async def check_schema(client: Client) -> None:
    """PermanentError when the API server would not keep all that we remember of a change: it drops unknown fields.

    `helm upgrade` leaves CRDs as they are.
    """
    try:
        schema = await client.schema(kinds.CHANGES)
    except PermanentError as error:
        log.warning("schema_unknown", reason=error.reason, message=error.message)
        return
    if lost := list(unkept(State, schema["properties"].get("status") or {}, "status")):
        shown = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
        raise PermanentError(
            "OldCRDs",
            f"{kinds.CHANGES.label} would not keep {shown}: kubectl apply --server-side -k manifests/, or go back to"
            " the version of Serin that it is of",
        )


def give_back_memory() -> None:
    """To the system: by itself glibc gives back only what is free at the end of its memory."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class _Process:
    """What one process keeps."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self.settings, self._client = settings, client
        self.clock, now = client.clock, client.clock.now
        self.telemetry = Telemetry(now)
        self.queue: WorkQueue[Key] = WorkQueue()
        self.cluster = Cluster(client, frozenset(PRESETS), self._look_at)
        self.looked = False
        """Whether the first lists are in: before that nothing can be said of the cluster."""
        identity = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        self.lease = Lease(
            client,
            identity,
            namespace=settings.namespace,
            duration=settings.lease_duration,
            renew_deadline=settings.lease_renew_deadline,
            retry=settings.lease_retry,
        )
        self.prometheus = Prometheus(settings.prometheus_url, timeout=settings.prometheus_timeout)
        self.measuring = Measuring(self.prometheus, self._running, self._wake, self.telemetry.prometheus_answers, now)
        self.told = ToldAlerts(settings.alert_expiry)
        self.alerts = AlertEndpoint(
            settings.alert_token_file,
            self.told,
            leads=self.lease.held,
            taken=self._wake_concerned,
            counted=self.telemetry.alerts_posted,
            now=now,
        )
        self.notifier = Notifier(
            settings.sinks,
            cluster=settings.cluster or "",
            owed=lambda sink: self.cluster.changes.by("owed", sink),
            known=self.cluster.known,
            leads=self.lease.held,
            wake=self._wake,
            reports=self.telemetry,
            now=now,
        )
        for sink in settings.sinks:
            self.telemetry.sink(sink.name, partial(self.notifier.oldest, sink.name))
        self.trail = Trail(settings.audit_file, sys.stdout.buffer)
        self.reconciler = Reconciler(
            self.cluster,
            Writer(client),
            self.telemetry,
            self.trail,
            leads=self.lease.held,
            measured=self._measured,
            now=now,
            outbox=self.notifier,
        )

    def _running(self) -> Iterable[tuple[Change, State]]:
        return [
            (k.change, self._with_policy(k))
            for k in self.cluster.changes.list()
            if not k.state.phase.terminal and not k.unreadable
        ]

    def _with_policy(self, known: Known) -> State:
        return replace(known.state, policy=known.state.policy or self.cluster.policy(known.change))

    def _measured(self, namespace: str, change: str) -> Measurements | None:
        """What Prometheus said, and the incidents that an Alertmanager told of since."""
        newest, known = self.measuring.newest(namespace, change), self.cluster.known(namespace, change)
        if newest is None or known is None:
            return newest
        now = self.clock.now()
        told = self.told.incidents(subjects_of(known.change, self._with_policy(known), now), now)
        return replace(newest, incidents=merged((*newest.incidents, *told))) if told else newest

    def _wake_concerned(self) -> None:
        """Those of which an incident is told are looked at, at once: not when they are measured next."""
        now = self.clock.now()
        for change, state in self._running():
            if self.told.incidents(subjects_of(change, state, now), now):
                self._wake(change.namespace, change.name)

    def _wake(self, namespace: str, change: str) -> None:
        self._look_at(Key("ChangeRequest", namespace, change))

    def _look_at(self, key: Key) -> None:
        self.queue.add(key, urgent=self._urgent(key))
        if key.kind == "ChangeRequest":
            self.notifier.look()

    async def work(self, key: Key) -> None:
        """One look at one key, and when to look again."""
        if not self.lease.held():
            return
        began = asyncio.get_running_loop().time()
        try:
            after = await self.reconciler.reconcile(key)
        except LeaseLostError:
            return
        except ConflictError as error:
            log.debug("conflict", key=str(key), message=error.message)
            self.queue.add_after(key, LOOK_AGAIN, urgent=self._urgent(key))
            return
        except SerinError as error:
            asked = error.retry_after if isinstance(error, TransientError) else None
            wait = self.queue.retry(key, urgent=self._urgent(key), at_least=asked or timedelta())
            log.warning(
                "look_failed",
                key=str(key),
                reason=error.reason,
                message=error.message,
                retry_in=wait.total_seconds(),
            )
            return
        finally:
            self.telemetry.reconciled(timedelta(seconds=asyncio.get_running_loop().time() - began))
        self.queue.forget(key)
        if after is not None:
            self.queue.add_after(key, after, urgent=self._urgent(key))

    def _urgent(self, key: Key) -> bool:
        """What users meet goes before what waits: a thousand held Deployments delay no verdict."""
        known = self.cluster.known(key.namespace, key.name) if key.kind == "ChangeRequest" else None
        return known is not None and known.other.active

    async def watch_surroundings(self) -> None:
        """Leading or not: a replica that stands by is ready as soon as it could lead.

        Raises:
            PermanentError: the CRD was replaced by an older one. Nothing more may be written.
        """
        while True:
            await asyncio.sleep(self.settings.resync.total_seconds())
            try:
                await self.look_at_admission()
            except SerinError as error:
                log.warning("admission_unknown", reason=error.reason, message=error.message)
            try:
                await check_schema(self._client)
            except TransientError as error:
                log.warning("schema_unknown", reason=error.reason, message=error.message)
            give_back_memory()

    async def look_at_admission(self) -> None:
        """Whether the admission policies are there; said aloud, and everything looked at, when that has changed."""
        before = self.cluster.lacking
        await self.cluster.check_admission()
        lacking = self.cluster.lacking
        self.telemetry.admission_found(not lacking)
        if lacking != before:
            for text in lacking or ("AdmissionFound: the admission policies are installed",):
                reason, _, message = text.partition(": ")
                log.warning("admission", reason=reason, message=message)
            self._add_all()

    async def watch_audit(self) -> None:
        """Whether the audit trail is written; said aloud, and everything looked at, when that has changed."""
        before = ""
        while True:
            problem = self.trail.problem
            self.telemetry.audit_written(not problem)
            if bool(problem) != bool(before):
                log.warning("audit", reason="AuditUnavailable" if problem else "AuditWritten", message=problem)
                self._add_all()
            before = problem
            await asyncio.sleep(AUDIT_LOOK.total_seconds())

    async def look_at_all(self) -> None:
        """Every so often everything is looked at, event or not."""
        self._add_all(ended=True)  # their reviews, and what people are still owed, are this process's now
        while True:
            self._look_at_clock()
            await asyncio.sleep(self.settings.resync.total_seconds())
            self._add_all()

    def _look_at_clock(self) -> None:
        """Whether this machine's clock is one to go by; what is done goes by the API server's."""
        behind = self.clock.behind
        self.telemetry.clock_behind(behind)
        if abs(behind) > SKEW_SAID:
            log.warning(
                "clock",
                reason="ClockSkew",
                message=f"this machine's clock is {-behind.total_seconds():+.0f} s off the API server's, which counts",
            )

    def _add_all(self, *, ended: bool = False) -> None:
        for known in self.cluster.changes.list():
            if ended or not known.state.phase.terminal or known.change.finalizer:
                self._look_at(Key("ChangeRequest", known.change.namespace, known.change.name))
        for d in self.cluster.deployments.list():
            if d.held:
                self._look_at(Key("Deployment", d.namespace, d.name))

    async def first_look(self) -> None:
        await self.synced()
        await _patiently()(self.look_at_admission)
        self.looked = True

    async def synced(self) -> None:
        try:
            async with asyncio.timeout(SYNC_MAX.total_seconds()):
                for cache in self.cluster.caches:
                    await cache.synced()
        except TimeoutError:
            silent = [f"{c.resource.label} ({c.trouble})" for c in self.cluster.caches if c.trouble]
            raise PermanentError(
                "CannotRead", f"no first list after a minute: {', '.join(silent) or 'the API server is slow'}"
            ) from None

    async def lead(self) -> None:
        await self.lease.acquire()
        self.telemetry.leading(True)
        for known in self.cluster.changes.list():
            self.trail.append(known.state.audit.last)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.lease.keep())
            group.create_task(self.measuring.run(self.settings.measure_interval))
            group.create_task(self.look_at_all())
            group.create_task(self.notifier.run())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.measuring.begun.wait(), FIRST_LOOK.total_seconds())
            group.create_task(self.queue.run(self.work, workers=self.settings.workers))

    # --- What it serves ---

    async def serve(self) -> web.AppRunner:
        app = web.Application(client_max_size=BODY_MAX)
        app.add_routes(
            [web.get("/metrics", self._metrics), web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        )
        app.router.add_post(PATH, self.alerts.answer)
        # What a refused sender still sends is thrown away for no longer than a second.
        runner = web.AppRunner(app, access_log=None, lingering_time=1.0)
        await runner.setup()
        host, port = self.settings.listen
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise PermanentError("CannotListen", f"SERIN_LISTEN is {self.settings.listen}: {error.strerror}") from error
        return runner

    async def _metrics(self, request: web.Request) -> web.Response:
        self.telemetry.tasks(len(asyncio.all_tasks()))
        body, content_type = self.telemetry.exposition()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        silent = self.cluster.oldest_contact
        if silent > CONTACT_MAX:
            return web.Response(
                status=503, text=f"the API server has not been heard for {silent.total_seconds():.0f} s\n"
            )
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if not self.looked:
            return web.Response(status=503, text="the first lists are not in yet\n")
        troubles = [f"{c.resource.label}: {c.trouble}" for c in self.cluster.caches if c.trouble and c.available]
        troubles += list(self.cluster.lacking)
        if troubles:
            return web.Response(status=503, text="\n".join(troubles) + "\n")
        return web.Response(text=f"ok, {'leading' if self.lease.held() else 'standing by'}\n")


async def _run(settings: Settings, client: Client) -> None:
    process = _Process(settings, client)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await process.serve()
    log.info(
        "started",
        identity=process.lease.identity,
        listen=str(settings.listen),
        prometheus=urlsplit(settings.prometheus_url).hostname,
        sinks=[sink.name for sink in settings.sinks],
    )
    background: list[asyncio.Task[None]] = [asyncio.create_task(cache.run()) for cache in process.cluster.caches]
    background.append(asyncio.create_task(process.watch_audit()))
    process.trail.start()
    try:
        await process.first_look()
        background.append(asyncio.create_task(process.watch_surroundings()))
        leading = asyncio.create_task(process.lead())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([leading, stopping, *background], return_when=asyncio.FIRST_COMPLETED)
        if not leading.done():
            leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        await process.lease.release()
        process.telemetry.leading(False)
        if not stop.is_set():
            _raise_first(leading, *background)
        log.info("stopped", reason="Signal")
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await asyncio.to_thread(process.trail.close)
        await server.cleanup()
        await process.prometheus.close()


def _raise_first(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        error = task.exception() if task.done() and not task.cancelled() else None
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            raise error
