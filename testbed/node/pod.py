"""One pod's life: its containers run until they rest or the pod is deleted; every change is reported."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from testbed.node.api import STRATEGIC, Api, Json
from testbed.node.container import Container, Setting
from testbed.node.status import Reported, pod_status


class Pod:
    """`update` and `gone` tell it what the API server says; `run` does the rest."""

    def __init__(self, api: Api, manifest: Json, setting: Setting) -> None:
        self._api = api
        self.manifest = manifest
        self.ip = setting.ip
        self._host_ip = setting.host_ip
        metadata, spec = manifest["metadata"], manifest["spec"]
        self.status: Json = {}  # as it was reported last
        self._changed = asyncio.Event()
        self._deleted = asyncio.Event()
        self._grace_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._grace_timer: asyncio.TimerHandle | None = None
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        policy = spec["restartPolicy"]

        def container(entry: Json, entry_policy: str) -> Container:
            log_name = f"{metadata['namespace']}_{metadata['name']}_{entry['name']}.log"
            entry_setting = replace(setting, log=setting.log / log_name)
            return Container(manifest, entry, entry_setting, entry_policy, self._changed.set)

        init_policy = "Never" if policy == "Never" else "OnFailure"
        self._init = [container(entry, init_policy) for entry in spec.get("initContainers", [])]
        self._main = [container(entry, policy) for entry in spec["containers"]]
        self.update(manifest)

    def update(self, manifest: Json) -> None:
        """The object as it is now. A deletion starts the grace period; a second one may shorten it."""
        self.manifest = manifest
        if "deletionTimestamp" not in manifest["metadata"]:
            return
        loop = asyncio.get_running_loop()
        over_at = loop.time() + manifest["metadata"]["deletionGracePeriodSeconds"]
        if self._grace_timer is None or over_at < self._grace_timer.when():
            if self._grace_timer is not None:
                self._grace_timer.cancel()
            self._grace_timer = loop.call_at(over_at, self._end_grace)
        self._deleted.set()
        self._changed.set()

    def gone(self) -> None:
        """The object is no more: nothing of it may run."""
        self._end_grace()
        self._deleted.set()

    def _end_grace(self) -> None:
        if not self._grace_over.done():
            self._grace_over.set_result(None)

    async def run(self) -> None:
        """Run the containers, report, and when the pod is deleted end them and remove the object."""
        containers = self._init + self._main
        try:
            async with asyncio.TaskGroup() as group:
                reporting = group.create_task(self._report())
                working = group.create_task(self._work())
                await self._deleted.wait()
                working.cancel()
                await asyncio.wait([working])
                await asyncio.gather(*(container.stop(self._grace_over) for container in containers))
                reporting.cancel()
        finally:
            for container in containers:
                container.kill()
        await self._patch_status(ended=True)
        uid = self.manifest["metadata"]["uid"]
        await self._api.insist("DELETE", self._path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    async def _work(self) -> None:
        for container in self._init:
            if await container.run() != 0:
                return
        async with asyncio.TaskGroup() as group:
            for container in self._main:
                group.create_task(container.run())

    async def _report(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._patch_status(ended=False)

    async def _patch_status(self, *, ended: bool) -> None:
        """Report when something has changed; what cannot be reported now is tried again until the pod is gone."""
        reported = Reported([c.status() for c in self._init], [c.status() for c in self._main])
        now = datetime.now(UTC)
        status = pod_status(self.manifest, reported, self.ip, self._host_ip, self.status, now, ended=ended)
        if status == self.status:
            return
        # The uid makes sure that a pod of the same name that came after this one is left alone.
        body = {"metadata": {"uid": self.manifest["metadata"]["uid"]}, "status": status}
        if await self._api.insist("PATCH", f"{self._path}/status", body, content_type=STRATEGIC):
            self.status = status
