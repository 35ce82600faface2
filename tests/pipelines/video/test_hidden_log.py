"""What must not be seen in frames that were looked at, and in those between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.video.hidden_log import HiddenLog
from edgectl.pipelines.video.shown import Hidden

SIZE = (640, 480)


def hidden(
    *boxes: tuple[float, float, float, float], size: tuple[int, int] = SIZE, objects: bool = True
) -> Hidden:
    return Hidden(size, boxes=np.array(boxes, np.float32).reshape(-1, 4), objects=objects)


def covered(what: Hidden, box: tuple[float, float, float, float]) -> bool:
    """Whether one of its boxes holds all of ``box``."""
    x1, y1, x2, y2 = box
    return any(
        a <= x1 + 0.01 and b <= y1 + 0.01 and c >= x2 - 0.01 and d >= y2 - 0.01
        for a, b, c, d in what.boxes.tolist()
    )


def test_a_frame_that_was_looked_at_hides_what_was_found_in_it_and_no_more() -> None:
    log = HiddenLog(60)
    frames = [hidden((10 * i, 0, 10 * i + 5, 5)) for i in range(10)]
    for i, frame in enumerate(frames):
        log.add(i / 10, frame)
    for i, frame in enumerate(frames):
        assert log.at(i / 10) is frame
        # a container rounds
        assert log.at(i / 10 + 0.001) is frame
        assert log.at(i / 10 - 0.001) is frame


coordinate = st.floats(0, 400, allow_nan=False)


@given(x=coordinate, y=coordinate, dx=st.floats(-60, 60), dy=st.floats(-60, 60), share=st.floats(0.01, 0.99))
def test_whoever_walks_from_one_frame_to_the_next_is_hidden_all_the_way(
    x: float, y: float, dx: float, dy: float, share: float
) -> None:
    log = HiddenLog(60)
    others = ((500, 400, 520, 440), (530, 400, 550, 440))
    log.add(1.0, hidden((x, y, x + 40, y + 80), *others))
    log.add(1.4, hidden(*others, (x + dx, y + dy, x + dx + 40, y + dy + 80)))
    what = log.at(1.0 + 0.4 * min(max(share, 0.01), 0.99))
    assert what is not None
    at = (x + dx * share, y + dy * share)
    assert covered(what, (at[0], at[1], at[0] + 40, at[1] + 80))


def test_who_came_or_went_between_two_frames_is_hidden() -> None:
    log = HiddenLog(60)
    log.add(1.0, hidden((0, 0, 20, 40)))
    log.add(1.2, hidden((600, 400, 640, 480)))
    what = log.at(1.1)
    assert what is not None
    assert covered(what, (0, 0, 20, 40))
    assert covered(what, (600, 400, 640, 480))
    # they are two: not all between them is hidden
    assert not covered(what, (300, 200, 310, 210))


@pytest.mark.parametrize("at_s", [0.5, 1.3, 2.5])
def test_where_nobody_knows_nothing_is_shown(at_s: float) -> None:
    log = HiddenLog(60)
    log.add(1.0, hidden())
    log.add(1.6, hidden())
    log.add(2.0, hidden())
    assert log.at(at_s) is None
    assert HiddenLog(60).at(at_s) is None


def test_a_frame_of_the_beginning_before_hides_what_was_found_then() -> None:
    log, there, elsewhere = HiddenLog(60), (0, 0, 20, 40), (600, 400, 640, 480)
    for beginning, box in enumerate((there, elsewhere)):
        for i in range(10):
            log.add(i / 10, hidden(box), 10 * beginning + i)
    for seq, box, other in ((4, there, elsewhere), (14, elsewhere, there)):
        what = log.at(0.35, seq)
        assert what is not None
        assert covered(what, box)
        assert not covered(what, other)
    # of two beginnings before, nobody knows
    log.add(0.0, hidden(), 20)
    assert log.at(0.3, 4) is None
    assert log.at(0.3, 14) is not None


def test_another_size_in_between_shows_nothing() -> None:
    log = HiddenLog(60)
    log.add(1.0, hidden())
    log.add(1.2, hidden(size=(320, 240)))
    assert log.at(1.1) is None


def test_masks_alone_are_the_same_in_every_frame() -> None:
    log = HiddenLog(60)
    log.add(1.0, hidden(objects=False))
    for at_s in (0.0, 1.0, 50.0):
        assert log.at(at_s) is not None


def test_a_box_that_is_no_number_hides_everything() -> None:
    log = HiddenLog(60)
    log.add(1.0, hidden((float("nan"), 0, 1, 1)))
    log.add(1.2, hidden((0, 0, 1, 1)))
    what = log.at(1.1)
    assert what is not None
    image = np.full((480, 640, 3), 7, np.uint8)
    image[::2] = 200
    what.hide(image)
    assert np.ptp(image[:, :, 0], axis=0).max() < 100


def test_what_is_old_or_too_much_and_what_was_before_a_new_beginning_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = HiddenLog(2)
    for i in range(50):
        log.add(i / 10, hidden())
    assert log.at(4.9) is not None
    assert log.at(3.0) is not None
    assert log.at(2.8) is None
    log.add(0.1, hidden())
    assert log.at(0.1) is not None
    assert log.at(4.9) is None
    monkeypatch.setattr("edgectl.pipelines.video.hidden_log._MAX_HELD", 100)
    many = HiddenLog(1e9)
    for i in range(50):
        many.add(i / 10, hidden(*[(0, 0, 1, 1)] * 10))
    assert many.at(0.0) is None
    assert many.at(4.0) is not None
