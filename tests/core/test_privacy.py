"""No runtime may leave a trace in the home directory or load a telemetry client. Real runtimes, a fresh
process, an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from edgectl.engines.finalise.open import open_model
from edgectl.models import reference
engine = open_model(reference("yard-detector").model.read_bytes(), runtime=sys.argv[1])
import numpy as np
engine.run({engine.inputs[0].name: np.zeros(engine.inputs[0].shape, np.float32)})
engine.close()
import threading, multiprocessing
assert sys.modules.get("openvino_telemetry") is None, "telemetry client loaded"
assert not multiprocessing.active_children()
assert [t.name for t in threading.enumerate()] == ["MainThread"]
"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_tells_nobody(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")
    }
    run = subprocess.run(
        [sys.executable, "-c", RUN, runtime],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == []
