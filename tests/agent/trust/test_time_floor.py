from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from edgectl.agent.trust.time_floor import RELEASED_S, TOLERANCE_S, TimeFloor

YEAR = 365 * 86400.0
_STEP = st.tuples(
    st.sampled_from(["wait", "attest", "reboot", "wall"]),
    st.floats(0, YEAR),
    st.floats(-40 * YEAR, 40 * YEAR),
)


@given(st.lists(_STEP, max_size=30))
def test_bound_never_overtakes_the_real_time_whatever_the_wall_clock_says(
    steps: list[tuple[str, float, float]],
) -> None:
    """Real time, uptime and wall clock go their own ways; attestations are honest."""
    real, steady, wall_error, saved = 1.7e9, 10.0, 0.0, 0.0
    floor = TimeFloor(0.0, 1.0, steady)
    for what, seconds, error in steps:
        before = floor.at(steady)
        if what == "wait":
            real, steady = real + seconds, steady + seconds
            assert floor.at(steady) >= before + seconds - 1e-3, "it runs on"
        elif what == "attest":
            floor = floor.attest(real - min(seconds, 3600.0), steady, built_s=1.0)
            saved = floor.at(steady)
        elif what == "reboot":
            real += seconds  # off: nobody counts
            steady = 0.0
            floor = TimeFloor(floor.attested_s, max(saved, 1.0), steady)
        else:
            wall_error = error
        wall = real + wall_error
        assert floor.at(steady) <= real + 1e-3
        assert floor.now(wall, steady) >= floor.at(steady)
        assert floor.now(real, steady) <= real + 1e-3, "once the clock is right, so is the answer"
        if wall_error >= 0:
            assert floor.trusts(wall, steady)


def test_clock_behind_by_more_than_the_tolerance_is_not_trusted() -> None:
    floor = TimeFloor(0.0, 0.0, 0.0).attest(1e9, 0.0, built_s=1.0)
    assert floor.trusts(1e9 + 50 - TOLERANCE_S, 50.0)
    assert not floor.trusts(1e9 + 49 - TOLERANCE_S, 50.0)


def test_signer_who_takes_his_word_back_moves_the_bound_down_but_not_below_the_build() -> None:
    floor = TimeFloor(0.0, 0.0, 0.0).attest(2e9, 0.0, built_s=1.0)
    assert floor.attest(1.9e9, 100.0, built_s=1.0).at(200.0) == 1.9e9 + 100
    assert floor.attest(1.0e9, 100.0, built_s=1.5e9).at(100.0) == 1.5e9
    assert floor.attest(0, 100.0, built_s=1.0) == floor, "one who says nothing takes nothing back"


def test_release_time_is_not_later_than_now_nor_older_than_the_code() -> None:
    assert 1_793_000_000 < RELEASED_S < time.time(), "a release from the future would block every install"
