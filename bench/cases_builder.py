"""The rows and points of the page about models that cannot be built, each tried with ``edgectl build`` as
a user would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from cases_common import Check, Outcome, Place, Run
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.core.bundle import LAYER_ENGINE, Bundle, Variant
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine
from edgectl.engines.finalise.rtx import accept, has_compiler

__all__ = ["CHECKS"]

_MINUTES = ("--minutes", "0.05")


def _built(
    place: Place,
    model: Path,
    *options: object,
    calibration: Path | None = None,
    profile: str = "cpu,jetson-orin",
) -> Run:
    """``edgectl build`` into ``place.out/bundle``, calibrated on 48 samples of noise unless the options
    say otherwise."""
    random = "--random-calibration" in options
    data = () if random else ("--calibration", calibration or _noise(place, x=(3, 32, 32)))
    task = () if "--task" in options else ("--task", "tensor")
    return place.edgectl(
        "build",
        model,
        "--profile",
        profile,
        *task,
        *data,
        *_MINUTES,
        "--out",
        place.out / "bundle",
        *options,
        "--json",
        timeout_s=900,
    )


def _noise(place: Place, **shapes: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(0)
    path = place.out / "noise.npz"
    np.savez(path, **{n: rng.standard_normal((48, *s)).astype(np.float32) for n, s in shapes.items()})
    return path


def _variants(place: Place) -> dict[str, Variant]:
    return {f"{v.config.profile}/{v.config.variant}": v for v in Bundle(place.out / "bundle").variants}


def _whole(place: Place, run: Run, *, outputs: set[str] | None = None) -> Outcome:
    """Whether a build gave a bundle whose engines are valid, put out what they must, and reproduce their
    golden outputs here."""
    if run.code or run.traceback:
        return Outcome(False, f"rc {run.code}: {run.last_words}")
    variants = _variants(place)
    for name, v in variants.items():
        model = _engine(v)
        onnx.checker.check_model(model)
        if outputs is not None and {o.name for o in model.graph.output} != outputs:
            return Outcome(False, f"{name} puts out {', '.join(o.name for o in model.graph.output)}")
        if v.config.runtime == "onnxruntime":
            engine = open_engine(v)
            check_golden(engine, v)
            engine.close()
    return Outcome(True, f"{len(variants)} variants: {', '.join(variants)}")


def _engine(v: Variant) -> ModelProto:
    return onnx.load_from_string(v.need(LAYER_ENGINE).read_bytes())


def _tried_in_int8(run: Run) -> bool:
    return any(
        o["candidate"]["graph"]["precision"] == "int8"
        for outcomes in run.json()["candidates"].values()
        for o in outcomes
    )


def _file(name: str, *options: object, int8: bool = False, outputs: set[str] | None = None) -> Check:
    """The row of a file that must build; ``int8``: and be tried in int8 on this machine."""

    def check(place: Place) -> Outcome:
        run = _built(place, place.cases / "onnx" / name, *options)
        outcome = _whole(place, run, outputs=outputs)
        if outcome.held and int8 and not _tried_in_int8(run):
            return Outcome(False, "int8 was never tried")
        return outcome

    return check


def _float16(place: Place) -> Outcome:
    run = _built(place, place.cases / "onnx" / "float16-model.onnx")
    outcome = _whole(place, run)
    if not outcome.held:
        return outcome
    precisions = {
        o["candidate"]["graph"]["precision"]
        for outcomes in run.json()["candidates"].values()
        for o in outcomes
    }
    return Outcome(
        precisions == {"float32", "float16", "int8"},
        f"candidates in {', '.join(sorted(precisions))}; {outcome.figure}",
    )


def _dynamic(place: Place) -> Outcome:
    """From the data, from ``--shape``, and what is said with neither."""
    model = place.cases / "onnx" / "dynamic-sizes.onnx"
    from_data = _whole(place, _built(place, model))
    if not from_data.held:
        return from_data
    said = place.edgectl(
        "build",
        model,
        "-p",
        "cpu",
        "-t",
        "tensor",
        "--random-calibration",
        *_MINUTES,
        "-o",
        place.out / "none",
    )
    shape = ("--shape", "x=1,3,32,32")
    run = place.edgectl(
        "build",
        model,
        "-p",
        "cpu",
        "-t",
        "tensor",
        "--random-calibration",
        *_MINUTES,
        *shape,
        "-o",
        place.out / "given",
    )
    held = (
        run.code == 0
        and said.code == 3
        and not said.traceback
        and "input x" in said.err
        and "--shape x=" in said.err
    )
    return Outcome(held, f"data: rc 0; --shape: rc {run.code}; neither: {' '.join(said.err.split())[-200:]}")


def _string(place: Place) -> Outcome:
    run = _built(place, place.cases / "onnx" / "string-output.onnx")
    return Outcome(
        run.code in (0, 3) and not run.traceback and (run.code == 0 or "y" in run.err),
        f"rc {run.code}: {run.last_words}",
    )


def _compiled(place: Place, outcome: Outcome) -> Outcome:
    """What NVIDIA's compiler says to each TensorRT-bound graph, where it is installed."""
    if not outcome.held or not has_compiler():
        return Outcome(
            outcome.held, f"{outcome.figure}; not compiled here: tensorrt-rtx-cu12 is not installed"
        )
    bound = {n: v for n, v in _variants(place).items() if v.config.runtime == "tensorrt"}
    verdicts = {n: accept(v.need(LAYER_ENGINE)) for n, v in bound.items()}
    refused = {n: v.told() for n, v in verdicts.items() if not v.accepted}
    figure = f"{len(bound) - len(refused)} of {len(bound)} TensorRT-bound graphs accepted by NVIDIA's compiler for SM 8.6"
    return Outcome(
        not refused and bool(bound), "; ".join([figure, *(f"{n}: {w[:120]}" for n, w in refused.items())])
    )


def _twinlitenet(place: Place) -> Outcome:
    model = place.cases.parent / "models" / "twinlitenet-360x640.onnx"
    return _compiled(
        place, _whole(place, _built(place, model, "--random-calibration", profile="jetson-orin"))
    )


def _lstm(place: Place) -> Outcome:
    """Two layers as PyTorch writes them: Transpose, LSTM, Squeeze, LSTM, Squeeze, Transpose, Gather, Gemm."""
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (1, 128, 24),
        "r1": (1, 128, 32),
        "b1": (1, 256),
        "w2": (1, 128, 32),
        "r2": (1, 128, 32),
        "b2": (1, 256),
        "wf": (8, 32),
    }
    weights = [
        numpy_helper.from_array((0.2 * rng.standard_normal(s)).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    weights += [
        numpy_helper.from_array(np.asarray([1]), "one"),
        numpy_helper.from_array(np.asarray(-1), "last"),
    ]
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["t"], name="/l/Transpose", perm=[1, 0, 2]),
        node("LSTM", ["t", "w1", "r1", "b1"], ["h1"], name="/l/LSTM", hidden_size=32),
        node("Squeeze", ["h1", "one"], ["s1"], name="/l/Squeeze"),
        node("LSTM", ["s1", "w2", "r2", "b2"], ["h2"], name="/l/LSTM_1", hidden_size=32),
        node("Squeeze", ["h2", "one"], ["s2"], name="/l/Squeeze_1"),
        node("Transpose", ["s2"], ["u"], name="/l/Transpose_1", perm=[1, 0, 2]),
        node("Gather", ["u", "last"], ["g"], name="/Gather", axis=1),
        node("Gemm", ["g", "wf"], ["y"], name="/f/Gemm", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 20, 24]), ("y", [1, 8]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "lstm", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, place.out / "lstm.onnx")
    run = _built(place, place.out / "lstm.onnx", calibration=_noise(place, x=(20, 24)), profile="jetson-orin")
    outcome = _compiled(place, _whole(place, run))
    kinds = {v.config.recipe.precision for v in _variants(place).values()} if run.code == 0 else set()
    return Outcome(outcome.held and "float16" in kinds, outcome.figure)


def _named_task(place: Place) -> Outcome:
    """YOLOX for 416 × 416 under the named task, whose own size is 640 × 640."""
    model = place.cases.parent / "models" / "yolox-nano-416.onnx"
    run = _built(place, model, "--task", "yolox", "--random-calibration", profile="jetson-orin")
    if run.code:
        return Outcome(False, f"rc {run.code}: {run.last_words}")
    sizes = {
        json.dumps(v.config.task.input.model_dump(include={"width", "height"}))
        for v in _variants(place).values()
    }
    return Outcome(sizes == {'{"width": 416, "height": 416}'}, f"the bundle's task takes {', '.join(sizes)}")


def _background(place: Place) -> Outcome:
    """A detector that scores background and two classes, softmax, with labels for the two."""
    rng = np.random.default_rng(0)
    weights = {
        "wb": rng.standard_normal((4, 3, 2, 2)),
        "ws": rng.standard_normal((3, 3, 2, 2)),
        "bs": np.asarray([6.0, 0.0, 0.0]),
    }
    constants = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    constants += [numpy_helper.from_array(np.asarray([1, -1, k]), n) for n, k in (("four", 4), ("three", 3))]
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "wb"], ["cb"], name="boxes", strides=[2, 2]),
        node("Transpose", ["cb"], ["tb"], name="turn", perm=[0, 2, 3, 1]),
        node("Reshape", ["tb", "four"], ["b"], name="list"),
        node("Conv", ["x", "ws", "bs"], ["cs"], name="scores", strides=[2, 2]),
        node("Transpose", ["cs"], ["ts"], name="turn_scores", perm=[0, 2, 3, 1]),
        node("Reshape", ["ts", "three"], ["rs"], name="list_scores"),
        node("Softmax", ["rs"], ["s"], name="softmax", axis=2),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [1, 3, 64, 64]), ("b", [1, 1024, 4]), ("s", [1, 1024, 3]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "ssd", ends[:1], ends[1:], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, place.out / "ssd.onnx")
    (place.out / "ssd.toml").write_text(
        'name = "ssd"\nlabels = ["car", "person"]\nmetric = "detection"\n[input]\nkind = "image"\nwidth = 64\nheight = 64\n[decode]\nkind = "boxes-scores"\n'
    )
    rng_pictures = np.random.default_rng(1).random((48, 3, 64, 64)).astype(np.float32)
    np.savez(place.out / "pictures.npz", x=rng_pictures)
    run = _built(
        place,
        place.out / "ssd.onnx",
        "--task",
        place.out / "ssd.toml",
        calibration=place.out / "pictures.npz",
        profile="cpu",
    )
    if run.code:
        return Outcome(False, f"rc {run.code}: {run.last_words}")
    ends_found = {v.config.task.decode.background for v in _variants(place).values()}
    return Outcome(ends_found == {"first"}, f"background = {', '.join(ends_found)}; {run.json()['notes'][0]}")


def _near_nought(place: Place) -> Outcome:
    """A second output that is the difference of two equal things, computed by a convolution with and
    without its batch norm folded."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((16, 3, 3, 3)) * 0.3,
        "scale": rng.random(16) + 0.5,
        "shift": rng.standard_normal(16),
        "mean": rng.standard_normal(16),
        "var": rng.random(16) + 0.5,
    }
    w = {n: v.astype(np.float32) for n, v in weights.items()}
    gain = w["scale"] / np.sqrt(w["var"] + np.float32(1e-5))
    w |= {
        "w2": w["w"] * gain[:, None, None, None],
        "b2": w["shift"] - w["mean"] * gain,
        "wh": (rng.standard_normal((8, 16, 1, 1)) * 0.3).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], name="norm"),
        node("Conv", ["x", "w2", "b2"], ["m"], name="folded"),
        node("Sub", ["n", "m"], ["d"], name="sub"),
        node("Conv", ["n", "wh"], ["y"], name="head"),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [1, 3, 32, 32]), ("y", [1, 8, 30, 30]), ("d", [1, 16, 30, 30]))
    ]
    graph = helper.make_graph(
        nodes, "nought", ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in w.items()]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        place.out / "nought.onnx",
    )
    return _whole(place, _built(place, place.out / "nought.onnx", profile="cpu"), outputs={"y", "d"})


def _quantized(place: Place) -> Outcome:
    """An int8 engine of a bundle, given as the model."""
    first = _built(place, place.cases / "onnx" / "inner-relu-is-output-too.onnx", profile="jetson-orin")
    if first.code:
        return Outcome(False, f"rc {first.code}: {first.last_words}")
    int8 = next(
        v
        for v in _variants(place).values()
        if v.config.recipe.precision == "int8" and v.config.runtime == "onnxruntime"
    )
    (place.out / "int8.onnx").write_bytes(int8.need(LAYER_ENGINE).read_bytes())
    run = place.edgectl(
        "build",
        place.out / "int8.onnx",
        "-p",
        "cpu",
        "-t",
        "tensor",
        "-c",
        _noise(place, x=(3, 32, 32)),
        *_MINUTES,
        "-o",
        place.out / "again",
        "--json",
    )
    if run.code:
        return Outcome(False, f"rc {run.code}: {run.last_words}")
    shipped = {(v["variant"], v["precision"]) for v in run.json()["variants"]}
    return Outcome(
        all(p == "int8" and "float32" not in n for n, p in shipped),
        f"{sorted(shipped)}; {run.json()['notes'][0]}",
    )


CHECKS: dict[str, Check] = {
    "`output-is-conv-relu.onnx`": _file("output-is-conv-relu.onnx", outputs={"y"}),
    "`inner-relu-is-output-too.onnx`": _file("inner-relu-is-output-too.onnx", outputs={"y", "t2"}, int8=True),
    "`float16-model.onnx`": _float16,
    "`local-function.onnx`": _file("local-function.onnx", int8=True),
    "`dynamic-sizes.onnx`": _dynamic,
    "`duplicate-node-names.onnx`": _file("duplicate-node-names.onnx", int8=True),
    "`sparse-initializer.onnx`": _file("sparse-initializer.onnx", int8=True),
    "`../models/twinlitenet-360x640.onnx`, `--task tensor --random-calibration --profile jetson-orin`": _twinlitenet,
    "any two-layer LSTM from PyTorch, `jetson-orin`": _lstm,
    "`string-output.onnx`": _string,
    "a named task takes the size of the model": _named_task,
    "a background class is no detection": _background,
    "an output near nought, changed by rounding": _near_nought,
    "a model that came in int8 is called that": _quantized,
}
