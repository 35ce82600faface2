"""What session settings of ONNX Runtime cost between inferences: processor time at 30 inferences a second,
latency, memory.

    python bench/session_settings.py --model ../shared/models/fastestdet-352.onnx

The settings that the builder tries run in new processes, in turn (`edgectl.engines.measure.processes`). The last row is
what it never does: threads that also wait busily between two runs, measured in this process with the same
rest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model
from edgectl.engines.measure.contexts import PERIOD_S
from edgectl.engines.measure.processes import MeasuredEngine, measure_in_processes, summarise_processes
from edgectl.engines.timing import load_1m

SETTINGS = {
    "1 thread": SessionSettings(),
    "1 thread, no arena": SessionSettings(arena=False),
    "2 threads": SessionSettings(threads=2),
    "2 threads, busy waiting inside a run": SessionSettings(threads=2, spinning=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    model = parser.parse_args().model.read_bytes()
    rng = np.random.default_rng(0)
    inputs = open_model(model).inputs
    feeds = [{i.name: rng.random(i.shape).astype(i.dtype) for i in inputs} for _ in range(4)]
    print(f"load {load_1m()}\n\n| settings | CPU ms an inference | p50 ms | MiB |\n| - | - | - | - |")
    times = measure_in_processes(
        {name: MeasuredEngine(model, "onnxruntime", s) for name, s in SETTINGS.items()}, feeds
    )
    for name, t in times.items():
        run = summarise_processes(t, None)
        print(f"| {name} | {run.cpu_ms:.2f} | {run.p50_ms:.2f} | {run.rss_mb:.0f} |")
    print(f"| 2 threads, busy waiting between runs, too | {always_busy(model, feeds[0]):.2f} | | |")


def always_busy(model: bytes, feeds: dict[str, np.ndarray], calls: int = 40) -> float:
    """Processor time (ms) an inference with ONNX Runtime's own defaults for waiting."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(None, feeds)
    before = time.process_time()
    for _ in range(calls):
        time.sleep(PERIOD_S)
        session.run(None, feeds)
    return (time.process_time() - before) / calls * 1e3


if __name__ == "__main__":
    main()
