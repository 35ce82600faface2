"""The decoder of classifiers: probabilities of the labels, or one sentence about what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError, UsageError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.decoders import make_reader
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.decode.classify import Classify


def task(*, softmax: bool = True, labels: tuple[str, ...] = ("helmet", "no-helmet", "none")) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "gear",
            "input": {"kind": "image", "width": 64, "height": 64},
            "decode": {"kind": "classify", "softmax": softmax},
            "labels": labels,
        }
    )


def of(values: list[float], *, softmax: bool = True) -> NDArray[np.float32]:
    return Classify(task(softmax=softmax))({"scores": np.array([values], np.float32)}).p


def test_logits_become_probabilities() -> None:
    p = of([1.0, 3.0, -2.0])
    expected = np.exp([1.0, 3.0, -2.0]) / np.exp([1.0, 3.0, -2.0]).sum()
    np.testing.assert_allclose(p, expected, rtol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    np.testing.assert_allclose(of([1000.0, 990.0, -1000.0]), [0.9999546, 4.5398e-05, 0], atol=1e-7)


def test_probabilities_are_taken_as_they_are() -> None:
    np.testing.assert_allclose(of([0.2, 0.7, 0.1], softmax=False), [0.2, 0.7, 0.1], atol=1e-7)


@pytest.mark.parametrize("values", [[1.0, 3.0, -2.0], [0.9, 0.8, 0.7]])
def test_what_is_no_probability_is_refused_where_the_task_says_that_it_is_one(values: list[float]) -> None:
    with pytest.raises(ModelError, match="no probabilities") as e:
        of(values, softmax=False)
    assert e.value.hint is not None
    assert "softmax = true" in e.value.hint


def test_the_best_come_first() -> None:
    found = Classify(task())({"scores": np.array([[1.0, 3.0, 1.0]], np.float32)})
    assert found.best == 1
    assert [i for i, _ in found.top(2)] == [1, 0]


def test_a_map_of_one_pixel_is_a_row() -> None:
    found = Classify(task())({"scores": np.array([1.0, 3.0, 1.0], np.float32).reshape(1, 3, 1, 1)})
    assert found.best == 1


def test_other_numbers_of_scores_than_labels_are_refused() -> None:
    with pytest.raises(ModelError, match="should have shape 1x3, it has 1x4"):
        Classify(task())({"scores": np.zeros((1, 4), np.float32)})


def test_several_outputs_are_refused() -> None:
    with pytest.raises(ModelError, match="2: a, b"):
        Classify(task())({"a": np.zeros((1, 3)), "b": np.zeros((1, 3))})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_the_engines_fault(bad: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        of([bad, 0.0, 1.0])


def test_it_is_no_detector() -> None:
    with pytest.raises(ModelError, match="not for the part detector"):
        make_decoder(task())
    assert isinstance(make_reader("classifier", task(), task()), Classify)


def test_a_task_is_written_from_the_base(tmp_path: Path) -> None:
    file = tmp_path / "gear.toml"
    file.write_text(
        'inherits = "classifier"\nname = "gear"\nlabels = ["helmet", "none"]\nbackground = ["none"]\n'
    )
    made = load_task(file)
    assert (made.metric, made.decode.kind, made.background) == ("top1", "classify", ("none",))
    with pytest.raises(UsageError, match="base without labels"):
        load_task("classifier")
