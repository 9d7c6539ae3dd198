"""What a node reports of a pod: pure, from the states of its containers. The rules are the kubelet's."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from testbed.node.api import Json


@dataclass(frozen=True)
class Reported:
    """The containers of a pod, each as in `containerStatuses`."""

    init: list[Json]
    main: list[Json]


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def phase(pod: Json, reported: Reported, ended: bool) -> str:
    """`ended`: the pod was deleted and nothing of it runs any more: its phase is final whatever its restart policy."""
    policy = pod["spec"]["restartPolicy"]
    initialized = _initialized(reported)
    states = [_effective_state(status) for status in reported.main]
    exit_codes = [state["terminated"]["exitCode"] for state in states if "terminated" in state]
    failed_to_start = policy == "Never" and any(_failed(status) for status in reported.init)
    if ended:
        return "Succeeded" if initialized and len(exit_codes) == len(states) and not any(exit_codes) else "Failed"
    if failed_to_start:
        return "Failed"
    if not initialized or any("waiting" in state for state in states):
        return "Pending"
    if len(exit_codes) < len(states) or policy == "Always":
        return "Running"
    if not any(exit_codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def pod_status(
    pod: Json, reported: Reported, ip: str, host_ip: str, before: Json, now: datetime, *, ended: bool = False
) -> Json:
    """The `.status` to patch. `before` is the one that was reported last, `{}` at first: a condition keeps its
    lastTransitionTime until it changes."""
    pod_phase = phase(pod, reported, ended)
    finished = pod_phase in ("Succeeded", "Failed")
    leaving = "deletionTimestamp" in pod["metadata"]
    unready = [status["name"] for status in reported.main if not status["ready"] or leaving]
    why_unready: Json = {}
    if finished:
        why_unready = {"reason": "PodCompleted" if pod_phase == "Succeeded" else "PodFailed"}
    elif unready:
        why_unready = {
            "reason": "ContainersNotReady",
            "message": f"containers with unready status: [{' '.join(unready)}]",
        }
    ready = not unready and not finished
    initialized = _initialized(reported)
    why_uninitialized = {} if initialized else {"reason": "ContainersNotInitialized"}
    conditions = [
        _condition("PodScheduled", True, {}),
        _condition("Initialized", initialized, why_uninitialized),
        _condition("ContainersReady", ready, why_unready),
        _condition("Ready", ready, why_unready),
    ]
    return {
        "phase": pod_phase,
        "conditions": _dated(conditions, before.get("conditions", []), timestamp(now)),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": before.get("startTime", timestamp(now)),
        "initContainerStatuses": reported.init,
        "containerStatuses": reported.main,
    }


def _initialized(reported: Reported) -> bool:
    return all(
        "terminated" in status["state"] and status["state"]["terminated"]["exitCode"] == 0 for status in reported.init
    )


def _failed(status: Json) -> bool:
    return "terminated" in status["state"] and status["state"]["terminated"]["exitCode"] != 0


def _effective_state(status: Json) -> Json:
    """A container that waits to be restarted counts as what it was when it ended."""
    state: Json = status["state"]
    return status["lastState"] if "waiting" in state and status["lastState"] else state


def _condition(kind: str, true: bool, why: Json) -> Json:
    # A strategic merge keeps what a patch does not name: null takes away the reason of before.
    return {"type": kind, "status": str(true), "reason": None, "message": None, **why}


def _dated(conditions: Iterable[Json], before: Iterable[Json], now: str) -> list[Json]:
    previous = {condition["type"]: condition for condition in before}
    return [
        {
            **condition,
            "lastTransitionTime": previous[condition["type"]]["lastTransitionTime"]
            if previous.get(condition["type"], {}).get("status") == condition["status"]
            else now,
        }
        for condition in conditions
    ]
