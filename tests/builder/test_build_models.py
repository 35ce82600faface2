"""Models out of the ordinary, through a whole build."""

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.builder.nets import Save, nms_net, residual_net

from edgectl.builder.build import build_bundle
from edgectl.core.bundle import (
    Bundle,
)
from edgectl.core.errors import (
    ModelError,
)
from edgectl.core.measured import Standing
from edgectl.core.task import DecodeSpec, ImageInput, TaskSpec, TensorInput
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine
from edgectl.pipelines.tasks import load_task

pytestmark = pytest.mark.slow

TENSOR = TaskSpec(name="tensor", input=TensorInput())


RUN = {"task": TENSOR, "validation": None, "minutes": 0.02, "version": "1.0.0"}


def test_a_graph_with_nms_inside_is_built_without_it(tmp_path: Path) -> None:
    boxes = TaskSpec(
        name="boxes",
        input=ImageInput(width=16, height=16),
        labels=("a", "b"),
        metric="detection",
        decode=DecodeSpec(kind="boxes-scores", score=0.05, box_unit="relative"),
    )
    model, pixels = nms_net(), np.random.default_rng(0).random((24, 3, 16, 16)).astype(np.float32)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "c.npz", image=pixels)
    report = build_bundle(
        tmp_path / "model.onnx",
        profiles=["cpu-arm64"],
        calibration=str(tmp_path / "c.npz"),
        out=tmp_path / "out",
        **{**RUN, "task": boxes},
    )
    assert any("cut off" in n for n in report.notes)
    for v in Bundle(tmp_path / "out").variants:
        assert [o.name for o in v.config.outputs] == ["boxes", v.config.task.decode.scores]
        assert v.config.task.decode.boxes == "boxes"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("file", "task", "data"),
    [
        ("fastestdet-352.onnx", "fastestdet", "media/one-by-one-person-detection.mp4"),
        ("kws-dscnn-mlperf-tiny.onnx", "keyword", "media/speech-60s.wav"),
        ("silero-vad-16k.onnx", "silero-vad", "media/speech-60s.wav"),
    ],
)
def test_real_models_build_for_this_machine(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, task: str, data: str
) -> None:
    monkeypatch.setattr("edgectl.builder.ingest.samples.MAX_SAMPLES", 48)  # still spread over the whole clip
    monkeypatch.setattr("edgectl.builder.int8.basis._EASY_DB", 10.0)  # no equalisation: test_escalate has it
    report = build_bundle(
        shared / "models" / file,
        profiles=["cpu"],
        task=load_task(task),
        calibration=str(shared / data),
        out=tmp_path / "out",
        max_drop=0.1,
        minutes=0.02,
    )
    bundle = Bundle(tmp_path / "out")
    bundle.verify()
    for v in bundle.variants:
        with contextlib.closing(open_engine(v, cache=tmp_path / "cache")) as engine:
            check_golden(engine, v)
    for s in report.variants:
        assert s.drop is not None
        assert s.drop <= 0.1
        if s.precision != "float32" and s.standing is not Standing.UNDECIDED:
            assert s.ratio_to_float is not None
            assert s.ratio_to_float < 1 / 1.02
    # on a machine that is too busy to tell, float ships first
    first = report.variants[0]
    assert first.precision == "float32" or first.standing is not Standing.UNDECIDED


def test_a_float16_model_is_quantized_like_any_other_and_competes_as_it_came(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    model = residual_net(channels=32)
    for t in model.graph.initializer:
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float16), t.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del model.graph.value_info[:]
    # time enough on a busy machine, too: what is not judged in time does not compete
    run = {**RUN, "minutes": 0.5}
    report = build_bundle(save(model), profiles=["cpu"], calibration=str(npz), out=tmp_path / "out", **run)
    (outcomes,) = report.candidates.values()
    graphs = {o.candidate.graph.recipe: o for o in outcomes}
    assert {"float", "as-received-float16"} < graphs.keys()
    assert any(o.candidate.graph.precision == "int8" for o in outcomes)
    assert graphs["as-received-float16"].measured is not None
    assert any("widened to float32" in note for note in report.notes)


def test_sizes_come_from_the_samples_or_from_the_user(save: Save, npz: Path, tmp_path: Path) -> None:
    model = residual_net()
    for axis, symbol in ((0, "N"), (2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = symbol
    model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    path = save(model)
    build_bundle(path, profiles=["cpu"], calibration=str(npz), out=tmp_path / "data", **RUN)
    build_bundle(
        path,
        profiles=["cpu"],
        calibration=None,
        random_calibration=True,
        shapes={"image": (1, 3, 32, 32)},
        out=tmp_path / "user",
        **RUN,
    )
    for out in ("data", "user"):
        assert {v.config.inputs[0].shape for v in Bundle(tmp_path / out).variants} == {(1, 3, 32, 32)}
    with pytest.raises(ModelError, match="size of input image open: 1 × 3 × H × W"):
        build_bundle(
            path, profiles=["cpu"], calibration=None, random_calibration=True, out=tmp_path / "none", **RUN
        )


def test_a_background_class_is_found_on_the_calibration_pictures(save: Save, tmp_path: Path) -> None:
    """64 boxes, softmax over background and two classes, and a bias that makes most of them background."""
    rng = np.random.default_rng(0)
    weights = {
        "wb": rng.standard_normal((4, 3, 2, 2)),
        "ws": rng.standard_normal((3, 3, 2, 2)) * 0.3,
        "bs": np.asarray([4.0, 0.0, 0.0]),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["image", "wb"], ["cb"], name="boxes", strides=[2, 2]),
        onnx.helper.make_node("Flatten", ["cb"], ["fb"], name="flat", axis=2),
        onnx.helper.make_node("Transpose", ["cb"], ["tb"], name="turn", perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Reshape", ["tb", "four"], ["b"], name="list"),
        onnx.helper.make_node("Conv", ["image", "ws", "bs"], ["cs"], name="scores", strides=[2, 2]),
        onnx.helper.make_node("Transpose", ["cs"], ["ts"], name="turn_scores", perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Reshape", ["ts", "three"], ["rs"], name="list_scores"),
        onnx.helper.make_node("Softmax", ["rs"], ["s"], name="softmax", axis=2),
    ]
    constants = [onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    constants += [
        onnx.numpy_helper.from_array(np.asarray([1, -1, k]), n) for n, k in (("four", 4), ("three", 3))
    ]
    graph = onnx.helper.make_graph(
        [n for n in nodes if n.name != "flat"],
        "ssd",
        [onnx.helper.make_tensor_value_info("image", 1, [1, 3, 16, 16])],
        [
            onnx.helper.make_tensor_value_info("b", 1, [1, 64, 4]),
            onnx.helper.make_tensor_value_info("s", 1, [1, 64, 3]),
        ],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    np.savez(tmp_path / "c.npz", image=rng.random((16, 3, 16, 16)).astype(np.float32))
    task = TaskSpec(
        name="ssd",
        input=ImageInput(width=16, height=16),
        decode=DecodeSpec(kind="boxes-scores"),
        labels=("a", "b"),
    )
    report = build_bundle(
        save(model),
        profiles=["cpu"],
        calibration=str(tmp_path / "c.npz"),
        out=tmp_path / "out",
        **{**RUN, "task": task},
    )
    assert {v.config.task.decode.background for v in Bundle(tmp_path / "out").variants} == {"first"}
    assert any("background class" in note for note in report.notes)


def test_an_output_whose_size_depends_on_the_data_ships_as_float_and_says_why(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    model = residual_net()
    model.graph.node.append(onnx.helper.make_node("NonZero", ["out"], ["places"], name="places"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("places", onnx.TensorProto.INT64, [4, "n"]))
    report = build_bundle(
        save(model), profiles=["cpu-arm64"], calibration=str(npz), out=tmp_path / "out", **RUN
    )
    assert {v.precision for v in report.variants} == {"float32"}
    assert any("output places has a size that depends on the data" in note for note in report.notes)


def test_a_graph_with_an_output_of_strings_gets_no_tensorrt_variant(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    model = residual_net()
    model.graph.node.append(
        onnx.helper.make_node("Cast", ["out"], ["text"], name="say", to=onnx.TensorProto.STRING)
    )
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("text", onnx.TensorProto.STRING, [1, 8, 16, 16])
    )
    report = build_bundle(
        save(model), profiles=["jetson-orin"], calibration=str(npz), out=tmp_path / "out", **RUN
    )
    assert {v.runtime for v in report.variants} == {"onnxruntime"}
    assert any("TensorRT does not take the output text" in note for note in report.notes)
    for variant in Bundle(tmp_path / "out").variants:
        assert [o.name for o in variant.config.outputs] == ["out"]
        with contextlib.closing(open_engine(variant)) as engine:
            check_golden(engine, variant)


def test_an_output_that_is_all_rounding_may_round_differently_on_the_device(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    """A convolution with its batch norm less the same convolution with the norm folded in by hand."""
    rng = np.random.default_rng(0)
    w, gain, shift = (rng.standard_normal(s).astype(np.float32) for s in ((8, 3, 3, 3), (8,), (8,)))
    gain = np.abs(gain) + np.float32(0.5)
    constants = {
        "w": w,
        "gain": gain,
        "shift": shift,
        "mean": np.zeros(8, np.float32),
        "var": np.full(8, 1 - 1e-5, np.float32),
        "w2": w * gain[:, None, None, None],
    }
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w"], ["c"], name="conv"),
        onnx.helper.make_node(
            "BatchNormalization", ["c", "gain", "shift", "mean", "var"], ["n"], name="norm"
        ),
        onnx.helper.make_node("Conv", ["image", "w2", "shift"], ["m"], name="folded"),
        onnx.helper.make_node("Sub", ["n", "m"], ["d"], name="difference"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(n, 1, s)
        for n, s in (("image", [1, 3, 32, 32]), ("n", [1, 8, 30, 30]), ("d", [1, 8, 30, 30]))
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "nought",
        ends[:1],
        ends[1:],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    build_bundle(save(model), profiles=["cpu"], calibration=str(npz), out=tmp_path / "out", **RUN)
    for variant in Bundle(tmp_path / "out").variants:
        if variant.config.recipe.precision == "float32":
            tolerances = variant.config.golden.tolerances
            assert tolerances["d"].cosine == 0
            assert 1e-7 < tolerances["d"].max_abs < 1e-4
            assert tolerances["n"].cosine > 0.999
