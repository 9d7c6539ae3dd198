"""The node: takes pods, runs them, and tells Prometheus where they are."""

import asyncio
import ipaddress
import logging
import os
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from testbed.node import spec
from testbed.node.api import STRATEGIC, Api, ApiError, Json
from testbed.node.container import Setting
from testbed.node.pod import Pod
from testbed.node.process import bound_log
from testbed.node.status import timestamp
from testbed.node.targets import targets, write

log = logging.getLogger(__name__)

PUBLISH_EVERY = timedelta(milliseconds=200)
BOUND_LOGS_EVERY = timedelta(seconds=5)


@dataclass(frozen=True)
class Settings:
    node_name: str
    pod_cidr: ipaddress.IPv4Network
    targets_dir: Path
    work_dir: Path
    path: str
    crash_backoff: timedelta


class Addresses:
    """Pod IPs. The one given back last is used again last, so that nobody who still holds it meets another pod soon."""

    def __init__(self, network: ipaddress.IPv4Network) -> None:
        self._unused = map(str, network.hosts())
        self._returned: deque[str] = deque()
        self.host = next(self._unused)

    def take(self) -> str:
        """Raises IndexError when all are taken."""
        return next(self._unused, None) or self._returned.popleft()

    def give_back(self, address: str) -> None:
        self._returned.append(address)


class Agent:
    def __init__(self, api: Api, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._addresses = Addresses(settings.pod_cidr)
        self._labels = {"kubernetes.io/hostname": settings.node_name, "kubernetes.io/os": "linux"}
        self._pods: dict[str, Pod] = {}  # by uid, for as long as the API server has the object

    async def run(self) -> None:
        """Be a node until cancelled. Raises ApiError when the node cannot be registered."""
        await self._register()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._schedule(group))
            group.create_task(self._follow_pods(group))
            group.create_task(self._publish_targets())
            group.create_task(self._bound_logs())

    async def _register(self) -> None:
        name, now = self._settings.node_name, timestamp(datetime.now(UTC))
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": self._labels},
            "spec": {"podCIDR": str(self._settings.pod_cidr)},
        }
        await self._api.insist("POST", "/api/v1/nodes", node)
        capacity = {"cpu": "1000", "memory": "4Ti", "pods": str(self._settings.pod_cidr.num_addresses)}
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                {"type": "InternalIP", "address": self._addresses.host},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "NodeReady",
                    "message": "pods run as processes",
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": now,
                }
            ],
            "nodeInfo": {
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
                "kernelVersion": os.uname().release,
                "osImage": "testbed",
                "containerRuntimeVersion": "process://1",
                "kubeletVersion": "v0.0.0-testbed",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": os.uname().machine,
            },
        }
        await self._api.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content_type=STRATEGIC)

    async def _schedule(self, group: asyncio.TaskGroup) -> None:
        """Take every pod that no node has, unless another scheduler or another node is asked for."""
        async for kind, pods in self._api.follow("/api/v1/pods", "spec.nodeName="):
            if kind != "DELETED":
                for pod in pods:
                    if spec.schedulable(pod, self._labels):
                        group.create_task(self._bind(pod["metadata"]))

    async def _bind(self, metadata: Json) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": self._settings.node_name}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
            "target": target,
        }
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
        try:
            await self._api.insist("POST", path, binding)
        except ApiError:
            log.exception("%s not bound", path)

    async def _follow_pods(self, group: asyncio.TaskGroup) -> None:
        async for kind, pods in self._api.follow("/api/v1/pods", f"spec.nodeName={self._settings.node_name}"):
            if kind == "SYNC":
                present = {pod["metadata"]["uid"] for pod in pods}
                for uid in self._pods.keys() - present:
                    self._pods.pop(uid).gone()
            for manifest in pods:
                uid = manifest["metadata"]["uid"]
                if kind == "DELETED":
                    if pod := self._pods.pop(uid, None):
                        pod.gone()
                elif uid in self._pods:
                    self._pods[uid].update(manifest)
                elif manifest["status"].get("phase") not in ("Succeeded", "Failed"):
                    self._pods[uid] = pod = Pod(self._api, manifest, self._setting())
                    group.create_task(self._run(pod))

    def _setting(self) -> Setting:
        settings = self._settings
        return Setting(
            ip=self._addresses.take(),
            host_ip=self._addresses.host,
            path=settings.path,
            log=settings.work_dir,
            crash_backoff=settings.crash_backoff,
        )

    async def _run(self, pod: Pod) -> None:
        try:
            await pod.run()
        except Exception:  # one pod that this node cannot cope with must not end the others
            log.exception("pod %s", pod.manifest["metadata"]["name"])
        finally:
            self._addresses.give_back(pod.ip)

    async def _publish_targets(self) -> None:
        published: list[Json] | None = None
        while True:
            pods = ((pod.manifest, pod.status) for pod in self._pods.values())
            entries = targets(pods, self._settings.node_name)
            if entries != published:
                write(entries, self._settings.targets_dir / "pods.json")
                published = entries
            await asyncio.sleep(PUBLISH_EVERY.total_seconds())

    async def _bound_logs(self) -> None:
        while True:
            for file in self._settings.work_dir.glob("*.log"):
                bound_log(file)
            await asyncio.sleep(BOUND_LOGS_EVERY.total_seconds())
