"""The image and the wheel in it: what the Dockerfile says, and what `uv build` puts into the package."""

import os
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from testbed.stage import IN_THE_IMAGE

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    found = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [(word, rest) for word, rest in found]


def of(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def test_bases_are_pinned_by_minor_version_and_run_the_same_python() -> None:
    bases = {re.sub(r" AS \w+$", "", base) for base in of("FROM")}
    assert len(bases) == 1
    (minor,) = [re.fullmatch(r"python:(3\.\d+)-slim", base) for base in bases]
    assert minor
    assert tuple(map(int, minor[1].split("."))) >= (3, 11)


def test_it_runs_as_nobody_in_particular_and_as_the_manifest_says() -> None:
    deployment = next(d for d in yaml.safe_load_all((ROOT / "manifests/controller.yaml").read_text()))
    security = deployment["spec"]["template"]["spec"]["securityContext"]
    assert instructions()[-3][0] == "USER"  # nothing but EXPOSE and ENTRYPOINT after it
    assert of("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert of("ENTRYPOINT") == ['["serin", "run"]']


def test_what_runs_on_the_testbed_is_told_the_same_about_memory() -> None:
    assert {f"{name}={value}" for name, value in IN_THE_IMAGE.items()} <= set(of("ENV")[-1].split())


def test_only_what_is_locked_and_named_comes_in() -> None:
    assert of("ADD") == []
    assert of("COPY") == [
        "pyproject.toml uv.lock ./",
        "controller controller",
        "testbed testbed",
        "--from=build /opt/serin /opt/serin",
    ]
    assert all("--locked --no-dev" in run for run in of("RUN") if run.startswith("uv sync"))
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignore[0] == "*"
    assert {line for line in ignore if line.startswith("!")} == {
        "!pyproject.toml",
        "!uv.lock",
        "!controller",
        "!testbed",
    }


def test_the_manifest_names_this_version() -> None:
    text = (ROOT / "manifests/controller.yaml").read_text()
    assert f"image: serin:{PROJECT['version']} " in text


def test_the_wheel_has_the_programs_and_nothing_of_this_machine(tmp_path: Path) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.fail("uv is not on PATH")
    subprocess.run([uv, "build", "--wheel", "--offline", "--out-dir", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        names = set(package.namelist())
        (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
        scripts = package.read(entry_points).decode()
    assert {name.split("/")[0] for name in names} == {"controller", "testbed", f"serin-{PROJECT['version']}.dist-info"}
    source = {p.relative_to(ROOT).as_posix() for p in (ROOT / "controller").rglob("*.py")}
    assert source <= names
    assert not [name for name in names if name.endswith(".pyc")]
    for script, target in PROJECT["scripts"].items():
        assert f"{script} = {target}" in scripts
