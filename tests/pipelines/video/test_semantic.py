"""What each pixel is: from scores or class numbers to a map of the frame, its shares, and the picture."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.rules import seen

from edgectl.core.errors import EngineError, ModelError, UsageError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.decoders import make_reader
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.class_map import ClassMap
from edgectl.pipelines.video.decode.semantic import Semantic
from edgectl.pipelines.video.draw import draw_classes, draw_scene
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.answers import Looked, make_answers
from edgectl.pipelines.video.second_stage.config import SceneConfig

META = LetterboxMeta(1, 1, 0, 0, 32, 24, 32, 24)
LABELS = ("ground", "water", "snow")


def task(labels: tuple[str, ...] = LABELS, background: tuple[str, ...] = (), **decode: Any) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": 32, "height": 24},
            "decode": {"kind": "semantic", **decode},
            "labels": labels,
            "background": background,
        }
    )


def decoder(spec: TaskSpec | None = None) -> Semantic:
    spec = spec or task()
    made: Semantic = make_reader("segmenter", spec, spec)
    return made


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 9))
def test_the_largest_score_wins_and_of_equals_the_first(seed: int, classes: int) -> None:
    scores = np.random.default_rng(seed).integers(-3, 3, (1, classes, 24, 32)).astype(np.float32)
    found = decoder(task(tuple(f"c{i}" for i in range(classes))))({"o": scores}, META)
    np.testing.assert_array_equal(found.classes, scores[0].argmax(axis=0))
    assert found.shares().sum() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32])
def test_class_numbers_are_taken_as_they_are(dtype: type) -> None:
    numbers = np.random.default_rng(0).integers(0, 3, (1, 24, 32)).astype(dtype)
    found = decoder()({"o": numbers}, META)
    np.testing.assert_array_equal(found.classes, numbers[0])
    assert found.shares() == pytest.approx(np.bincount(numbers.astype(int).ravel()) / (24 * 32))


def test_one_score_is_whether_it_is_the_second_label() -> None:
    score = np.linspace(-1, 1, 24 * 32, dtype=np.float32).reshape(1, 1, 24, 32)
    found = decoder(task(("no", "yes")))({"o": score}, META)
    np.testing.assert_array_equal(found.classes, score[0, 0] > 0)


def test_what_was_filled_in_around_the_picture_is_left_out() -> None:
    """A picture of 64 × 24 in the middle of the input; scores come for cells of 2 × 2."""
    meta = LetterboxMeta(0.5, 0.5, 0, 6, 64, 24, 32, 24)
    numbers = np.full((1, 12, 16), 2, np.uint8)
    numbers[0, 3:9] = 1
    found = decoder()({"o": numbers}, meta)
    assert found.classes.shape == (6, 16)
    assert found.shares().tolist() == [0, 1, 0]


def test_of_several_outputs_one_is_named() -> None:
    outputs = {"da": np.zeros((1, 2, 24, 32), np.float32), "ll": np.ones((1, 2, 24, 32), np.float32)}
    outputs["ll"][:, 1] = 2
    found = decoder(task(("no", "line"), output="ll"))(outputs, META)
    assert found.shares().tolist() == [0, 1]
    with pytest.raises(ModelError, match="several outputs: da, ll") as caught:
        decoder(task(("no", "line")))(outputs, META)
    assert "decode.output" in str(caught.value.hint)
    with pytest.raises(ModelError, match="no output 'x' among da, ll"):
        decoder(task(("no", "line"), output="x"))(outputs, META)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (np.zeros((1, 4, 24, 32), np.float32), "1x3x\\?x\\?, it has 1x4x24x32"),
        (np.zeros((1, 3, 24, 33), np.float32), "33x24 pixels, the model's input has 32x24"),
        (np.zeros((1, 3, 0, 32), np.float32), "32x0 pixels"),
        (np.zeros((1, 3), np.float32), "should have shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(out: NDArray[np.float32], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        decoder()({"o": out}, META)


def test_numbers_that_are_no_class_or_none_are_refused() -> None:
    with pytest.raises(EngineError, match="puts out class 3, and the task has 3 labels"):
        decoder()({"o": np.full((1, 24, 32), 3, np.uint8)}, META)
    for bad in (np.nan, np.inf):
        scores = np.zeros((1, 3, 24, 32), np.float32)
        scores[0, 1, 5, 5] = bad
        with pytest.raises(EngineError, match="not finite"):
            decoder()({"o": scores}, META)
    with pytest.raises(ModelError, match="at most 256"):
        decoder(task(tuple(f"c{i}" for i in range(257))))


def answer(share: dict[str, float], columns_of_water: int) -> str | None:
    numbers = np.zeros((1, 24, 32), np.uint8)
    numbers[..., :columns_of_water] = 1
    answers = make_answers(task(), SceneConfig(part="yard", share=share).stage())
    found = answers({"o": numbers}, META, Looked(("yard",), (0, 0, 32, 24)))
    assert found is not None
    assert (found.score, found.classes is not None) == (1.0, True)
    return found.value


def test_a_state_is_the_label_that_takes_most_or_there_is_enough_of() -> None:
    assert answer({}, 8) == "ground"
    assert answer({}, 20) == "water"
    assert answer({"snow": 0.1, "water": 0.25}, 8) == "water"
    assert answer({"water": 0.25}, 7) == "ground"


def test_a_share_must_fit_the_model() -> None:
    with pytest.raises(UsageError, match="names 'ice', which its model does not know"):
        answer({"ice": 0.5}, 8)
    spec = task().model_copy(update={"decode": task().decode.model_validate({"kind": "classify"})})
    with pytest.raises(UsageError, match="does not say what each pixel is"):
        make_answers(spec, SceneConfig(part="yard", share={"water": 0.5}).stage())


def test_classes_are_drawn_translucent_in_their_region_and_the_background_is_not() -> None:
    classes = np.zeros((10, 10), np.uint8)
    classes[:, 5:] = 1
    found = ClassMap(classes, LABELS, background=(0,), region=(0.5, 0, 1, 1))
    scene = dataclasses.replace(seen(), class_maps={"yard": found}, scene={"yard": Attribute("water", 1.0)})
    image = np.full((400, 800, 3), 100, np.uint8)
    draw_classes(image, scene)
    assert (image[:, :600] == 100).all()
    assert (image[:, 601:] != 100).any(axis=2).all()
    before = image.copy()
    draw_scene(image, scene)
    assert (image[:60, :200] != before[:60, :200]).any()
    assert (image[80:] == before[80:]).all()
