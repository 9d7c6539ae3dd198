"""Applications that differ from the usual one in one thing, and ways to play several at the same time."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from testbed.control_plane import Manifest
from tests.e2e.conftest import Played, Serin


def seconds(*values: float) -> list[timedelta]:
    return [timedelta(seconds=value) for value in values]


class Scene(Played):
    """An application with `edit` done to its Deployment, and `around` beside its Service and route."""

    def __init__(
        self,
        serin: Serin,
        namespace: str,
        name: str = "shop",
        *,
        replicas: int = 2,
        routed: bool = True,
        edit: Callable[[Manifest], object] = lambda deployment: None,
        around: tuple[Manifest, ...] = (),
    ) -> None:
        super().__init__(serin, namespace, name, replicas=replicas, routed=routed)
        self.edit, self.around = edit, around

    def deployment(
        self,
        version: str,
        change: str = "",
        *,
        kind: str = "",
        annotations: Mapping[str, str] | None = None,
        **environment: str,
    ) -> Manifest:
        made = super().deployment(version, change, kind=kind, annotations=annotations, **environment)
        self.edit(made)
        return made

    def surroundings(self) -> list[Manifest]:
        return [*super().surroundings(), *self.around]


def begin(*apps: Played, version: str = "v1", **environment: Any) -> None:
    """`App.begin` of several at once."""
    bed = apps[0].bed
    names = sorted({app.namespace for app in apps})
    bed.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names))
    apps[0].apply(*(m for app in apps for m in (app.deployment(version, **environment), *app.surroundings())))
    for app in apps:
        bed.kubectl("rollout", "status", f"deployment/{app.name}", "-n", app.namespace, "--timeout=60s")
