"""A process that contends for a Lease: `python -m tests.cluster.contender KUBECONFIG NAMESPACE IDENTITY`.

Every 10 ms in which it holds the Lease it prints `held` and the moment (CLOCK_MONOTONIC, one for all processes).
SIGTERM makes it release the Lease; losing it ends it with code 3.
"""

import asyncio
import signal
import sys
import time
from datetime import timedelta

from controller.cluster.client import Client
from controller.cluster.lease import Lease
from controller.errors import LeaseLostError

DURATION, RENEW_DEADLINE, RETRY = timedelta(seconds=2), timedelta(seconds=1.2), timedelta(seconds=0.2)


async def witness(lease: Lease) -> None:
    while True:
        now = time.monotonic()
        if lease.held():
            print("held", now, flush=True)
        await asyncio.sleep(0.01)


async def contend(kubeconfig: str, namespace: str, identity: str) -> int:
    client = await Client.connect(kubeconfig=kubeconfig, impersonate=None, timeout=timedelta(seconds=1))
    lease = Lease(client, identity, namespace=namespace, duration=DURATION, renew_deadline=RENEW_DEADLINE, retry=RETRY)
    witnessing = asyncio.create_task(witness(lease))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await lease.acquire()
    keeping, stopping = asyncio.create_task(lease.keep()), asyncio.create_task(stop.wait())
    await asyncio.wait({keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
    lost = keeping.done() and isinstance(keeping.exception(), LeaseLostError)
    for task in (keeping, stopping):
        task.cancel()
    await asyncio.gather(keeping, stopping, return_exceptions=True)
    await lease.release()
    await asyncio.sleep(0.1)
    witnessing.cancel()
    await client.close()
    return 3 if lost else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(contend(*sys.argv[1:])))
