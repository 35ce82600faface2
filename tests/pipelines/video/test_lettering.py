"""Labels of any script on pictures."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgectl.pipelines.video import lettering
from edgectl.pipelines.video.draw import draw_label
from edgectl.pipelines.video.lettering import drawable

EVERY_SCRIPT = int(cv2.__version__.partition(".")[0]) >= 5


def drawn(text: str) -> NDArray[np.uint8]:
    image = np.zeros((40, 200, 3), np.uint8)
    draw_label(image, text, (4, 30), (0, 0, 0))
    return image


@pytest.mark.skipif(not EVERY_SCRIPT, reason="this OpenCV has ASCII letters alone")
@pytest.mark.parametrize(
    ("one", "other"), [("行人", "汽车"), ("человек", "машинам"), ("보행자", "자동차"), ("ä", "ö")]
)
def test_labels_of_one_script_can_be_told_apart(one: str, other: str) -> None:
    assert drawn(one).any()
    assert (drawn(one) != drawn(other)).any()
    assert (drawn(one) != drawn("?" * len(one))).any()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("person 13 0.97", "person 13 0.97"),
        ("Fußgänger 3", "Fussganger 3"),
        ("Świnoujście øl", "Swinoujscie ol"),
        ("行人 13", "?? 13"),
        ("человек", "???????"),
    ],
)
def test_an_opencv_of_ascii_letters_gets_what_it_can_draw(text: str, shown: str) -> None:
    assert drawable(text, every_script=False) == shown
    assert drawable(text, every_script=True) == text


def test_a_script_that_cannot_be_drawn_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lettering, "_told", threading.Event())
    for i in range(3):
        drawable(f"行人 {i}", every_script=False)
        drawable(f"für {i}", every_script=False)
    (record,) = caplog.records
    assert "'行人 0' is drawn with question marks" in record.message


@pytest.mark.parametrize(
    "text", ["", "two\nlines\ttab", "half \ud800 a pair", "nul\x00", "\u202eright to left", "x" * 5000]
)
def test_whatever_a_model_or_a_reader_says_is_drawn_in_one_line(text: str) -> None:
    drawn(text)
    assert drawable(text).isprintable()
