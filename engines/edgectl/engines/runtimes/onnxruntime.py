"""ONNX Runtime: the CPU engine everywhere, and the CUDA one where the settings ask for it.

Threads are explicit, spinning is off unless the settings ask for it, execution is sequential. A Q/DQ model
needs full graph optimisation (at a lower level its int8 kernels are not formed: 4 × slower), so that is the
default.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import EngineError
from edgectl.engines.base import Feeds, Outputs, check_feeds

__all__ = ["OnnxRuntimeEngine"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
}
# It quantizes, per tensor, the weights of convolutions that a recipe keeps float because they are sensitive:
# 7 dB lost on FastestDet. The other moves a QuantizeLinear up through float pooling, whose 8 bit kernel is 20
# × slower there: 2.5 ms of FastestDet's 4.5 ms.
_NOT_WANTED = ["WeightBiasQuantization", "QDQPropagationTransformer"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeEngine:
    """An ONNX file or its bytes, opened in ONNX Runtime.

    Its outputs are those of the graph that are tensors of numbers; strings, sequences and maps are left in
    the runtime.
    """

    def __init__(
        self, model: Path | bytes, settings: SessionSettings, *, save_optimised: Path | None = None
    ) -> None:
        """Open a model. ``save_optimised``: where ONNX Runtime writes the graph it made of it
        (machine-specific).

        Raises :class:`EngineError` for whatever the runtime has against it.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = settings.arena
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if settings.optimization == "all" else level.ORT_DISABLE_ALL
        )
        options.log_severity_level = 3  # errors; they are raised as exceptions anyway
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
        # between runs: half of the CPU time, or more
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if save_optimised is not None:
            options.optimized_model_filepath = str(save_optimised)
        provider = _PROVIDERS[settings.provider]
        if provider not in ort.get_available_providers():
            raise EngineError(
                f"this ONNX Runtime ({ort.__version__}) has no {provider}",
                hint="on a machine with an NVIDIA GPU: pip uninstall onnxruntime, then pip install 'edgectl[gpu]'; else take a variant for the CPU",
            )
        if settings.provider == "cuda":
            # Nodes without a CUDA kernel (shape arithmetic) may run on the CPU; the check below refuses a
            # quiet full fallback.
            providers = [provider, _PROVIDERS["cpu"]]
        else:
            providers = [provider]
        try:
            self._session: Any = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                sess_options=options,
                providers=providers,
                disabled_optimizers=_NOT_WANTED,
            )
        except Exception as e:  # the binding raises a dozen unrelated types
            raise EngineError(
                f"ONNX Runtime {ort.__version__} cannot open the model: {_first_line(e)}"
            ) from e
        if provider not in self._session.get_providers():
            raise EngineError(
                f"ONNX Runtime fell back from {provider} to the CPU",
                hint="check the CUDA and cuDNN libraries of this machine",
            )
        self.runtime = f"onnxruntime {ort.__version__}"
        self.inputs = tuple(_spec(v) for v in self._session.get_inputs())
        self.outputs = tuple(_spec(v) for v in self._session.get_outputs() if v.type in _DTYPES)
        if not self.outputs:
            kinds = ", ".join(f"{v.name} ({v.type})" for v in self._session.get_outputs())
            raise EngineError(
                f"the model has no output that is a tensor of numbers: {kinds}", hint="export it with one"
            )
        self._names = [o.name for o in self.outputs]

    def run(self, feeds: Feeds) -> Outputs:
        if self._session is None:
            raise EngineError("the engine is closed")
        check_feeds(self.inputs, feeds)
        try:
            values = self._session.run(self._names, dict(feeds))
        except Exception as e:
            raise EngineError(f"ONNX Runtime failed to run the model: {_first_line(e)}") from e
        # up to 1.23 at least, an output that is an input of the graph is the caller's own array
        return {n: v.copy() if n in feeds else v for n, v in zip(self._names, values, strict=True)}

    def close(self) -> None:
        self._session = None


def _spec(value: Any) -> TensorSpec:
    """A dimension that the graph leaves open is -1: it is not checked."""
    shape = tuple(d if isinstance(d, int) else -1 for d in value.shape)
    return TensorSpec(name=value.name, shape=shape, dtype=_DTYPES.get(value.type, value.type))


def _first_line(e: Exception) -> str:
    """What ONNX Runtime says, without its status prefix and the place in its own sources."""
    text = (str(e).strip() or type(e).__name__).splitlines()[0]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"\S*/onnxruntime_src/\S+ .*?\) ", "", text)[:300]
