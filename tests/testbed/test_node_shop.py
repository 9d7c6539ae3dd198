"""The demo workload and the load generator, without a cluster: faults are exact, counts add up."""

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from testbed import build
from testbed.load import Load, LoadError
from testbed.waiting import eventually

URL = "http://127.0.0.1:8080"
SECOND = timedelta(seconds=1)

pytestmark = pytest.mark.usefixtures("in_namespace")


@contextmanager
def shop(**env: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [build.find("shop")], env={"POD_IP": "127.0.0.1", **env}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: process.poll() is not None or listens())
        yield process
    finally:
        process.kill()
        process.communicate()


def listens() -> bool:
    try:
        return get("/metrics")[0] == 200
    except OSError:
        return False


def get(path: str = "/", method: str = "GET") -> tuple[int, str | None, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, method=method), timeout=5) as response:
            return response.status, response.headers["x-version"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["x-version"], error.read().decode()


def metric(name: str) -> float:
    lines = [line for line in get("/metrics")[2].splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


class TestServe:
    def test_errors_are_spread_exactly(self) -> None:
        with shop(VERSION="v1", ERROR_RATIO="0.2"):
            answers = [get(f"/{n}")[:2] for n in range(20)]
            assert answers == ([(200, "v1")] * 4 + [(500, "v1")]) * 4
            assert metric('http_requests_total{code="500",method="get"}') == 4
            assert metric('http_requests_total{code="200",method="get"}') == 16
            assert metric("http_request_duration_seconds_count") == 20

    @pytest.mark.parametrize(("ratio", "failed"), [("0", 0), ("0.05", 5), ("0.333333", 33), ("1", 100)])
    def test_any_share_is_kept(self, ratio: str, failed: int) -> None:
        with shop(ERROR_RATIO=ratio):
            assert sum(get()[0] == 500 for _ in range(100)) == failed

    def test_log_lines_are_counted_by_level(self) -> None:
        with shop(LOG_REQUESTS="1", LOG_ERROR_RATIO="0.2"):
            assert {get()[0] for _ in range(100)} == {200}
            assert metric('log_messages_total{level="error"}') == 20
            assert metric('log_messages_total{level="info"}') == 80

    def test_faults_change_while_it_runs_and_bad_ones_change_nothing(self) -> None:
        with shop(IMAGE_TAG="v7"):
            assert get()[:2] == (200, "v7")
            assert get("/fault?error_ratio=1&latency=300ms", "POST")[0] == 200
            began = time.monotonic()
            assert get()[0] == 500
            assert time.monotonic() - began > 0.3
            assert metric('http_request_duration_seconds_bucket{code="500",method="get",le="0.25"}') == 0
            assert metric('http_request_duration_seconds_bucket{code="500",method="get",le="0.5"}') == 1
            for bad in ("error_ratio=2", "error_ratio=NaN", "latency=5", "nothing=1", "error_ratio=0&latency=x"):
                assert get(f"/fault?{bad}", "POST")[0] == 400
            assert get()[0] == 500
            get("/fault?error_ratio=0&latency=0s&never_ready=true", "POST")
            assert (get()[0], get("/healthz")[0]) == (200, 503)

    def test_it_is_ready_after_its_start_delay(self) -> None:
        with shop(START_DELAY="500ms"):
            assert get("/healthz")[0] == 503
            assert metric("http_requests_total") == 0  # probes are not requests of users
            eventually(lambda: get("/healthz")[0] == 200)

    @pytest.mark.parametrize(
        "env", [{"CRASH_AT_START": "1"}, {"CRASH_AFTER": "300ms"}, {"ERROR_RATIO": "x"}, {"LATENCY": "5"}]
    )
    def test_it_crashes_when_told_or_told_nonsense(self, env: dict[str, str]) -> None:
        with shop(**env) as process:
            assert process.wait(5) == 1

    def test_sigterm_drains(self) -> None:
        with shop(LATENCY="1s") as process:
            client = subprocess.Popen(
                ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", URL], stdout=subprocess.PIPE, text=True
            )
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert client.communicate()[0] == "200"
            assert process.wait(5) == 0


class TestLoad:
    @property
    def command(self) -> tuple[str]:
        return (str(build.find("shop")),)

    async def test_it_counts_what_users_saw(self) -> None:
        with shop(VERSION="v1", ERROR_RATIO="0.1"):
            load = await Load.start(URL, host="shop.local", rps=200, duration=3 * SECOND, command=self.command)
            began = datetime.now(UTC)
            seen = await load.wait()
        assert 595 <= seen.sent <= 601
        assert seen.ok + seen.failed == seen.sent
        assert seen.failed == seen.sent // 10
        assert seen.by_version == {"v1": seen.sent}
        assert seen.failed_by_version == {"v1": seen.failed}
        assert seen.codes == {"200": seen.ok, "500": seen.failed}
        assert timedelta() < seen.p50 <= seen.p99 < SECOND
        assert abs(seen.first_at["v1"] - began) < SECOND / 2
        assert abs(seen.last_at["v1"] - seen.first_at["v1"] - 3 * SECOND) < SECOND / 2
        assert sum(second.sent for second in load.seconds) == seen.sent
        late = load.window(began + SECOND)
        assert 150 <= late.sent <= 450
        assert late.sent == late.ok + late.failed

    async def test_slow_answers_do_not_slow_it_down(self) -> None:
        with shop(LATENCY="500ms"):
            load = await Load.start(URL, rps=100, duration=2 * SECOND, command=self.command)
            seen = await load.wait()
        assert 195 <= seen.sent <= 201
        assert seen.failed == 0
        assert SECOND / 2 <= seen.p50 < 0.8 * SECOND

    async def test_time_outs_and_refused_connections_are_failures(self) -> None:
        with shop(LATENCY="2s"):
            load = await Load.start(URL, rps=20, duration=SECOND, timeout=SECOND / 5, command=self.command)
            seen = await load.wait()
        assert seen.codes == {"timeout": seen.sent}
        refused = await (await Load.start(URL, rps=20, duration=SECOND, command=self.command)).wait()
        assert refused.codes == {"connect": refused.sent}
        assert refused.failed_by_version == {"none": refused.sent}

    async def test_it_ends_when_it_is_stopped(self) -> None:
        with shop(VERSION="v1"):
            load = await Load.start(URL, rps=50, command=self.command)
            await asyncio.sleep(1.5)
            assert len(load.seconds) == 1
            seen = await load.stop()
        assert 70 <= seen.sent <= 100

    async def test_a_generator_that_dies_is_no_result(self) -> None:
        load = await Load.start("", command=self.command)
        with pytest.raises(LoadError, match="code 1"):
            await load.wait()

    def test_five_hundred_requests_a_second_cost_little(self) -> None:
        with shop():
            process = subprocess.Popen(
                [*self.command, "load", "--url", URL, "--rps", "500", "--duration", "4s"], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            output = process.stdout.read()
            process.stdout.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        summary = json.loads(output.splitlines()[-1])["summary"]
        assert summary["sent"] >= 1980
        assert summary["failed"] == 0
        assert usage.ru_utime + usage.ru_stime < 1.6  # of 4 s; alone on the machine: 0.4


def test_a_signal_ends_a_load_with_its_summary() -> None:
    with shop(VERSION="v1"):
        process = subprocess.Popen(
            [build.find("shop"), "load", "--url", URL, "--rps", "50"], stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=5)[0]
        assert process.returncode == 0
        assert json.loads(output.splitlines()[-1])["summary"]["ok"] > 10
