"""Check a saved TensorRT plan in a child process of the finaliser: it is opened, compared with the golden
outputs, timed and looked into.

``python -m edgectl.engines.finalise.trt_check BLOBS MANIFEST PLAN`` prints one JSON line ``{ok, p50_ms, layers}``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.bundle import Variant
from edgectl.engines.child import answer
from edgectl.engines.finalise.golden import check_golden, read_golden
from edgectl.engines.finalise.plan_layers import read_layers
from edgectl.engines.runtimes.tensorrt import TensorRtEngine
from edgectl.engines.timing import bench

_RUNS = 64


def _main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="edgectl.engines.finalise.trt_check")
    parser.add_argument("blobs", type=Path)
    parser.add_argument("manifest")
    parser.add_argument("plan", type=Path)
    a = parser.parse_args(arguments)
    variant = Variant.open(a.blobs, a.manifest)
    engine = TensorRtEngine(a.plan)
    check_golden(engine, variant)
    times = bench(engine, [feeds for feeds, _ in read_golden(variant)], seconds=0.0, min_runs=_RUNS)
    # again: from the second inference on it may run as a CUDA graph
    check_golden(engine, variant)
    layers = read_layers(engine.layers())
    engine.close()
    return {"p50_ms": float(np.median(times)), "layers": asdict(layers)}


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
