"""A model in, a bundle out: convert, ingest, calibrate, quantize, measure, judge, pack.

    from edgectl.builder import build_bundle

    report = build_bundle("yolov8n.onnx", profiles="jetson-orin", task="yolov8", calibration="yard.mp4")
    print(report.out, report.variants[0].variant)

What is asked for is imported then: ``import edgectl.builder`` alone loads no ONNX and no NumPy.
"""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "BenchReport",
    "BuildProgress",
    "BuildReport",
    "BundleInfo",
    "CompressOptions",
    "ConvertOptions",
    "SmallerInput",
    "VariantSummary",
    "bench_bundle",
    "build_bundle",
    "inspect_bundle",
]

if TYPE_CHECKING:
    from edgectl.builder.build import build_bundle
    from edgectl.builder.compress.options import CompressOptions
    from edgectl.builder.convert.options import ConvertOptions
    from edgectl.builder.monitor import BuildProgress
    from edgectl.builder.pack.bench import BenchReport, bench_bundle
    from edgectl.builder.pack.inspect import BundleInfo, inspect_bundle
    from edgectl.builder.pack.summary import BuildReport, VariantSummary
    from edgectl.builder.variants.smaller_input import SmallerInput
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.builder.build": ("build_bundle",),
            "edgectl.builder.compress.options": ("CompressOptions",),
            "edgectl.builder.convert.options": ("ConvertOptions",),
            "edgectl.builder.monitor": ("BuildProgress",),
            "edgectl.builder.pack.bench": (
                "BenchReport",
                "bench_bundle",
            ),
            "edgectl.builder.pack.inspect": (
                "BundleInfo",
                "inspect_bundle",
            ),
            "edgectl.builder.pack.summary": (
                "BuildReport",
                "VariantSummary",
            ),
            "edgectl.builder.variants.smaller_input": ("SmallerInput",),
        },
    )
