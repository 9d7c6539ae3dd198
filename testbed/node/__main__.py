"""`python -m testbed.node`: be one node of a cluster until SIGTERM; all pods end with it."""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
from pathlib import Path

from testbed.node.agent import Agent, Settings
from testbed.node.api import Api
from testbed.node.spec import duration


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testbed.node", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node-name", default="node-1")
    parser.add_argument("--pod-cidr", type=ipaddress.IPv4Network, default="10.244.0.0/16", help="pods' own IPs")
    parser.add_argument("--targets-dir", type=Path, required=True, help="pods.json for Prometheus is written here")
    parser.add_argument("--work-dir", type=Path, required=True, help="logs: NAMESPACE_POD_CONTAINER.log")
    parser.add_argument("--path", default=os.environ.get("PATH", os.defpath), help="where pods find their commands")
    parser.add_argument(
        "--crash-backoff", type=duration, default="10s", help="first back-off; the longest is 30 times it"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for directory in (arguments.targets_dir, arguments.work_dir):
        directory.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        node_name=arguments.node_name,
        pod_cidr=arguments.pod_cidr,
        targets_dir=arguments.targets_dir,
        work_dir=arguments.work_dir.resolve(),
        path=arguments.path,
        crash_backoff=arguments.crash_backoff,
    )
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(arguments.kubeconfig, settings))


async def _run(kubeconfig: Path, settings: Settings) -> None:
    task = asyncio.current_task()
    assert task is not None
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    async with Api.connect(kubeconfig) as api:
        await Agent(api, settings).run()


if __name__ == "__main__":
    main()
