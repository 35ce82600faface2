"""The second CPU runtime: the same answers as the first, and a process that still takes its signals."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgectl.core.errors import EngineError
from edgectl.engines.finalise.open import open_model
from edgectl.models import reference

pytest.importorskip("openvino")

SIGNALLED = """
import os, signal, sys, time
from edgectl.engines.finalise.open import open_model
from edgectl.engines.runtimes.signal_stack import SS_DISABLE, current_signal_stack
from edgectl.models import reference
model = reference("yard-detector").model.read_bytes()
first, second = (open_model(model, runtime="openvino") for _ in range(2))
first.close()
del first
third = open_model(model, runtime="openvino")
second.close(); third.close()
del second, third
assert current_signal_stack().flags == SS_DISABLE, "OpenVINO's signal stack is still set"
try:
    os.kill(os.getpid(), signal.SIGINT)
    while True:  # not pause(): another thread may get the signal, and then nothing wakes this one
        time.sleep(0.01)
except KeyboardInterrupt:
    sys.exit(7)
"""


def test_a_process_survives_a_signal_after_engines_were_opened_and_closed() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 7, run.stderr


def test_both_runtimes_give_the_same_answer() -> None:
    model = reference("yard-detector").model.read_bytes()
    image = np.random.default_rng(1).random((1, 3, 192, 320), dtype=np.float32)
    one, two = open_model(model), open_model(model, runtime="openvino")
    np.testing.assert_allclose(
        one.run({"image": image})["output"], two.run({"image": image})["output"], atol=1e-4
    )
    two.close()
    with pytest.raises(EngineError, match="closed"):
        two.run({"image": image})


def test_what_is_no_model_is_one_sentence() -> None:
    with pytest.raises(EngineError, match="OpenVINO cannot open the model"):
        open_model(b"not a model", runtime="openvino")
