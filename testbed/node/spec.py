"""What a pod's spec asks for: pure readings of the manifest."""

import re
from datetime import timedelta

from testbed.node.api import Json

SCHEDULER = "default-scheduler"
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
}
_REFERENCE = re.compile(r"\$\$|\$\(([^()$]+)\)")
_FIELD_ENTRY = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class ConfigError(Exception):
    """The spec asks for something that this node cannot give; the container waits with CreateContainerConfigError."""


def duration(text: str) -> timedelta:
    """A Go duration such as `5s`, `1m30s` or `500ms`. Raises ValueError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"not a duration: {text!r}")
    return sum((float(number) * _UNITS[unit] for number, unit in parts), timedelta())


def expand(text: str, variables: dict[str, str]) -> str:
    """Replace `$(NAME)` by its value, as Kubernetes does: unknown names stay as they are, `$$` is a dollar sign."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def environment(pod: Json, container: Json, ip: str, host_ip: str) -> dict[str, str]:
    """The container's `env`, in order, each value expanded with those before it. Raises ConfigError."""
    if container.get("envFrom"):
        raise ConfigError("envFrom is not supported by this node")
    values: dict[str, str] = {}
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            values[entry["name"]] = _value_from(pod, entry["valueFrom"], ip, host_ip)
        else:
            values[entry["name"]] = expand(entry.get("value", ""), values)
    return values


def _value_from(pod: Json, source: Json, ip: str, host_ip: str) -> str:
    if "fieldRef" not in source:
        raise ConfigError(f"env valueFrom {', '.join(source)} is not supported by this node")
    path: str = source["fieldRef"]["fieldPath"]
    if entry := _FIELD_ENTRY.fullmatch(path):
        return str(pod["metadata"].get(entry[1], {}).get(entry[2], ""))
    fields: dict[str, str] = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"]["nodeName"],
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.podIP": ip,
        "status.podIPs": ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path not in fields:
        raise ConfigError(f"fieldPath {path} is not supported by this node")
    return fields[path]


def command(container: Json, variables: dict[str, str]) -> list[str]:
    """The words to run. Without `command` the image's name is its entry point: `example.org/shop:v2` runs `shop`."""
    words = container.get("command") or [image_name(container["image"])]
    return [expand(word, variables) for word in [*words, *container.get("args", [])]]


def image_name(image: str) -> str:
    """`registry:5000/team/shop:v2@sha256:…` -> `shop`"""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def image_tag(image: str) -> str:
    """`registry:5000/team/shop:v2@sha256:…` -> `v2`; `latest` when there is none."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2] or "latest"


def image_missing(image: str) -> bool:
    """The naming rule of this node: an image whose name or tag contains `missing` cannot be pulled."""
    return "missing" in image


def schedulable(pod: Json, labels: dict[str, str]) -> bool:
    """May the node with these labels take a pod that no node has yet?"""
    spec = pod["spec"]
    return (
        "nodeName" not in spec
        and "deletionTimestamp" not in pod["metadata"]
        and spec.get("schedulerName", SCHEDULER) == SCHEDULER
        and not spec.get("schedulingGates")
        and spec.get("nodeSelector", {}).items() <= labels.items()
    )


def named_port(container: Json, port: int | str) -> int:
    """A probe's port, a number or the name of one of the container's ports. Raises ConfigError."""
    if isinstance(port, int):
        return port
    for entry in container.get("ports", []):
        if entry.get("name") == port:
            return int(entry["containerPort"])
    if port.isdigit():
        return int(port)
    raise ConfigError(f"no port is named {port!r}")
