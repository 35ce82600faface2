"""Readers: best-path decoding of character scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.video.decode.ctc import Ctc, Reading

LABELS = tuple("ABC1")


def task(**options: Any) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "plates",
            "input": {"kind": "image", "width": 64, "height": 16},
            "decode": {"kind": "ctc", **options},
            "labels": LABELS,
        }
    )


def line(steps: str, p: float = 0.9, *, blank: str = "first") -> NDArray[np.float32]:
    """(T, C + 1) probabilities; ``-`` is no character."""
    order = ("-", *LABELS) if blank == "first" else (*LABELS, "-")
    rows = np.full((len(steps), len(order)), (1 - p) / len(LABELS), np.float32)
    rows[np.arange(len(steps)), [order.index(c) for c in steps]] = p
    return rows


def read(rows: NDArray[Any], **options: Any) -> Reading:
    return Ctc(task(softmax=False, **options))({"scores": rows[None]})


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ("--A--B-1-", "AB1"),
        ("AAAB11", "AB1"),
        ("A-A", "AA"),
        ("AA-AAA", "AA"),
        ("ABAB", "ABAB"),
        ("----", ""),
        ("", ""),
        ("1", "1"),
    ],
)
def test_repeats_are_one_character_unless_a_blank_is_between(steps: str, text: str) -> None:
    assert read(line(steps)).text == text


def test_the_score_is_the_mean_of_the_characters_alone() -> None:
    rows = np.concatenate([line("-", 0.5), line("A", 0.8), line("A", 0.99), line("-", 0.3), line("B", 0.6)])
    assert read(rows) == Reading("AB", pytest.approx(0.7))
    assert read(line("---")).score == 0


def test_logits_are_made_probabilities() -> None:
    rows = line("A-B")
    assert Ctc(task())({"scores": np.log(rows)[None] + 7}) == Reading("AB", pytest.approx(0.9, abs=1e-5))


@pytest.mark.parametrize("blank", ["first", "last"])
@pytest.mark.parametrize(
    ("layout", "turn"),
    [("ntc", lambda r: r[None]), ("tnc", lambda r: r[:, None]), ("nct", lambda r: r.T[None])],
)
def test_every_layout_and_place_of_the_blank_reads_the_same(blank: str, layout: str, turn: Any) -> None:
    of = Ctc(task(softmax=False, layout=layout, blank=blank))
    assert of({"scores": turn(line("A-A11C", blank=blank))}).text == "AA1C"


def test_what_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(ModelError, match="should have shape 1x\\?x5, it has 1x3x4"):
        Ctc(task())({"scores": np.zeros((1, 3, 4), np.float32)})
    with pytest.raises(ModelError, match="no probabilities"):
        read(np.full((3, 5), 2.0, np.float32))
    with pytest.raises(ModelError, match="2000 steps, 1024 are allowed"):
        read(line("A" * 2000))
    with pytest.raises(EngineError, match="not finite"):
        read(np.full((3, 5), np.nan, np.float32))


def _published(rows: NDArray[np.float32]) -> tuple[str, float]:
    """As PaddleOCR's recogniser decodes (``CTCLabelDecode``): blank is 0, repeats and blanks are left out, the score is
    the mean of what is left."""
    best, p = rows.argmax(axis=1), rows.max(axis=1)
    chosen = [i for i in range(len(best)) if best[i] != 0 and not (i > 0 and best[i] == best[i - 1])]
    text = "".join(LABELS[best[i] - 1] for i in chosen)
    return text, float(np.mean(p[chosen])) if chosen else 0.0


@given(st.integers(0, 2**31), st.integers(0, 60))
def test_it_reads_what_the_published_recogniser_reads(seed: int, steps: int) -> None:
    rows = np.random.default_rng(seed).dirichlet(np.full(5, 0.2), steps).astype(np.float32).reshape(steps, 5)
    reading, (text, score) = read(rows), _published(rows)
    assert reading.text == text
    assert reading.score == pytest.approx(score, abs=1e-5)
