"""What Prometheus has kept of a Deployment."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from controller.core.model import Measurements, ServicePair
from controller.core.policy import Policy
from controller.core.template import canary_name
from controller.lab import LabError
from controller.metrics.arms import Subject
from controller.metrics.past import Past
from controller.metrics.presets import preset_of

TIMEOUT = timedelta(seconds=30)


@dataclass(frozen=True)
class Workload:
    """A Deployment, and the Service and port by which its route names it."""

    namespace: str
    name: str
    service: ServicePair

    @classmethod
    def of(cls, deployment: str, service: str) -> Self:
        """`deployment` is NAMESPACE/NAME, `service` NAME:PORT; empty: as the Deployment, port 80. Raises LabError."""
        namespace, _, name = deployment.partition("/")
        if not (namespace and name) or "/" in name:
            raise LabError(f"--deployment is {deployment!r}: write NAMESPACE/NAME")
        named, _, port = (service or f"{name}:80").partition(":")
        if not named or not port.isdecimal():
            raise LabError(f"--service is {service!r}: write NAME:PORT, as the route names it")
        return cls(namespace, name, ServicePair(named, canary_name(named), (int(port),)))

    def whole(self, policy: Policy, since: datetime) -> Subject:
        """All its pods, whatever their revision, or its Service; and those of a canary that Serin made."""
        return Subject(
            namespace=self.namespace,
            change="",
            target=self.name,
            rules=policy.request_rules,
            incidents=policy.incidents,
            source=preset_of(policy.metrics),
            services=(self.service,),
            canary_pods=f"{canary_name(self.name)}-",
            stable_pods=f"{self.name}-",
            since=since,
        )


class Recorder:
    """Prometheus at a URL, asked about the past, one question after another."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._past = Past(url, timeout=TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.run(self._past.close())
        self._runner.close()

    def measure(self, subjects: Sequence[Subject], at: datetime) -> Measurements:
        """What was known at that moment of the one change that the subjects are of."""
        found = next(iter(self._runner.run(self._past.measure(subjects, at)).values()), Measurements(at))
        # The words are those of the controller, whose setting it is.
        return replace(found, problem=found.problem.replace("SERIN_PROMETHEUS_URL", "--prometheus"))
