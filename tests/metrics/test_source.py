"""controller.metrics.source against a server with faults: every way to fail has a name, and none takes long."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import ANY
from urllib.parse import parse_qs

import pytest

from controller.metrics.source import Prometheus
from tests.metrics.subjects import START, at, cluster, latency_slo, matrix, seconds, subject
from tests.metrics.waiting import free_port

TIMEOUT = timedelta(seconds=1)
Reply = Callable[[http.server.BaseHTTPRequestHandler, str], None]


class FaultServer:
    """Answers each query by `reply`, and keeps what was asked: (method, path, query, headers)."""

    def __init__(self) -> None:
        self.reply: Reply = ok([])
        self.asked: list[tuple[str, str, str]] = []
        self.connections = 0
        self.ending = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                query = parse_qs(body)["query"][0]
                server.asked.append((self.command, self.path, query))
                server.reply(self, query)

            def do_GET(self) -> None:
                server.asked.append((self.command, self.path, ""))
                ok([])(self, "")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients hang up: that is the point of some tests

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()


def send(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def ok(result: Any, **more: Any) -> Reply:
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}, **more}).encode()
    return lambda handler, query: send(handler, 200, body)


def refuse(status: int, body: bytes = b"") -> Reply:
    return lambda handler, query: send(handler, status, body)


def error(status: int, text: str) -> Reply:
    return refuse(status, json.dumps({"status": "error", "errorType": "x", "error": text}).encode())


def data(query: str) -> list[Any]:
    """What a healthy Prometheus would say of `shop`."""
    if query.startswith("envoy_cluster_upstream_rq_total"):
        return [matrix(cluster(arm), *((t, 1) for t in range(-60, 61, 15))) for arm in ("canary", "stable")]
    if query.startswith('{__name__=~"envoy_cluster_upstream_rq_time|envoy_cluster_upstream_rq_time_bucket"'):
        return [matrix({**cluster("canary"), "le": le}, (-5, 0), (10, n)) for le, n in (("500", 6), ("+Inf", 9))]
    if query.startswith("envoy_cluster_upstream_rq"):
        return [matrix(cluster("canary", "500"), (-5, 0), (10, 3))]
    return []


def healthy(handler: http.server.BaseHTTPRequestHandler, query: str) -> None:
    ok(data(query))(handler, query)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    running = FaultServer()
    yield running
    running.close()


@pytest.fixture
async def prometheus(server: FaultServer) -> AsyncIterator[Prometheus]:
    client = Prometheus(server.url, timeout=TIMEOUT)
    yield client
    await client.close()


async def problem_of(prometheus: Prometheus) -> str:
    [measurements] = (await prometheus.measure([subject()], START + seconds(60))).values()
    assert not any(arm.samples for arm in measurements.arms.values())
    return measurements.problem


async def test_a_measurement(server: FaultServer, prometheus: Prometheus) -> None:
    server.reply = healthy
    one = subject(slos=[latency_slo()])
    measured = await prometheus.measure([one, subject("cart", slos=[latency_slo()])], START + seconds(60))
    shop = measured["default", "chg-shop"]
    assert shop.problem == ""
    assert shop.taken_at == START + seconds(60)
    assert [(s.bad, s.total) for s in shop.arms["shop", "error-rate", "canary"].samples] == [(3, 3)]
    assert [(s.bad, s.total) for s in shop.arms["shop", "latency", "canary"].samples] == [(3, 9)]
    assert shop.arms["shop", "error-rate", "stable"].fresh_at == START + seconds(60)
    assert measured["default", "chg-cart"].problem == ""
    assert not measured["default", "chg-cart"].arms["cart", "error-rate", "canary"].samples


async def test_targets_of_one_change_are_measured_together(server: FaultServer, prometheus: Prometheus) -> None:
    server.reply = healthy
    cart = subject("cart")
    both = [subject(), type(cart)(**{**vars(cart), "change": "chg-shop"})]
    measured = await prometheus.measure(both, START + seconds(60))
    assert {target for target, _, _ in measured["default", "chg-shop"].arms} == {"shop", "cart"}


async def test_a_thousand_changes_are_one_query_a_metric_in_the_body(
    server: FaultServer, prometheus: Prometheus
) -> None:
    server.reply = healthy
    subjects = [subject(f"app-{i}", slos=[latency_slo()], preset=("envoy", "pods")[i % 2]) for i in range(1000)]
    measured = await prometheus.measure(subjects, START + seconds(60))
    assert len(measured) == 1000
    assert {(method, path) for method, path, _ in server.asked} == {("POST", "/api/v1/query")}
    assert sorted(query.partition(",")[0].partition("{")[::2] for _, _, query in server.asked) == [
        ("", '__name__=~"envoy_cluster_upstream_rq_time|envoy_cluster_upstream_rq_time_bucket"'),
        ("", '__name__=~"http_request_duration_seconds|http_request_duration_seconds_bucket"'),
        ("(ALERTS_FOR_STATE", 'severity="P0"} and ignoring(alertstate) ALERTS{severity="P0"'),
        *((metric, ANY) for metric in ("envoy_cluster_upstream_rq", "envoy_cluster_upstream_rq_total")),
        *((metric, ANY) for metric in ("http_requests_total", "up")),
    ]


async def test_nothing_to_measure_asks_nothing(server: FaultServer, prometheus: Prometheus) -> None:
    assert await prometheus.measure([], START) == {}
    assert server.asked == []


async def test_connections_are_kept(server: FaultServer, prometheus: Prometheus) -> None:
    for _ in range(5):
        assert await prometheus.ping() == ""
    assert server.connections == 1


async def test_a_slash_at_the_end_and_a_password_in_the_url(server: FaultServer) -> None:
    client = Prometheus(server.url.replace("//", "//me:secret@") + "/prom/", timeout=TIMEOUT)
    assert await client.ping() == ""
    assert server.asked[-1][1] == "/prom/api/v1/query"
    server.reply = refuse(500)
    assert "secret" not in await client.ping()
    await client.close()


@pytest.mark.parametrize(
    ("reply", "problem", "tries"),
    [
        (error(503, "query timed out"), "PrometheusError: * fails (HTTP 503: query timed out): look at its log", 2),
        (error(500, "disk"), "PrometheusError: * fails (HTTP 500: disk)", 2),
        (refuse(502, b"<html>Bad\nGateway</html>"), "PrometheusError: * fails (HTTP 502: <html>Bad Gateway</html>)", 2),
        (refuse(429), "PrometheusError: * fails (HTTP 429: )", 2),
        (error(422, "too many samples"), "InvalidQuery: * refuses the query (HTTP 422: too many samples)", 1),
        (error(400, "parse\nerror"), "InvalidQuery: * refuses the query (HTTP 400: parse\\nerror)", 1),
        (refuse(404, b"nope"), "PrometheusError: * does not answer like Prometheus (HTTP 404: nope)", 1),
        (refuse(401), "PrometheusError: * does not answer like Prometheus (HTTP 401: )", 1),
        (lambda h, q: send(h, 302, b"", Location="/login"), "PrometheusError: * does not answer like Prometheus", 1),
        (
            refuse(200, b"<html>Log in</html>"),
            "PrometheusError: * does not answer like Prometheus (JSONDecodeError: Expecting value",
            1,
        ),
        (refuse(200, b'{"status": "success"}'), "PrometheusError: * does not answer like Prometheus", 1),
        (refuse(200, b"[]"), "PrometheusError: * does not answer like Prometheus", 1),
        (ok([{"metric": {}, "values": 5}]), "PrometheusError: * does not answer like Prometheus", 1),
        (ok([], warnings=["no store"]), "PartialData: * answered with a part of the data only (no store)", 1),
    ],
)
async def test_each_failure_has_a_name_and_says_what_to_do(
    server: FaultServer, prometheus: Prometheus, reply: Reply, problem: str, tries: int
) -> None:
    server.reply = reply
    expected = problem.replace("*", server.url)
    assert (await prometheus.ping())[: len(expected)] == expected
    assert len(server.asked) == tries
    assert expected in await problem_of(prometheus)


async def test_infos_are_no_problem(server: FaultServer, prometheus: Prometheus) -> None:
    server.reply = ok([], infos=["metric might not be a counter"], warnings=[])
    assert await prometheus.ping() == ""


@pytest.mark.parametrize("value", ["NaN", "+Inf"])
async def test_what_is_no_number_is_no_sample_and_not_fresh(
    server: FaultServer, prometheus: Prometheus, value: str
) -> None:
    server.reply = lambda handler, query: ok(
        [dict(series, values=[[moment, value] for moment, _ in series["values"]]) for series in data(query)]
    )(handler, query)
    [measured] = (await prometheus.measure([subject()], START + seconds(60))).values()
    assert measured.problem == ""
    assert all(arm.fresh_at is None and not arm.samples for arm in measured.arms.values())


async def test_an_empty_answer_is_no_data(server: FaultServer, prometheus: Prometheus) -> None:
    [measured] = (await prometheus.measure([subject()], START + seconds(60))).values()
    assert measured.problem == ""
    assert set(measured.arms) == {("shop", "error-rate", "canary"), ("shop", "error-rate", "stable")}
    assert all(arm.fresh_at is None for arm in measured.arms.values())


async def test_one_failure_in_between_is_passed_over(server: FaultServer, prometheus: Prometheus) -> None:
    def flaky(handler: http.server.BaseHTTPRequestHandler, query: str) -> None:
        (healthy if [q for _, _, q in server.asked].count(query) > 1 else refuse(503))(handler, query)

    server.reply = flaky
    [measured] = (await prometheus.measure([subject()], START + seconds(60))).values()
    assert measured.problem == ""
    assert measured.arms["shop", "error-rate", "canary"].samples


async def test_a_failed_metric_leaves_the_other_rules(server: FaultServer, prometheus: Prometheus) -> None:
    server.reply = lambda h, q: (error(422, "too much") if "_bucket" in q else healthy)(h, q)
    [measured] = (await prometheus.measure([subject(slos=[latency_slo()])], START + seconds(60))).values()
    assert measured.problem.startswith("InvalidQuery: ")
    assert {rule for _, rule, _ in measured.arms} == {"error-rate"}
    assert measured.arms["shop", "error-rate", "canary"].samples


async def test_a_missing_bucket_is_named(server: FaultServer, prometheus: Prometheus) -> None:
    def reply(handler: http.server.BaseHTTPRequestHandler, query: str) -> None:
        edges = [matrix({**cluster("canary"), "le": le}, (60, 1)) for le in ("500", "+Inf")]
        ok(edges if query.startswith("group by") else data(query))(handler, query)

    server.reply = reply
    one = subject(slos=[latency_slo(slower_than=timedelta(milliseconds=400))])
    [measured] = (await prometheus.measure([one], START + seconds(60))).values()
    assert measured.problem.startswith("NoSuchBucket: ")
    assert measured.problem.endswith("one of 500 ms")


async def test_incidents_of_several_policies(server: FaultServer, prometheus: Prometheus) -> None:
    def reply(handler: http.server.BaseHTTPRequestHandler, query: str) -> None:
        alert = {"metric": {"alertname": "Down", "deployment": "shop"}, "value": [at(9), str(at(1))]}
        ok([alert] if 'severity="P0"' in query else data(query))(handler, query)

    server.reply = reply
    subjects = [subject(), subject("cart", incidents={"page": "yes"}), subject("odd", incidents={"a b": "x"})]
    measured = await prometheus.measure(subjects, START + seconds(60))
    assert [incident.name for incident in measured["default", "chg-shop"].incidents] == ["Down"]
    assert measured["default", "chg-cart"].incidents == ()
    assert measured["default", "chg-odd"].problem.startswith("InvalidQuery: spec.incidents.labels")
    assert len([query for _, _, query in server.asked if "ALERTS" in query]) == 2


# --- Time ---


def hang(handler: http.server.BaseHTTPRequestHandler, server: FaultServer) -> None:
    server.ending.wait(20)


def drip(handler: http.server.BaseHTTPRequestHandler, server: FaultServer) -> None:
    """A byte now and then: no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not server.ending.wait(0.1):
        handler.wfile.write(b" ")


def drip_headers(handler: http.server.BaseHTTPRequestHandler, server: FaultServer) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not server.ending.wait(0.1):
        handler.wfile.write(b"x")


@pytest.mark.parametrize("slowness", [hang, drip, drip_headers])
async def test_no_slowness_outlasts_the_time_out(
    server: FaultServer, prometheus: Prometheus, slowness: Callable[[Any, FaultServer], None]
) -> None:
    server.reply = lambda handler, query: slowness(handler, server)
    beats, began = 0, time.monotonic()
    measuring = asyncio.create_task(problem_of(prometheus))
    while not measuring.done():
        await asyncio.sleep(0.01)
        beats += 1
    assert time.monotonic() - began < 1.5
    assert beats > 50, "the event loop stood still"
    problem = await measuring
    assert (
        problem
        == f"PrometheusUnreachable: {server.url} did not answer within 1 s: check that it is up and not overloaded"
    )


@pytest.mark.parametrize("slowness", [hang, drip])
async def test_slow_answers_do_not_use_up_the_threads(
    server: FaultServer, prometheus: Prometheus, slowness: Callable[[Any, FaultServer], None]
) -> None:
    server.reply = lambda handler, query: slowness(handler, server)
    await asyncio.gather(*(prometheus.ping() for _ in range(20)))
    server.reply = ok([])
    await asyncio.sleep(0.6)
    assert await prometheus.ping() == ""


async def test_a_caller_with_less_time_gets_it_back(server: FaultServer, prometheus: Prometheus) -> None:
    server.reply = lambda handler, query: hang(handler, server)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await prometheus.measure([subject()], START)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"http://127.0.0.1:{free_port()}", "Connection refused"),
        ("http://prometheus.invalid:9090", "prometheus.invalid:9090: "),
        ("prometheus:9090", "prometheus:9090"),
    ],
)
async def test_nobody_there(url: str, text: str) -> None:
    client = Prometheus(url, timeout=TIMEOUT)
    problem = await client.ping()
    assert problem.startswith("PrometheusUnreachable: ")
    assert text in problem
    assert "check SERIN_PROMETHEUS_URL" in problem
    await client.close()


async def test_an_answer_that_is_cut_off(server: FaultServer, prometheus: Prometheus) -> None:
    def cut(handler: http.server.BaseHTTPRequestHandler, query: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"status": "success", "data": {"resultType": "matrix", "result": []}}')
        handler.close_connection = True

    server.reply = cut
    assert (await problem_of(prometheus)).startswith("PrometheusUnreachable: ")
