"""A real Gateway API implementation: Contour, and Envoy as its data plane."""

import json
import subprocess
from pathlib import Path

from testbed import build
from testbed.control_plane import Manifest
from testbed.errors import BedError
from testbed.process import Process
from testbed.waiting import answers

NAMESPACE = "projectcontour"
NAME = "contour"
LISTENER_PORT = 80
TRAFFIC_PORT = LISTENER_PORT + 8000  # where Contour puts the listener in Envoy
STATS_PORT = 8002
_XDS_PORT = 8001
_HEALTH_PORT = 8004


def crds() -> list[Path]:
    """Manifests (files, directories) of the Gateway API and of Contour itself."""
    return [build.find("gateway-api-crds"), build.find("contour-crds.yaml")]


def manifests() -> list[Manifest]:
    """The Gateway `contour` in namespace `projectcontour`, open to routes of every namespace."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GatewayClass",
            "metadata": {"name": NAME},
            "spec": {"controllerName": "projectcontour.io/gateway-controller"},
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "gatewayClassName": NAME,
                "listeners": [
                    {
                        "name": "http",
                        "protocol": "HTTP",
                        "port": LISTENER_PORT,
                        "allowedRoutes": {"namespaces": {"from": "All"}},
                    }
                ],
            },
        },
    ]


def processes(directory: Path, host: str, kubeconfig: Path) -> tuple[Process, Process]:
    """Contour and Envoy, not started. The CRDs must be there before Contour starts."""
    contour = str(build.find("contour"))
    config = directory / "contour.json"
    config.write_text(json.dumps({"gateway": {"gatewayRef": {"namespace": NAMESPACE, "name": NAME}}}))
    bootstrap = directory / "envoy.json"
    admin = ("--admin-address", str(directory / "envoy-admin.sock"))
    command = [contour, "bootstrap", f"--xds-address={host}", f"--xds-port={_XDS_PORT}", *admin, str(bootstrap)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BedError(f"contour bootstrap: {done.stderr.strip()}")
    serve = Process(
        "contour",
        [
            contour,
            "serve",
            "--insecure",
            f"--kubeconfig={kubeconfig}",
            f"--config-path={config}",
            f"--xds-address={host}",
            f"--xds-port={_XDS_PORT}",
            f"--http-address={host}",
            "--http-port=8003",
            f"--health-address={host}",
            f"--health-port={_HEALTH_PORT}",
            f"--debug-http-address={host}",
            f"--stats-address={host}",
            f"--stats-port={STATS_PORT}",
            f"--envoy-service-http-address={host}",
            f"--envoy-service-https-address={host}",
            f"--ingress-status-address={host}",
            "--disable-feature=tlsroutes",
            "--disable-feature=tcproutes",
            "--disable-feature=backendtlspolicies",
            "--disable-leader-election",
        ],
        directory / "contour.log",
        ready=lambda: answers(f"http://{host}:{_HEALTH_PORT}/healthz"),
    )
    envoy = Process(
        "envoy",
        [
            str(build.find("envoy")),
            *("--config-path", str(bootstrap)),
            *("--service-cluster", NAMESPACE),
            *("--service-node", "envoy-0"),
            *("--concurrency", "2"),
            *("--log-level", "warning"),
            "--disable-hot-restart",
        ],
        directory / "envoy.log",
        ready=lambda: answers(f"http://{host}:{STATS_PORT}/ready"),  # it has its configuration from Contour
    )
    return serve, envoy
