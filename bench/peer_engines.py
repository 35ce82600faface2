"""Runtimes that edgectl does not ship, behind its Engine: MNN, ncnn and LiteRT, one thread, float32.

    pip install MNN ncnn pnnx ai-edge-litert       # beside edgectl[dev]

``mnnconvert`` and ``pnnx`` convert in a folder of their own, without a package index: left to itself the one
installs a logging client, the other PyTorch's. What a converter writes may end the process that opens it
(ncnn on a layer that it does not know), so each is opened and run once in a child first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgectl.core.bundle import TensorSpec
from edgectl.engines.base import Engine, Feeds, Outputs

__all__ = ["PEERS", "open_peer"]

Specs = tuple[TensorSpec, ...]
_CONVERT_S = 300


class _Peer:
    def __init__(self, inputs: Specs, outputs: Specs, runtime: str) -> None:
        self.inputs, self.outputs, self.runtime = inputs, outputs, runtime

    def close(self) -> None:
        pass


class _Mnn(_Peer):
    def __init__(self, folder: Path, inputs: Specs, outputs: Specs) -> None:
        import MNN

        super().__init__(inputs, outputs, f"mnn {MNN.version()}")
        runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": 1, "precision": "high"},))
        self._net = MNN.nn.load_module_from_file(
            str(folder / "model.mnn"),
            [i.name for i in inputs],
            [o.name for o in outputs],
            runtime_manager=runtime,
            shape_mutable=False,
        )
        self._expr = MNN.expr

    def run(self, feeds: Feeds) -> Outputs:
        expr = self._expr
        types = {np.dtype(np.float32): expr.float, np.dtype(np.int32): expr.int}
        given = []
        for spec in self.inputs:
            array = np.ascontiguousarray(feeds[spec.name])
            given.append(expr.const(array, list(array.shape), expr.NCHW, types[array.dtype]))
        answers = self._net.forward(given)
        return {
            spec.name: np.array(expr.convert(a, expr.NCHW).read()).reshape(spec.shape)
            for spec, a in zip(self.outputs, answers, strict=True)
        }


class _Ncnn(_Peer):
    """Its graphs have no batch, and name inputs and outputs by their number."""

    def __init__(self, folder: Path, inputs: Specs, outputs: Specs) -> None:
        import ncnn

        super().__init__(inputs, outputs, f"ncnn {ncnn.__version__}")
        self._ncnn = ncnn
        self._net = ncnn.Net()
        option = self._net.opt
        option.num_threads = 1
        option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
        option.use_bf16_storage = False
        if self._net.load_param(str(folder / "model.ncnn.param")) or self._net.load_model(
            str(folder / "model.ncnn.bin")
        ):
            raise RuntimeError("ncnn cannot load what pnnx wrote")

    def run(self, feeds: Feeds) -> Outputs:
        extractor = self._net.create_extractor()
        for i, spec in enumerate(self.inputs):
            extractor.input(f"in{i}", self._ncnn.Mat(np.ascontiguousarray(feeds[spec.name][0])))
        answers = {}
        for i, spec in enumerate(self.outputs):
            failed, value = extractor.extract(f"out{i}")
            if failed:
                raise RuntimeError(f"ncnn: out{i} fails with {failed}")
            answers[spec.name] = np.array(value).reshape(spec.shape)
        return answers


class _LiteRt(_Peer):
    """With XNNPACK, its default. Pictures are NHWC there."""

    def __init__(self, folder: Path, inputs: Specs, outputs: Specs) -> None:
        from ai_edge_litert import __version__
        from ai_edge_litert.interpreter import Interpreter

        super().__init__(inputs, outputs, f"litert {__version__}")
        self._interpreter = Interpreter(str(folder / "model.tflite"), num_threads=1)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        self._answers = self._interpreter.get_output_details()

    def run(self, feeds: Feeds) -> Outputs:
        array: NDArray[Any] = feeds[self.inputs[0].name]
        if array.shape != tuple(self._input["shape"]):
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        self._interpreter.set_tensor(self._input["index"], array)
        self._interpreter.invoke()
        return {
            spec.name: self._interpreter.get_tensor(a["index"]).reshape(spec.shape)
            for spec, a in zip(self.outputs, self._answers, strict=True)
        }


def _to_mnn(source: Path, folder: Path) -> None:
    _convert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn"], source, folder
    )


def _to_ncnn(source: Path, folder: Path) -> None:
    _convert(["pnnx", "model.onnx", "fp16=0"], source, folder)


def _beside(source: Path, folder: Path) -> None:
    """LiteRT gets the model's own TFLite file: from ONNX no converter of its makers leads there."""
    theirs = list(source.parent.glob("*.tflite"))
    if len(theirs) != 1:
        raise RuntimeError("no TFLite file of this model")
    shutil.copy(theirs[0], folder / "model.tflite")


PEERS: dict[str, tuple[Callable[[Path, Path], None], type[_Peer]]] = {
    "mnn": (_to_mnn, _Mnn),
    "ncnn": (_to_ncnn, _Ncnn),
    "litert": (_beside, _LiteRt),
}


def open_peer(name: str, source: Path, folder: Path) -> Engine:
    """The float ONNX file ``source``, converted into ``folder`` (made here) and opened by the peer ``name``.

    Raises RuntimeError with the peer's last line where it does not convert, open or run.
    """
    folder.mkdir()
    PEERS[name][0](source, folder)
    tried = subprocess.run(
        [sys.executable, __file__, name, str(source), str(folder)],
        capture_output=True,
        text=True,
        timeout=_CONVERT_S,
    )
    if tried.returncode:
        raise RuntimeError(f"does not run: {_last(tried.stdout + tried.stderr) or tried.returncode}")
    return _open(name, source, folder)


def _open(name: str, source: Path, folder: Path) -> Engine:
    graph = onnx.load(source).graph
    inputs, outputs = (tuple(_spec(v) for v in side) for side in (graph.input, graph.output))
    return PEERS[name][1](folder, inputs, outputs)  # type: ignore[call-arg, arg-type]


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(d.dim_value for d in kind.shape.dim))


def _convert(command: list[str], source: Path, folder: Path) -> None:
    shutil.copy(source, folder / "model.onnx")
    tool = Path(sys.executable).with_name(command[0])
    if not tool.exists():
        raise RuntimeError(f"{command[0]} is not installed")
    done = subprocess.run(
        [str(tool), *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_CONVERT_S,
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"does not convert: {_last(done.stdout + done.stderr) or done.returncode}")


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""


def _try(name: str, source: Path, folder: Path) -> None:
    engine = _open(name, source, folder)
    engine.run({s.name: np.zeros(s.shape, s.dtype) for s in engine.inputs})


if __name__ == "__main__":
    _try(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
