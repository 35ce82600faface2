"""When a converted model is the framework's own, and when it is another."""

from __future__ import annotations

import numpy as np
import pytest

from edgectl.builder.convert.compare import Agreement, compare_outputs
from edgectl.builder.convert.inside.shape import Arithmetic
from edgectl.core.errors import ModelError


def compare(theirs: np.ndarray, ours: np.ndarray, arithmetic: Arithmetic = "float32") -> Agreement:
    return compare_outputs(("out",), [{"out": theirs}], [{"out": ours}], arithmetic)


@pytest.mark.parametrize(
    ("arithmetic", "off", "same"),
    [
        ("float32", 0.0009, True),
        ("float32", 0.0011, False),
        ("float16", 0.009, True),
        ("float16", 0.011, False),
        ("int8", 0.09, True),
        ("int8", 0.11, False),
    ],
)
def test_one_value_may_be_off_by_what_the_arithmetic_explains(
    arithmetic: Arithmetic, off: float, same: bool
) -> None:
    theirs = np.linspace(-8, 8, 101)
    ours = theirs.copy()
    ours[50] += 8 * off
    if same:
        assert compare(theirs, ours, arithmetic).worst == pytest.approx(off)
    else:
        with pytest.raises(
            ModelError, match=r"is not what the framework computes: error .* where values go up to 8"
        ):
            compare(theirs, ours, arithmetic)


def test_most_codes_of_int8_may_not_be_off_by_several_steps() -> None:
    theirs = np.linspace(-1, 1, 101)
    assert compare(theirs, theirs + 0.01, "int8").worst == pytest.approx(0.01)
    with pytest.raises(ModelError, match="is not what"):
        compare(theirs, theirs + 0.03, "int8")


def test_codes_of_int8_outputs_are_values_and_not_labels() -> None:
    theirs = np.arange(-100, 100, dtype=np.int8)
    assert compare(theirs, (theirs + 1).astype(np.int8), "int8").worst == pytest.approx(0.01)
    with pytest.raises(ModelError, match=r"100.0% of its integers differ"):
        compare(theirs, (theirs + 1).astype(np.int8))


def test_labels_may_differ_where_two_are_level() -> None:
    labels = np.zeros(200, np.int64)
    one, three = labels.copy(), labels.copy()
    one[0] = 1
    three[:3] = 1
    assert compare(labels, one).different == 0.005
    assert "0.50% of its integers differ" in compare(labels, one).told()
    with pytest.raises(ModelError, match=r"1.5% of its integers differ"):
        compare(labels, three)


def test_what_is_not_finite_must_be_at_the_same_places() -> None:
    a = np.array([1.0, np.nan, np.inf, 2.0])
    assert compare(a, a).worst == 0
    for b in ([1.0, 0.0, np.inf, 2.0], [1.0, np.nan, -np.inf, 2.0], [1.0, np.nan, np.inf, np.nan]):
        with pytest.raises(ModelError, match=r"not finite|is not what"):
            compare(a, np.array(b))


def test_another_shape_is_told_with_both() -> None:
    with pytest.raises(ModelError, match=r"gives \[2, 3\] for output out, the framework \[3, 2\]"):
        compare(np.zeros((3, 2)), np.zeros((2, 3)))
    assert compare(np.zeros(3), np.zeros((3, 1))).worst == 0


def test_where_nothing_is_a_number_nothing_is_proven() -> None:
    with pytest.raises(ModelError, match="nothing can be compared"):
        compare_outputs(("label",), [{}], [{}], "float32")


def test_the_worst_of_all_samples_and_outputs_counts() -> None:
    theirs = [{"a": np.ones(3), "b": np.full(2, 10.0)} for _ in range(4)]
    ours = [{"a": np.ones(3), "b": np.full(2, 10.0)} for _ in range(4)]
    ours[3]["b"] = np.array([10.0, 10.005])
    found = compare_outputs(("a", "b"), theirs, ours, "float32")
    assert found.worst == pytest.approx(5e-4)
    assert found.samples == 4


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_boxes_do_not_hide_that_the_scores_are_gone(channels_last: bool) -> None:
    rng = np.random.default_rng(0)
    boxes, scores = rng.uniform(0, 640, (1, 4, 300)), rng.uniform(0, 0.6, (1, 8, 300))
    theirs, gone, near = (np.concatenate([boxes, scores * s], axis=1) for s in (1, 0, 1.0005))
    if channels_last:
        theirs, gone, near = (x.transpose(0, 2, 1) for x in (theirs, gone, near))
    assert compare(theirs, near).samples == 1
    with pytest.raises(ModelError, match=r"error 0.\d+ at place \d+ of axis \d, where"):
        compare(theirs, gone)


def test_a_channel_of_small_values_may_be_off_by_what_large_sums_explain() -> None:
    theirs = np.array([[100.0, 0.001]])
    assert compare(theirs, theirs + np.array([[0, 0.009]])).worst == pytest.approx(9e-5)
    with pytest.raises(ModelError, match=r"at place 1 of axis 1, where values go up to 0\.001"):
        compare(theirs, theirs + np.array([[0, 0.011]]))


def test_an_output_of_numbers_that_one_side_lacks_is_told() -> None:
    one, words = np.ones(3), np.array(["a"], object)
    for theirs, ours, who in (
        ({"a": one}, {"a": one, "b": one}, "the converted model"),
        ({"a": one, "b": one}, {"a": one, "b": words}, "the framework"),
    ):
        with pytest.raises(ModelError, match=f"output b is of numbers in {who} alone"):
            compare_outputs(("a", "b"), [theirs], [ours], "float32")
    assert compare_outputs(("a", "b"), [{"a": one}], [{"a": one, "b": words}], "float32").worst == 0
