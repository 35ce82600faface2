"""Build a model of several GiB and say what memory that took.

    python bench/big_model.py [--gib 3] [--folder FOLDER] [--profile cpu] [--minutes 5] [--runtimes onnxruntime]

Writes a transformer of seeded random weights (attention and two products a block, 2048 wide, one token) as
``model.onnx`` with its weights beside it, a tensor at a time, so that this takes little memory itself; then builds it as a
user would, and asks all processes of the build ten times a second how much they hold. Prints the peaks in MiB and as a
share of the model: the largest process, all of them together (pages of one file that two of them map count twice there), and
all together without counting anything twice (``Pss``, every two seconds). FOLDER is kept; without it everything is removed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

WIDTH, TOKENS = 2048, 1
SAMPLES = 12
_PERIOD_S = 0.1
_PSS_EVERY = 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=3.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--runtimes")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgectl-big-") as temporary:
        folder = a.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model.onnx"
        if not model.exists():
            write_model(folder, round(a.gib * 2**30 / (12 * WIDTH**2 * 4)))
        size = sum(p.stat().st_size for p in (model, folder / "weights.bin"))
        noise = np.random.default_rng(1).standard_normal((SAMPLES, 1, TOKENS, WIDTH), np.float32)
        np.savez(folder / "samples.npz", x=noise)
        out = Path(temporary) / "bundle"
        command = [sys.executable, "-m", "edgectl.cli", "build", str(model), "--task", "tensor"]
        command += ["--calibration", str(folder / "samples.npz"), "--profile", a.profile]
        command += ["--minutes", str(a.minutes), "--out", str(out), "--json"]
        command += [] if a.runtimes is None else ["--runtimes", a.runtimes]
        start = time.monotonic()
        with Watch(command) as watch:
            rc = watch.wait()
        mib = {k: v / 2**20 for k, v in watch.peaks.items()}
        print(
            json.dumps(
                {
                    "rc": rc,
                    "seconds": round(time.monotonic() - start),
                    "model_mib": round(size / 2**20),
                    "bundle_mib": round(sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 2**20),
                    **{f"{k}_mib": round(v) for k, v in mib.items()},
                    **{f"{k}_share": round(v * 2**20 / size, 3) for k, v in mib.items()},
                }
            )
        )
    return rc


class Watch:
    """A command, and the most that its processes held: the largest one, all together, and all together with what several
    of them map counted once."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch")
        self.peaks = {"largest": 0, "sum": 0, "sum_pss": 0}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def wait(self) -> int:
        return self._process.wait()

    def _look(self) -> None:
        root = psutil.Process(self._process.pid)
        turn = 0
        while not self._done.wait(_PERIOD_S):
            turn += 1
            try:
                processes = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            self._seen("largest", max(_status(p, "VmHWM") for p in processes))
            self._seen("sum", sum(_status(p, "VmRSS") for p in processes))
            if turn % _PSS_EVERY == 0:
                self._seen("sum_pss", sum(_pss(p) for p in processes))

    def _seen(self, what: str, held: int) -> None:
        self.peaks[what] = max(self.peaks[what], held)


def _status(p: psutil.Process, key: str) -> int:
    """Bytes; 0 of a process that has ended. ``VmHWM`` is the kernel's own peak: nothing is missed between two looks."""
    try:
        text = Path(f"/proc/{p.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{key}:")), 0)


def _pss(p: psutil.Process) -> int:
    """Bytes. Dear: the kernel walks all pages of the process."""
    try:
        lines = Path(f"/proc/{p.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def write_model(folder: Path, blocks: int) -> None:
    """``model.onnx`` and ``weights.bin``: that many blocks of 12 × 2048² weights each."""
    rng = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    with (folder / "weights.bin").open("wb") as file:

        def weight(name: str, inputs: int, outputs: int) -> str:
            values = rng.standard_normal((inputs, outputs), np.float32)
            values *= np.float32(inputs**-0.5)
            t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
            t.data_location = TensorProto.EXTERNAL
            for k, v in (("location", "weights.bin"), ("offset", file.tell()), ("length", values.nbytes)):
                t.external_data.add(key=k, value=str(v))
            tensors.append(t)
            file.write(values.data)
            return name

        x = "x"
        for i in range(blocks):
            made = list(_block(x, f"b{i}", weight, tensors))
            nodes += made
            x = made[-1].output[0]
    nodes.append(helper.make_node("Identity", [x], ["y"], name="out"))
    shape = (1, TOKENS, WIDTH)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "big", [value("x", 1, shape)], [value("y", 1, shape)], initializer=tensors
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _block(x: str, name: str, weight, tensors: list[TensorProto]) -> Iterator[NodeProto]:  # type: ignore[no-untyped-def]
    def small(key: str, values: NDArray[np.generic]) -> str:
        tensors.append(numpy_helper.from_array(values, f"{name}.{key}"))
        return f"{name}.{key}"

    def node(op: str, inputs: list[str], key: str, **attributes: object) -> NodeProto:
        return helper.make_node(op, inputs, [f"{name}.{key}.y"], name=f"{name}.{key}", **attributes)

    one, none = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    yield node("LayerNormalization", [x, small("g1", one), small("n1", none)], "norm1", axis=-1)
    for p in ("q", "k", "v"):
        yield node("MatMul", [f"{name}.norm1.y", weight(f"{name}.{p}.w", WIDTH, WIDTH)], p)
    yield node("Transpose", [f"{name}.k.y"], "kt", perm=[0, 2, 1])
    yield node("MatMul", [f"{name}.q.y", f"{name}.kt.y"], "qk")
    yield node("Mul", [f"{name}.qk.y", small("s", np.float32([WIDTH**-0.5]))], "scaled")
    yield node("Softmax", [f"{name}.scaled.y"], "softmax", axis=-1)
    yield node("MatMul", [f"{name}.softmax.y", f"{name}.v.y"], "mixed")
    yield node("MatMul", [f"{name}.mixed.y", weight(f"{name}.o.w", WIDTH, WIDTH)], "o")
    yield node("Add", [x, f"{name}.o.y"], "after")
    yield node(
        "LayerNormalization", [f"{name}.after.y", small("g2", one), small("n2", none)], "norm2", axis=-1
    )
    yield node("MatMul", [f"{name}.norm2.y", weight(f"{name}.up.w", WIDTH, 4 * WIDTH)], "up")
    yield node("Add", [f"{name}.up.y", small("b", np.zeros(4 * WIDTH, np.float32))], "up_bias")
    yield node("Relu", [f"{name}.up_bias.y"], "relu")
    yield node("MatMul", [f"{name}.relu.y", weight(f"{name}.down.w", 4 * WIDTH, WIDTH)], "down")
    yield node("Add", [f"{name}.after.y", f"{name}.down.y"], "sum")


if __name__ == "__main__":
    sys.exit(main())
