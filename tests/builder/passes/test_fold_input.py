"""Pixels in, the same outputs out: every way a task can normalise, float and int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from support.builder.nets import residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.pixels import PixelFed, pixels_of
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.passes.fold_input import FoldInput, folded_spec
from edgectl.builder.variants.fold_gain import fold_if_faster
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.core.task import ImageInput
from edgectl.engines.finalise.golden import measure
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine
from edgectl.pipelines.video.preprocess import Preprocessor

PLAIN = ImageInput(width=32, height=32)
IMAGENET = ImageInput(width=32, height=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SYMMETRIC = ImageInput(width=32, height=32, color="bgr", scale=1.0, mean=(127.5,) * 3, std=(127.5,) * 3)


def pictures(count: int = 6) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(5)
    made = [rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(count)]
    for p in made:
        p[0, 0], p[0, 1] = 255, 0  # white and black are seen
    return made


def run(model: ModelProto, tensor: NDArray[np.generic]) -> NDArray[np.float32]:
    onnx.checker.check_model(model, full_check=True)
    engine = OnnxRuntimeEngine(model.SerializeToString(), SessionSettings(optimization="disabled"))
    return np.asarray(engine.run({"image": tensor})["out"])


def folded(model: ModelProto, spec: ImageInput) -> ModelProto:
    step = FoldInput(spec)
    step.requires(model)
    made, changed = step.run(model)
    assert changed
    step.ensures(made)
    return made


@pytest.mark.parametrize("spec", [PLAIN, IMAGENET, SYMMETRIC])
def test_a_float_graph_gives_the_same_outputs_from_pixels(spec: ImageInput) -> None:
    model = residual_net()
    inside = folded(model, spec)
    assert folded_spec(spec).dtype == "uint8"
    for picture in pictures():
        a = run(model, Preprocessor(spec)(picture)[0])
        b = run(inside, Preprocessor(folded_spec(spec))(picture)[0])
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("spec", "free"), [(PLAIN, True), (IMAGENET, False), (SYMMETRIC, False)])
def test_an_int8_graph_reads_the_pixels_as_codes_where_they_are_codes(spec: ImageInput, free: bool) -> None:
    model = residual_net()
    feeds = [{"image": Preprocessor(spec)(p)[0].copy()} for p in pictures()]
    q = quantize(model, calibrate(model, feeds, data_digest="sha256:" + "0" * 64), FAMILIES["x86-vnni"]).model
    inside = folded(q, spec)
    index = GraphIndex(inside)
    first = next(n for n in index.nodes if n.name == "first")
    front = index.producer[first.input[0]]
    assert front.op_type == "DequantizeLinear"
    assert (index.producer[front.input[0]].op_type == "Transpose") == free
    a = run(q, feeds[0]["image"])
    b = run(inside, Preprocessor(folded_spec(spec))(pictures()[0])[0])
    # its pixels lie half-way between codes: some round the other way
    if spec is SYMMETRIC:
        assert measure(a.ravel().astype(float), b.ravel().astype(float)).cosine > 0.99
    else:
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-3)


def test_a_scale_that_is_not_the_pixels_own_is_kept() -> None:
    model = residual_net()
    dark = [{"image": Preprocessor(PLAIN)(p // 3)[0].copy()} for p in pictures()]
    q = quantize(model, calibrate(model, dark, data_digest="sha256:" + "0" * 64), FAMILIES["x86-vnni"]).model
    index = GraphIndex(folded(q, PLAIN))
    assert any(n.op_type == "Cast" for n in index.nodes)
    assert any(n.op_type == "QuantizeLinear" and n.input[0] == "image_value" for n in index.nodes)


def test_a_graph_with_another_input_is_refused() -> None:
    with pytest.raises(ModelError, match="does not take one float32 picture"):
        FoldInput(ImageInput(width=64, height=64)).requires(residual_net())
    twice = folded(residual_net(), PLAIN)
    with pytest.raises(ModelError, match="does not take one float32 picture"):
        FoldInput(PLAIN).requires(twice)


@pytest.mark.parametrize("spec", [PLAIN, IMAGENET, SYMMETRIC])
def test_the_picture_is_found_again_in_the_tensor(spec: ImageInput) -> None:
    for layout in ("NCHW", "NHWC"):
        s = spec.model_copy(update={"layout": layout})
        for picture in pictures(2):
            np.testing.assert_array_equal(pixels_of(Preprocessor(s)(picture)[0].copy(), s), picture)


@pytest.mark.parametrize("spec", [PLAIN, IMAGENET])
def test_a_folded_engine_can_be_judged_on_the_samples_of_the_graph_as_it_was(spec: ImageInput) -> None:
    model = residual_net()
    engine = PixelFed(OnnxRuntimeEngine(folded(model, spec).SerializeToString(), SessionSettings()), spec)
    assert engine.inputs[0].dtype == "float32"
    tensor = Preprocessor(spec)(pictures()[0])[0]
    np.testing.assert_allclose(engine.run({"image": tensor})["out"], run(model, tensor), rtol=1e-4, atol=1e-4)
    engine.close()


def test_the_route_decides_and_its_answer_is_a_graph_that_runs() -> None:
    model = residual_net()
    made = fold_if_faster(
        model, PLAIN, pictures(), runtime="onnxruntime", settings=SessionSettings(), seconds=0.05
    )
    if made is not None:  # which one is faster is this machine's business
        assert made.gain.high <= 0.98
        assert OnnxRuntimeEngine(made.model, SessionSettings()).inputs[0].dtype == "uint8"
    twice = folded(model, PLAIN)
    assert (
        fold_if_faster(
            twice, PLAIN, pictures(), runtime="onnxruntime", settings=SessionSettings(), seconds=0.05
        )
        is None
    )
