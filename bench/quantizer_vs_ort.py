"""Speed and error of our x86-vnni writer against onnxruntime.quantization.quantize_static (U8S8, per channel,
Q/DQ).

    python bench/quantizer_vs_ort.py ../shared/models/fastestdet-352.onnx --task fastestdet \
        --calibration ../shared/media/one-by-one-person-detection.mp4

Same canonical float graph, same calibration samples, same session settings, one thread; the candidates run in
turn, call by call. Prints p50 and the median of paired ratios with its 95 % interval (below 1: ours is
faster), and the error against float.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.samples import collect, slice_samples
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize
from edgectl.core.bundle import SessionSettings
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave, load_1m, paired_ratio
from edgectl.pipelines.tasks import load_task


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples) -> None:
        self._left = iter(samples)

    def get_next(self):
        sample = next(self._left, None)
        return None if sample is None else dict(sample.feeds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    a = parser.parse_args()
    task = load_task(a.task)
    graph, inputs, _ = prepare(a.model, task)
    float_bytes = graph.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        reference = open_model(float_bytes, SessionSettings())
        slices = slice_samples(collect(a.calibration, task, inputs, reference, Path(folder)), None)
        table = calibrate(graph, (s.feeds for s in slices.calibration), data_digest=slices.digest)
        ours = quantize(graph, table, FAMILIES["x86-vnni"]).model.SerializeToString()
        source, theirs = Path(folder) / "float.onnx", Path(folder) / "ort.onnx"
        source.write_bytes(float_bytes)
        quantize_static(
            str(source),
            str(theirs),
            Reader(slices.calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        engines = {
            "float": reference,
            "edgectl x86-vnni": open_model(ours, SessionSettings()),
            "quantize_static U8S8": open_model(theirs, SessionSettings()),
        }
        feeds = [s.feeds for s in slices.search]
        times = interleave(
            {n: (lambda e=e: e.run(feeds[0])) for n, e in engines.items()}, seconds=a.seconds, min_rounds=100
        )
        want = [reference.run(f) for f in feeds]
        print(
            f"{probe().summary}; load {load_1m()}; {a.model.name}; {len(times['float'])} rounds; {reference.runtime}"
        )
        for name, engine in engines.items():
            got = [engine.run(f) for f in feeds]
            signal = sum(float(np.square(w[o]).sum()) for w in want for o in w)
            noise = sum(
                float(np.square(w[o] - g[o]).sum()) for w, g in zip(want, got, strict=True) for o in w
            )
            sqnr = 10 * np.log10(signal / noise) if noise else np.inf
            r = paired_ratio(times[name], times["float"])
            print(
                f"{name:22} p50 {np.median(times[name]):7.3f} ms  to float {r.median:.3f} [{r.low:.3f}, {r.high:.3f}]  SQNR {sqnr:5.1f} dB"
            )
        r = paired_ratio(times["edgectl x86-vnni"], times["quantize_static U8S8"])
        print(f"edgectl to quantize_static: {r.median:.3f} [{r.low:.3f}, {r.high:.3f}], n = {r.n}")
        print(
            f"bytes: float {len(float_bytes)}, edgectl {len(ours)}, quantize_static {theirs.stat().st_size}"
        )


if __name__ == "__main__":
    main()
