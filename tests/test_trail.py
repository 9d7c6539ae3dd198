"""The sinks of the audit trail: each record once in the file, whatever dies or fills up, and nobody waits."""

import errno
import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controller import trail as module
from controller.core.audit import Head, Kind, Record, chain
from controller.core.proof import verify
from controller.trail import Trail

ABOUT = {"at": "2026-11-23T08:00:00Z", "change": "CHG-1", "namespace": "demo", "policy": "p", "revision": "r"}


def lines_of(count: int, uid: str = "u") -> tuple[str, ...]:
    return chain(Head(), {**ABOUT, "uid": uid}, [Record(Kind.VERDICT, {"n": i}) for i in range(count)])[1]


LINES = lines_of(6)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", timedelta(milliseconds=20))
    monkeypatch.setattr(module, "PROBE", timedelta(milliseconds=20))


@pytest.fixture
def begin() -> Iterator[Callable[..., Trail]]:
    started = []

    def make(path: Path | None, stream: Any = None) -> Trail:
        trail = Trail(path, stream or io.BytesIO())
        trail.start()
        started.append(trail)
        return trail

    yield make
    for trail in started:
        trail.close()


def until(condition: Callable[[], object], within: float = 5) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def written(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_every_record_is_in_the_file_and_on_standard_output(tmp_path: Path, begin: Callable[..., Trail]) -> None:
    path, stream = tmp_path / "audit.jsonl", io.BytesIO()
    trail = begin(path, stream)
    for i in range(6):
        trail.append(LINES[max(0, i - 2) : i + 1])  # with those that were not kept at the time
    until(lambda: trail.kept("u") == 6)
    assert written(path) == list(LINES) == stream.getvalue().decode().splitlines()
    assert verify({"log": written(path)}) == []
    assert (trail.problem, path.stat().st_mode & 0o777) == ("", 0o640)


def test_without_a_file_standard_output_is_the_trail(begin: Callable[..., Trail]) -> None:
    stream = io.BytesIO()
    trail = begin(None, stream)
    trail.append(LINES)
    trail.append(LINES)
    until(lambda: trail.kept("u") == 6)
    trail.close()
    assert stream.getvalue().decode().splitlines() == list(LINES)


def test_who_comes_next_writes_what_is_missing_and_nothing_twice(tmp_path: Path, begin: Callable[..., Trail]) -> None:
    path, said = tmp_path / "audit.jsonl", io.BytesIO()
    first = begin(path)
    first.append(LINES[:3])
    first.append(lines_of(2, "other"))
    until(lambda: first.kept("other") == 2)
    first.close()
    second = begin(path, said)
    until(lambda: second.kept("u") == 3)
    second.append(LINES[1:5])
    until(lambda: second.kept("u") == 5)
    assert [line for line in written(path) if '"uid":"u"' in line] == list(LINES[:5])
    assert said.getvalue().decode().splitlines() == list(LINES[3:5])


@pytest.mark.parametrize("torn", range(1, len(LINES[3]), 37))
def test_half_a_line_of_one_who_died_goes_and_comes_again(
    tmp_path: Path, begin: Callable[..., Trail], torn: int
) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(f"{line}\n" for line in LINES[:3]) + LINES[3][:torn])
    trail = begin(path)
    trail.append(LINES[3:5])
    until(lambda: trail.kept("u") == 5)
    assert written(path) == list(LINES[:5])


def test_two_processes_that_share_a_file_write_each_record_once(tmp_path: Path, begin: Callable[..., Trail]) -> None:
    path, many = tmp_path / "audit.jsonl", lines_of(200)
    trails = [begin(path), begin(path)]
    for i in range(0, 200, 2):
        for trail in trails:
            trail.append(many[max(0, i - 4) : i + 2])
    until(lambda: all(trail.kept("u") == 200 for trail in trails))
    assert written(path) == list(many)


def test_a_file_that_is_moved_away_or_emptied_begins_anew(tmp_path: Path, begin: Callable[..., Trail]) -> None:
    path, moved = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    trail = begin(path)
    trail.append(LINES[:2])
    until(lambda: trail.kept("u") == 2)
    path.rename(moved)
    trail.append(LINES[1:4])
    until(lambda: trail.kept("u") == 4)
    assert (written(moved), written(path)) == (list(LINES[:2]), list(LINES[2:4]))
    copied = path.read_text()
    os.truncate(path, 0)  # logrotate's copytruncate
    trail.append(LINES[4:])
    until(lambda: trail.kept("u") == 6)
    assert verify({"1": written(moved), "2": copied.splitlines(), "3": written(path)}) == []


# --- What cannot be written ---


def test_a_full_disk_is_said_keeps_nobody_waiting_and_passes(
    tmp_path: Path, begin: Callable[..., Trail], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    trail = begin(path)
    trail.append(LINES[:2])
    until(lambda: trail.kept("u") == 2)
    real = os.write

    def half(fd: int, data: Any) -> int:
        if len(data) > 100:
            return real(fd, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    began = time.monotonic()
    trail.append(LINES[2:4])
    assert time.monotonic() - began < 0.1
    until(lambda: trail.problem)
    assert trail.problem == f"AuditUnavailable: the audit trail cannot be written: {path}: No space left on device"
    assert written(path) == list(LINES[:2]), "not half a line"
    assert trail.kept("u") == 2
    trail.append(LINES[2:5])
    monkeypatch.setattr(os, "write", real)
    until(lambda: trail.kept("u") == 5)
    until(lambda: trail.problem == "")
    assert written(path) == list(LINES[:5])


def test_little_space_is_said_before_anything_has_to_be_written(
    tmp_path: Path, begin: Callable[..., Trail], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_blocks=100, f_bavail=1, f_frsize=4096))
    trail = begin(tmp_path / "audit.jsonl")
    until(lambda: "less than 16 MiB are left" in trail.problem)
    monkeypatch.undo()
    until(lambda: trail.problem == "")


def test_a_directory_that_is_not_there_is_said_at_once(tmp_path: Path, begin: Callable[..., Trail]) -> None:
    trail = begin(tmp_path / "none" / "audit.jsonl")
    until(lambda: trail.problem.endswith("none/audit.jsonl: No such file or directory"))


def test_a_standard_output_that_nobody_reads_is_said_and_keeps_nothing_from_the_file(
    tmp_path: Path, begin: Callable[..., Trail]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    path = tmp_path / "audit.jsonl"
    with open(writing, "wb", buffering=0) as stream:
        trail = begin(path, stream)
        trail.append(LINES)
        until(lambda: trail.problem)
        assert "stdout: Broken pipe" in trail.problem
        assert written(path) == list(LINES)
        trail.close()


def test_a_write_that_does_not_come_back_is_said(
    tmp_path: Path, begin: Callable[..., Trail], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STUCK_AFTER", timedelta(milliseconds=50))
    hangs = threading.Event()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (hangs.wait(5), real(fd)))
    trail = begin(tmp_path / "audit.jsonl")
    trail.append(LINES)
    until(lambda: "no write has come back" in trail.problem)
    hangs.set()
    until(lambda: trail.problem == "" and trail.kept("u") == 6)


def test_what_waits_is_written_at_the_end(tmp_path: Path, begin: Callable[..., Trail]) -> None:
    path = tmp_path / "audit.jsonl"
    trail = begin(path)
    trail.append(LINES)
    trail.close()
    assert written(path) == list(LINES)


def test_a_process_that_is_killed_while_it_writes_leaves_a_log_that_the_next_one_completes(
    tmp_path: Path, begin: Callable[..., Trail]
) -> None:
    """SIGKILL at moments of chance, on a real file, with real fsync."""
    path, many = tmp_path / "audit.jsonl", lines_of(400)
    (tmp_path / "lines.json").write_text(json.dumps(many))
    program = textwrap.dedent("""
        import io, json, sys, time
        from pathlib import Path
        from controller.trail import Trail
        lines = json.loads(Path(sys.argv[2]).read_text())
        trail = Trail(Path(sys.argv[1]), io.BytesIO())
        trail.start()
        print("on", flush=True)
        for i in range(len(lines)):
            trail.append(lines[max(0, i - 8):i + 1])
            time.sleep(0.0005)
        trail.close()
    """)
    for i in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path), str(tmp_path / "lines.json")], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.02 * i)
            process.kill()
    trail = begin(path)
    trail.append(many)
    until(lambda: trail.kept("u") == 400)
    assert written(path) == list(many)
