"""OpenVINO: the second CPU runtime, optional (``edgectl[openvino]``). Reads the same ONNX file as ONNX
Runtime.

The inference precision is always pinned: its default is bf16 on CPUs that have it, which would make both the
outputs and a comparison with float depend on the machine. Where it is lower than float32 by order of the
settings, inputs, outputs and int8 layers stay what they are: the float layers between them change.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import EngineError
from edgectl.engines.base import Feeds, Outputs, check_feeds
from edgectl.engines.runtimes.signal_stack import keep_signal_stack

__all__ = ["OpenVinoEngine", "native_floats"]

_LAYERS = "originalLayersNames"
_FLOATS = {"BF16": "bf16", "FP16": "f16"}


@functools.cache
def native_floats() -> tuple[str, ...]:
    """Of ``bf16`` and ``f16``, those that OpenVINO says this CPU computes in itself. Asked for another one, it
    widens it to float32 without a word, or emulates it, several times slower than float32. Empty where it is not
    installed."""
    try:
        import openvino
    except ImportError:
        return ()
    said = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for capability, name in _FLOATS.items() if capability in said)


class OpenVinoEngine:
    """An ONNX file or its bytes, compiled for the CPU by OpenVINO."""

    def __init__(self, model: Path | bytes, settings: SessionSettings) -> None:
        try:
            import openvino
        except ImportError as e:
            raise EngineError("OpenVINO is not installed", hint="pip install 'edgectl[openvino]'") from e
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": settings.threads,
            "INFERENCE_PRECISION_HINT": settings.precision_hint or "f32",
            "NUM_STREAMS": 1,
        }
        try:
            core = openvino.Core()
            with tempfile.TemporaryDirectory(prefix="edgectl-openvino-") as folder:
                graph = core.read_model(str(_as_file(model, Path(folder))))
                with keep_signal_stack():
                    compiled = core.compile_model(graph, "CPU", config)
                    self._request: Any = compiled.create_infer_request()
                    self._compiled: Any = compiled
        except Exception as e:
            raise EngineError(f"OpenVINO cannot open the model: {_said(e)}") from e
        self.runtime = f"openvino {openvino.__version__.split('-')[0]}"
        self.inputs = tuple(_spec(p) for p in compiled.inputs)
        self.outputs = tuple(_spec(p) for p in compiled.outputs)

    def run(self, feeds: Feeds) -> Outputs:
        if self._request is None:
            raise EngineError("the engine is closed")
        check_feeds(self.inputs, feeds)
        try:
            values = self._request.infer(dict(feeds))
        except Exception as e:
            raise EngineError(f"OpenVINO failed to run the model: {_said(e)}") from e
        # infer() returns views into the request's own memory, which the next run overwrites
        return {o.name: np.array(values[i]) for i, o in enumerate(self.outputs)}

    def layer_precisions(self) -> dict[str, str]:
        """Node of the ONNX file → what OpenVINO computes it in (``f32``, ``bf16``, ``u8`` …). One that makes an
        output of the graph goes by that output's name; one that it fused has the precision of the whole; one
        that it made something else of is not there."""
        found: dict[str, str] = {}
        for layer in self._compiled.get_runtime_model().get_ops():
            info = layer.get_rt_info()
            if _LAYERS in info and "runtimePrecision" in info:
                precision = info["runtimePrecision"].astype(str)
                found |= dict.fromkeys(info[_LAYERS].astype(str).split(","), precision)
        return found

    def close(self) -> None:
        self._request = self._compiled = None


def _as_file(model: Path | bytes, folder: Path) -> Path:
    """A file, as on a device: from bytes OpenVINO drops the inputs that nothing reads."""
    if isinstance(model, Path):
        return model
    path = folder / "model.onnx"
    path.write_bytes(model)
    return path


def _said(e: Exception) -> str:
    """What OpenVINO says, in one line, without the lines that name its own source files."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    own = [line for line in lines if ".cpp:" not in line and ".hpp:" not in line]
    return " ".join(own or lines)[:300] or type(e).__name__


def _spec(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
    return TensorSpec(name=_name(port), shape=shape, dtype=str(np.dtype(port.get_element_type().to_dtype())))


def _name(port: Any) -> str:
    """The ONNX name. A port may carry several (folding merges tensors); the result node is called
    ``<name>/sink_port_0``."""
    names: set[str] = port.get_names()
    own = str(port.node.friendly_name).rpartition("/sink_port_")[0]
    return own if own in names else str(port.get_any_name())
