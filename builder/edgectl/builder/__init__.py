"""ONNX in, bundle out: ingest, calibrate, quantize, measure, judge, pack.

    from edgectl.builder import build_bundle

    report = build_bundle("yolov8n.onnx", profiles="jetson-orin", task="yolov8", calibration="yard.mp4")
    print(report.out, report.variants[0].variant)

What is asked for is imported then: ``import edgectl.builder`` alone loads no ONNX and no NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgectl.builder.build import build_bundle
    from edgectl.builder.compress.options import CompressOptions
    from edgectl.builder.monitor import BuildProgress
    from edgectl.builder.pack.bench import BenchReport, bench_bundle
    from edgectl.builder.pack.inspect import BundleInfo, inspect_bundle
    from edgectl.builder.pack.summary import BuildReport, VariantSummary
    from edgectl.builder.variants.smaller_input import SmallerInput

__all__ = [
    "BenchReport",
    "BuildProgress",
    "BuildReport",
    "BundleInfo",
    "CompressOptions",
    "SmallerInput",
    "VariantSummary",
    "bench_bundle",
    "build_bundle",
    "inspect_bundle",
]

_MODULES = {
    "BenchReport": "pack.bench",
    "BuildProgress": "monitor",
    "BuildReport": "pack.summary",
    "BundleInfo": "pack.inspect",
    "CompressOptions": "compress.options",
    "SmallerInput": "variants.smaller_input",
    "VariantSummary": "pack.summary",
    "bench_bundle": "pack.bench",
    "build_bundle": "build",
    "inspect_bundle": "pack.inspect",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
