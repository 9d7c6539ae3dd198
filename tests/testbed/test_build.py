"""The cache of built programs: what is installed is used, the rest is built once, and a failure says what to do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from testbed import build
from testbed.errors import BedError

HELLO = 'package main\n\nfunc main() { println("hello") }\n'
TOOL = build.Tool("hello", "hello", None, ".", data={"hello-notes.txt": ("hello.test", "notes.txt")})


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache, and a Go module to build, of this test alone."""
    go_cache = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("GOCACHE", go_cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = tmp_path / "go" / "hello"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module hello.test\n\ngo 1.24\n")
    (module / "main.go").write_text(HELLO)
    (module / "notes.txt").write_text("kept beside it")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "go")
    monkeypatch.setattr(build, "TOOLS", (TOOL,))
    forget()
    yield tmp_path / "cache" / "serin-testbed"
    forget()


def forget() -> None:
    build.find.cache_clear()
    build._installed.cache_clear()


def silent(what: str, elapsed: timedelta, done: bool) -> None:
    return None


def test_what_is_not_built_is_named_with_the_mend() -> None:
    with pytest.raises(BedError, match="hello is not built: run `serin-testbed build`"):
        build.find("hello")


def test_it_is_built_once_with_its_data_and_the_progress_is_told() -> None:
    told: list[tuple[str, bool]] = []
    build.build(lambda what, elapsed, done: told.append((what, done)))
    assert (told[0], told[-1]) == (("hello v0", False), ("hello v0", True))
    assert subprocess.run([build.find("hello")], capture_output=True, text=True, check=True).stderr == "hello\n"
    assert build.find("hello-notes.txt").read_text() == "kept beside it"
    told.clear()
    build.build(lambda what, elapsed, done: told.append((what, done)))
    assert told == []


def test_another_source_is_another_entry() -> None:
    build.build(silent)
    before = build.find("hello")
    (TOOL.sources / "main.go").write_text(HELLO.replace("hello", "good day"))
    build.build(silent)
    after = build.find("hello")
    assert after != before
    assert before.exists()
    assert subprocess.run([after], capture_output=True, text=True, check=True).stderr == "good day\n"


def test_a_failure_shows_the_compiler_s_words_and_leaves_nothing(fresh_cache: Path) -> None:
    (TOOL.sources / "main.go").write_text("package main\n\nfunc main() { nonsense() }\n")
    with pytest.raises(BedError, match="undefined: nonsense"):
        build.build(silent)
    assert [path.name for path in fresh_cache.iterdir()] == [".hello.lock"]
    (TOOL.sources / "main.go").write_text(HELLO)
    build.build(silent)
    assert build.find("hello").exists()


def test_of_two_at_once_one_builds(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from testbed import build
build.SOURCES = Path({str(tmp_path / "go")!r})
build.TOOLS = (build.Tool("hello", "hello", None, "."),)
build.build(lambda what, elapsed, done: print("built", flush=True) if done else None)
assert build.find("hello").exists()
"""
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "built\n"]


def test_without_go_it_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BedError, match=r"`go` is not on PATH: install Go 1\.26"):
        build.build(silent)


def program(directory: Path, says: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / "hello"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("says", "used"),
    [("Hello v1.36.0", True), ("hello version 2.0.1 (go1.99.9)", True), ("Hello v1.35.9", False), ("unknown", False)],
)
def test_a_program_on_path_is_used_when_its_version_will_do(
    says: str, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "TOOLS", (build.Tool("hello", "hello", None, ".", least=(1, 36)),))
    installed = program(tmp_path / "bin", says)
    monkeypatch.setenv("PATH", f"{installed.parent}{os.pathsep}{os.environ['PATH']}")
    build.build(silent)
    assert (build.find("hello") == installed) is used


def test_kubebuilder_assets_come_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "TOOLS", (build.Tool("hello", "hello", None, ".", least=(1, 36)),))
    on_path, asset = program(tmp_path / "bin", "v1.36.0"), program(tmp_path / "assets", "v1.36.0")
    monkeypatch.setenv("PATH", f"{on_path.parent}{os.pathsep}{os.environ['PATH']}")
    assert build.find("hello") == on_path
    forget()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(asset.parent))
    assert build.find("hello") == asset


def test_envoy_comes_from_its_package() -> None:
    said = subprocess.run([build.find("envoy"), "--version"], capture_output=True, text=True, check=True).stdout
    assert "version:" in said
