"""Prometheus' own messages, from their definitions, and a real server where one is installed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from conftest import free_port
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.decoder import _DecodeVarint32  # type: ignore[attr-defined]

__all__ = ["read_families", "running_prometheus"]

_F = descriptor_pb2.FieldDescriptorProto
_DEFINITION: dict[str, list[tuple[int, str, Any, bool]]] = {
    # client_model, io/prometheus/client/metrics.proto: number, name, type, repeated
    "LabelPair": [(1, "name", _F.TYPE_STRING, False), (2, "value", _F.TYPE_STRING, False)],
    "Gauge": [(1, "value", _F.TYPE_DOUBLE, False)],
    "Counter": [(1, "value", _F.TYPE_DOUBLE, False)],
    "Bucket": [(1, "cumulative_count", _F.TYPE_UINT64, False), (2, "upper_bound", _F.TYPE_DOUBLE, False)],
    "BucketSpan": [(1, "offset", _F.TYPE_SINT32, False), (2, "length", _F.TYPE_UINT32, False)],
    "Histogram": [
        (1, "sample_count", _F.TYPE_UINT64, False),
        (2, "sample_sum", _F.TYPE_DOUBLE, False),
        (3, "bucket", "Bucket", True),
        (5, "schema", _F.TYPE_SINT32, False),
        (6, "zero_threshold", _F.TYPE_DOUBLE, False),
        (7, "zero_count", _F.TYPE_UINT64, False),
        (12, "positive_span", "BucketSpan", True),
        (13, "positive_delta", _F.TYPE_SINT64, True),
    ],
    "Metric": [
        (1, "label", "LabelPair", True),
        (2, "gauge", "Gauge", False),
        (3, "counter", "Counter", False),
        (7, "histogram", "Histogram", False),
    ],
    "MetricFamily": [
        (1, "name", _F.TYPE_STRING, False),
        (2, "help", _F.TYPE_STRING, False),
        (3, "type", _F.TYPE_INT32, False),  # an enum, as numbers
        (4, "metric", "Metric", True),
    ],
}


def _family_class() -> Any:
    package = "io.prometheus.client"
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package=package, syntax="proto3")
    for name, fields in _DEFINITION.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            f = message.field.add(name=field, number=number)
            f.label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            if isinstance(kind, str):
                f.type, f.type_name = _F.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                f.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.MetricFamily"))


MetricFamilyMessage = _family_class()


def read_families(data: bytes) -> dict[str, Any]:
    """Name → message, of a stream of them with their lengths."""
    found, at = {}, 0
    while at < len(data):
        size, at = _DecodeVarint32(data, at)
        family = MetricFamilyMessage.FromString(data[at : at + size])
        found[family.name] = family
        at += size
    return found


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[Any]:
    """A server that scrapes ``target`` (host:port) each second; yields ``query(promql)`` → list of results."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "edgectl", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=native-histograms",
            ],
            stdout=log,
            stderr=log,
        )

    def query(promql: str, within_s: float = 60.0) -> list[Any]:
        """As soon as there is an answer."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                with urlopen(
                    f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': promql})}"
                ) as answer:
                    result: list[Any] = json.load(answer)["data"]["result"]
            except OSError:
                result = []
            if result:
                return result
            time.sleep(0.2)
        raise TimeoutError(f"{promql}: nothing; {(folder / 'log').read_text()[-2000:]}")

    try:
        yield query
    finally:
        process.terminate()
        process.wait(30)
