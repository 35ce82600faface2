"""Which regions of a frame are looked at: everything that moves is in one of them, or the whole picture is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgectl.pipelines.video.regions.cover import Interest, Region, RegionConfig, RegionCover

FULL_HD = (1920, 1080)
INPUT = (416, 416)
CONFIG = RegionConfig(on=True, whole_s=2.0)
NONE = np.empty((0, 4), np.float32)


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def interest(
    moves: NDArray[np.float32] = NONE, known: NDArray[np.float32] = NONE, cut: NDArray[np.float32] = NONE
) -> Interest:
    return Interest(moves, known, cut)


def begun(config: RegionConfig = CONFIG) -> RegionCover:
    """Its first whole picture is behind it."""
    cover = RegionCover(config)
    assert cover.choose(0.0, FULL_HD, INPUT, interest(), 4) == (None,)
    return cover


def holds(region: Region, box: NDArray[np.float32]) -> bool:
    x, y, w, h = region
    return bool(box[0] >= x and box[1] >= y and box[2] <= x + w and box[3] <= y + h)


def test_a_small_thing_is_shown_at_the_pictures_own_resolution() -> None:
    thing = boxes((1000, 500, 1012, 530))
    (region,) = begun().choose(0.1, FULL_HD, INPUT, interest(thing), 4)
    assert region is not None
    assert region[2:] == INPUT
    assert holds(region, thing[0])
    # in its middle: a detector wants to see what is around it
    assert abs(region.x + 208 - 1006) <= 4
    assert abs(region.y + 208 - 515) <= 4


def test_things_that_fit_into_one_region_share_it_and_far_ones_have_their_own() -> None:
    near = boxes((100, 100, 120, 140), (300, 200, 320, 240), (150, 350, 170, 390))
    assert len(begun().choose(0.1, FULL_HD, INPUT, interest(near), 4)) == 1
    far = boxes((100, 100, 120, 140), (1800, 1000, 1820, 1040))
    parts = begun().choose(0.1, FULL_HD, INPUT, interest(far), 4)
    assert len(parts) == 2
    assert None not in parts


def test_a_thing_larger_than_the_input_has_a_larger_region_of_the_inputs_shape() -> None:
    thing = boxes((500, 300, 900, 700))
    (region,) = begun().choose(0.1, FULL_HD, INPUT, interest(known=thing), 4)
    assert region is not None
    assert region.width == region.height > 416
    assert holds(region, thing[0])


def test_what_is_as_large_as_the_picture_is_left_to_the_whole_picture_with_all_that_moves_in_it() -> None:
    near = boxes((300, 0, 1500, 1080))
    arm = boxes((600, 400, 640, 470))
    assert begun().choose(0.1, FULL_HD, INPUT, interest(arm, near), 4) == (None,)
    elsewhere = boxes((1800, 20, 1820, 60))
    parts = begun().choose(0.1, FULL_HD, INPUT, interest(elsewhere, near), 4)
    assert parts[0] is None
    assert holds(parts[1], elsewhere[0])  # type: ignore[arg-type]


def test_the_whole_picture_comes_from_time_to_time_and_where_nothing_is_to_be_seen() -> None:
    cover = begun()
    thing = interest(boxes((1000, 500, 1012, 530)))
    whole = [t for t in range(1, 100) if None in cover.choose(t / 10, FULL_HD, INPUT, thing, 4)]
    assert whole == [20, 40, 60, 80]
    assert cover.choose(10.0, FULL_HD, INPUT, interest(), 4) == (None,)


def test_with_one_call_the_whole_picture_is_alone_when_it_is_due() -> None:
    cover = begun()
    thing = interest(boxes((1000, 500, 1012, 530)))
    assert cover.choose(1.0, FULL_HD, INPUT, thing, 1) != (None,)
    assert cover.choose(2.0, FULL_HD, INPUT, thing, 1) == (None,)


def test_of_too_many_things_the_whole_picture_is_looked_at_and_each_has_its_turn() -> None:
    many = boxes(*[(x, y, x + 20, y + 30) for x in (20, 620, 1220, 1860) for y in (20, 540, 1020)])
    cover = begun()
    looked = np.zeros(len(many), int)
    for frame in range(12):
        parts = cover.choose(0.1 + frame / 10, FULL_HD, INPUT, interest(many), 4)
        assert parts[0] is None
        assert len(parts) == 4
        looked += [any(holds(p, box) for p in parts[1:] if p is not None) for box in many]
    assert looked.min() >= 2


def test_in_a_picture_that_is_hardly_larger_than_the_input_there_are_no_regions() -> None:
    cover = RegionCover(CONFIG)
    for frame in range(5):
        thing = interest(boxes((100, 100, 110, 120)))
        assert cover.choose(frame / 10, (600, 400), INPUT, thing, 4) == (None,)


def test_a_picture_that_is_flatter_than_the_input_has_regions_as_high_as_it_is() -> None:
    cover = RegionCover(CONFIG)
    cover.choose(0.0, (1600, 360), INPUT, interest(), 4)
    thing = boxes((800, 200, 812, 230))
    (region,) = cover.choose(0.1, (1600, 360), INPUT, interest(thing), 4)
    assert region is not None
    assert region[2:] == (416, 360)
    assert holds(region, thing[0])


def test_what_was_cut_is_shown_with_more_around_it() -> None:
    part = boxes((500, 300, 700, 500))
    (plain,) = begun().choose(0.1, FULL_HD, INPUT, interest(known=part), 4)
    (wider,) = begun().choose(0.1, FULL_HD, INPUT, interest(cut=part), 4)
    assert plain is not None
    assert wider is not None
    assert wider.width > plain.width


def test_after_another_picture_size_the_whole_picture_is_looked_at_first() -> None:
    cover = begun()
    thing = interest(boxes((100, 100, 110, 120)))
    assert cover.choose(0.1, (1280, 720), INPUT, thing, 4)[0] is None


box = st.tuples(
    st.floats(-50, 1900), st.floats(-50, 1060), st.floats(1, 900, width=32), st.floats(1, 900, width=32)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(
    frames=st.lists(
        st.tuples(st.lists(box, max_size=12), st.lists(box, max_size=4), st.lists(box, max_size=2)),
        min_size=1,
        max_size=6,
    ),
    calls=st.integers(1, 6),
    size=st.sampled_from([(1920, 1080), (1919, 1079), (640, 360), (3840, 2160), (63, 47)]),
    tensor=st.sampled_from([(416, 416), (640, 384), (64, 64)]),
)
def test_regions_lie_in_the_picture_are_as_many_as_may_be_and_hold_all_there_is_to_see(
    frames: list[tuple[list[tuple[float, ...]], ...]],
    calls: int,
    size: tuple[int, int],
    tensor: tuple[int, int],
) -> None:
    cover = RegionCover(CONFIG)
    for i, lists in enumerate(frames):
        moves, known, cut = (np.array(rows, np.float32).reshape(-1, 4) for rows in lists)
        parts = cover.choose(i / 10, size, tensor, interest(moves, known, cut), calls)
        assert 1 <= len(parts) <= calls
        assert parts.count(None) <= 1
        regions = [p for p in parts if p is not None]
        for x, y, w, h in regions:
            assert x % 4 == y % 4 == 0
            assert x >= 0
            assert y >= 0
            assert w > 0
            assert h > 0
            assert x + w <= size[0]
            assert y + h <= size[1]
        if None not in parts:
            for one in np.concatenate([moves, known, cut]):
                inside = np.clip(one, 0, np.array([*size, *size]))
                if (inside[2:] > inside[:2]).all():
                    assert any(holds(region, inside) for region in regions)


def test_a_limit_of_calls_is_kept_also_where_more_places_are_given_than_are_looked_at() -> None:
    many = boxes(*[(x, y, x + 4, y + 8) for x in range(0, 1900, 40) for y in range(0, 1060, 40)])
    parts = begun().choose(0.1, FULL_HD, INPUT, interest(many), 16)
    assert len(parts) <= 16
    assert parts[0] is None


@pytest.mark.parametrize("most", [0, 17])
def test_settings_beyond_their_range_are_refused(most: int) -> None:
    with pytest.raises(ValueError, match="most"):
        RegionConfig(most=most)
