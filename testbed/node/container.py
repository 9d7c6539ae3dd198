"""One container's life: pull, run, probe, crash, wait, run again."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from testbed.node import spec
from testbed.node.api import Json
from testbed.node.probe import Probe, Streak, first_looks
from testbed.node.process import Process
from testbed.node.status import timestamp

OOM_AFTER = "testbed.serin.dev/oom-after"
START_ERROR = 128  # what a kubelet reports when the command cannot be run


@dataclass(frozen=True)
class BackOff:
    """How long a failing container waits: not at all at first, then `initial`, doubled each time up to 30 times it.
    As a kubelet, whose `initial` is 10 s, and which forgives a container that ran for twice the longest wait."""

    initial: timedelta
    failures: int = 0

    @property
    def longest(self) -> timedelta:
        return self.initial * 30

    def after(self, ran: timedelta) -> "BackOff":
        """The back-off after a run of this length ended."""
        return BackOff(self.initial, 1 if ran >= self.longest * 2 else self.failures + 1)

    @property
    def wait(self) -> timedelta:
        if self.failures < 2:
            return timedelta()
        return min(self.initial * (1 << min(self.failures - 2, 10)), self.longest)


@dataclass(frozen=True)
class Setting:
    """What a container needs to know of the node and pod that it runs on."""

    ip: str
    host_ip: str
    path: str
    log: Path
    crash_backoff: timedelta


class Container:
    """Runs one entry of `containers` or `initContainers`; `status()` is its entry of the pod's status."""

    def __init__(self, pod: Json, manifest: Json, setting: Setting, policy: str, changed: Callable[[], None]) -> None:
        self._pod = pod
        self._manifest = manifest
        self._setting = setting
        self._policy = policy
        self._changed = changed
        self._process: Process | None = None
        self._state: Json = {
            "waiting": {"reason": "PodInitializing" if pod["spec"].get("initContainers") else "ContainerCreating"}
        }
        self._last_state: Json = {}
        self._restarts = 0
        self._started = False
        self._ready = False
        self._out_of_memory = False

    def status(self) -> Json:
        return {
            "name": self._manifest["name"],
            "image": self._manifest["image"],
            "imageID": "",
            "ready": self._ready,
            "started": self._started,
            "restartCount": self._restarts,
            "state": self._state,
            "lastState": self._last_state,
        }

    async def run(self) -> int:
        """Run until the restart policy lets it rest; gives the last exit code."""
        await self._pull()
        back_off = BackOff(self._setting.crash_backoff)
        while True:
            began = asyncio.get_running_loop().time()
            exit_code = await self._run_once()
            if self._policy == "Never" or (self._policy == "OnFailure" and exit_code == 0):
                return exit_code
            back_off = back_off.after(timedelta(seconds=asyncio.get_running_loop().time() - began))
            self._last_state = self._state
            if back_off.wait:
                self._wait(
                    "CrashLoopBackOff",
                    f"back-off {back_off.wait.total_seconds():g}s restarting failed container {self._manifest['name']}",
                )
                await asyncio.sleep(back_off.wait.total_seconds())
            self._restarts += 1

    async def stop(self, grace: asyncio.Future[None]) -> None:
        """End what runs: asked at first, killed when `grace` is over. To be called when `run` has been cancelled."""
        process = self._process
        if process is None:
            return
        ended = asyncio.create_task(process.wait())
        either: set[asyncio.Future[Any]] = {ended, grace}
        sleep = self._manifest.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        await asyncio.wait(either, timeout=sleep, return_when=asyncio.FIRST_COMPLETED)
        process.terminate()
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        process.kill()
        self._terminated(await ended)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def _pull(self) -> None:
        """There are no images; one whose name says `missing` is tried again for ever."""
        image = self._manifest["image"]
        back_off = BackOff(self._setting.crash_backoff, failures=1)
        while spec.image_missing(image):
            self._wait("ErrImagePull", f'failed to pull image "{image}": not found')
            await asyncio.sleep(min(1, back_off.initial.total_seconds()))
            back_off = back_off.after(timedelta())
            self._wait("ImagePullBackOff", f'Back-off pulling image "{image}"')
            await asyncio.sleep(back_off.wait.total_seconds())

    async def _run_once(self) -> int:
        """Start the command, probe it while it runs, and give its exit code."""
        self._state = {"running": {"startedAt": timestamp(datetime.now(UTC))}}
        try:
            env = spec.environment(self._pod, self._manifest, self._setting.ip, self._setting.host_ip)
            argv = spec.command(self._manifest, env)
            env = {**self._built_in_environment(), **env}
            probes: dict[str, Probe] = {
                kind: Probe.read(self._manifest[kind], self._manifest, self._setting.ip, env)
                for kind in ("startupProbe", "livenessProbe", "readinessProbe")
                if kind in self._manifest
            }
            oom_after = self._pod["metadata"].get("annotations", {}).get(OOM_AFTER)
            oom_in = spec.duration(oom_after) if oom_after else None
        except (spec.ConfigError, ValueError) as error:
            self._wait("CreateContainerConfigError", str(error))
            await asyncio.Event().wait()  # the spec of a pod does not change: only its deletion ends this
        try:
            self._process = Process(argv, env, self._setting.log)
        except OSError as error:
            self._terminated(START_ERROR, reason="StartError", message=f"{argv[0]}: {error.strerror}")
            return START_ERROR
        self._out_of_memory = False
        watchers = [asyncio.create_task(self._probe(probes))]
        if oom_in is not None:
            watchers.append(asyncio.create_task(self._run_out_of_memory(oom_in)))
        try:
            exit_code = await self._process.wait()
        finally:
            for watcher in watchers:
                watcher.cancel()
            self._ready = False
        self._terminated(exit_code)
        return exit_code

    def _built_in_environment(self) -> dict[str, str]:
        """What a runtime and an image would set."""
        return {
            "PATH": self._setting.path,
            "HOME": "/",
            "HOSTNAME": self._pod["metadata"]["name"],
            "POD_IP": self._setting.ip,
            "IMAGE_TAG": spec.image_tag(self._manifest["image"]),
        }

    async def _probe(self, probes: dict[str, Probe]) -> None:
        """Started, alive, ready: in this order, for as long as the process runs."""
        if startup := probes.get("startupProbe"):
            self._changed()
            if not await self._start_up(startup):
                await self._restart()
                return
        self._started = True
        async with asyncio.TaskGroup() as group:
            if liveness := probes.get("livenessProbe"):
                group.create_task(self._watch_liveness(liveness))
            if readiness := probes.get("readinessProbe"):
                self._changed()
                group.create_task(self._watch_readiness(readiness))
            else:
                self._set_ready(True)

    async def _start_up(self, probe: Probe) -> bool:
        """Wait until it has started; False when it did not within period × failureThreshold."""
        await asyncio.sleep(probe.initial_delay.total_seconds())
        give_up_at = asyncio.get_running_loop().time() + (probe.period * probe.failure_threshold).total_seconds()
        for pause in first_looks(probe.period):
            if await probe.ask():
                return True
            if asyncio.get_running_loop().time() > give_up_at:
                break
            await asyncio.sleep(pause.total_seconds())
        return False

    async def _watch_liveness(self, probe: Probe) -> None:
        streak = Streak(True, probe.success_threshold, probe.failure_threshold)
        await asyncio.sleep(max(probe.initial_delay, probe.period).total_seconds())
        while True:
            if not streak.see(await probe.ask()):
                await self._restart()
                return
            await asyncio.sleep(probe.period.total_seconds())

    async def _watch_readiness(self, probe: Probe) -> None:
        streak = Streak(False, probe.success_threshold, probe.failure_threshold)
        await asyncio.sleep(probe.initial_delay.total_seconds())
        for pause in first_looks(probe.period):
            answer = await probe.ask()
            self._set_ready(streak.see(answer))
            if answer:
                break
            await asyncio.sleep(pause.total_seconds())
        while True:
            await asyncio.sleep(probe.period.total_seconds())
            self._set_ready(streak.see(await probe.ask()))

    async def _restart(self) -> None:
        """End the process for failing a probe; `run` starts it again by the restart policy."""
        assert self._process is not None
        self._process.terminate()
        await asyncio.sleep(self._pod["spec"].get("terminationGracePeriodSeconds", 30))
        self._process.kill()

    async def _run_out_of_memory(self, after: timedelta) -> None:
        await asyncio.sleep(after.total_seconds())
        assert self._process is not None
        self._out_of_memory = True
        self._process.kill()

    def _set_ready(self, ready: bool) -> None:
        if ready != self._ready:
            self._ready = ready
            self._changed()

    def _wait(self, reason: str, message: str) -> None:
        self._state = {"waiting": {"reason": reason, "message": message}}
        self._changed()

    def _terminated(self, exit_code: int, reason: str | None = None, message: str = "") -> None:
        self._process = None
        self._ready = self._started = False
        if reason is None:
            reason = "OOMKilled" if self._out_of_memory else "Error" if exit_code else "Completed"
        self._state = {
            "terminated": {
                "exitCode": exit_code,
                "reason": reason,
                "startedAt": self._state["running"]["startedAt"],
                "finishedAt": timestamp(datetime.now(UTC)),
                **({"message": message} if message else {}),
            }
        }
        self._changed()
