"""Against a receiver of OTLP/HTTP made from OpenTelemetry's own definitions."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from edgectl.fleet.config import OtlpConfig
from edgectl.fleet.control.otlp_exporter import OtlpExporter
from edgectl.fleet.telemetry.families import bounded

NAME = "edgectl.frames.processed"


class Collector:
    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answers: list[int] = []
        self.came = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.headers["content-type"] == "application/x-protobuf"
                assert self.headers["authorization"] == "Bearer T0KEN"
                status = collector.answers.pop(0) if collector.answers else 200
                if status == 200:
                    data = gzip.decompress(body)
                    collector.requests.append(ExportMetricsServiceRequest.FromString(data))
                answer = ExportMetricsServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                collector.came.set()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/metrics"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def points(self) -> list[tuple[float, int, int]]:
        """(value, from, to) of each request."""
        metrics = [m for r in self.requests for m in r.resource_metrics[0].scope_metrics[0].metrics]
        points = [m.sum.data_points[0] for m in metrics if m.name == NAME]
        return [(p.as_double, p.start_time_unix_nano, p.time_unix_nano) for p in points]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


class Source:
    def __init__(self, collector: Collector, temporality: Any, **settings: Any) -> None:
        self.processed, self.now_ns = 0.0, 1000
        config = OtlpConfig(
            endpoint=collector.url,
            headers={"authorization": "Bearer T0KEN"},
            temporality=temporality,
            **settings,
        )
        self.exporter = OtlpExporter(config, "home", self.families, lambda: self.now_ns)

    def families(self) -> list[Any]:
        return [bounded("edgectl_frames_processed_total", [(("sound",), self.processed)])]

    def push(self, processed: float, now_ns: int) -> bool:
        self.processed, self.now_ns = processed, now_ns
        return self.exporter.push()


def test_cumulative_figures_count_from_the_start_of_the_controller(collector: Collector) -> None:
    source = Source(collector, "cumulative")
    assert source.push(5, 2000)
    assert source.push(9, 3000)
    assert collector.points() == [(5, 1000, 2000), (9, 1000, 3000)]
    source.exporter.close()


def test_delta_that_was_not_taken_is_in_the_next_one(collector: Collector) -> None:
    source = Source(collector, "delta")
    assert source.push(5, 2000)
    for status in (503, 429, 502):
        collector.answers = [status]
        assert not source.push(7, 3000)
    assert source.push(9, 4000)
    assert source.push(9, 5000)
    assert collector.points() == [(5, 1000, 2000), (4, 2000, 4000), (0, 4000, 5000)]
    source.exporter.close()


def test_what_is_refused_for_good_is_not_sent_again_and_said_once(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(collector, "delta")
    collector.answers = [400, 400]
    assert not source.push(5, 2000)
    assert not source.push(6, 3000)
    assert source.push(8, 4000)
    assert collector.points() == [(2, 3000, 4000)]
    assert caplog.text.count("refuses metrics with 400") == 1
    assert "T0KEN" not in caplog.text
    source.exporter.close()


def test_wall_clock_that_is_set_back_a_day_makes_no_negative_time(collector: Collector) -> None:
    source = Source(collector, "delta")
    day_ns = 86400 * 10**9
    assert source.push(5, 2 * day_ns)
    assert source.push(7, day_ns)
    assert source.push(8, day_ns + 5)
    assert all(end > begin for _, begin, end in collector.points())
    assert sum(n for n, _, _ in collector.points()) == 8
    source.exporter.close()


def test_collector_that_is_away_is_waited_for(collector: Collector) -> None:
    source = Source(collector, "delta")
    collector.close()
    assert not source.push(5, 2000)
    source.exporter.close()


def test_last_figures_are_pushed_when_the_controller_ends(collector: Collector) -> None:
    source = Source(collector, "delta", period_s=3600.0)
    source.exporter.start()
    source.processed, source.now_ns = 3.0, 9000
    source.exporter.close()
    assert collector.points() == [(3, 1000, 9000)]


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://a/b", "http://a b/c", "https://collector"])
def test_endpoint_is_a_whole_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        OtlpConfig(endpoint=endpoint)
