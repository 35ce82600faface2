"""What so many devices can show."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.rollouts.gates import failure_gate
from edgectl.fleet.rollouts.power import detectable_by_canary, detectable_by_rate, devices_to_tell


def test_canary_of_one_only_finds_what_nearly_always_fails() -> None:
    assert detectable_by_canary(1) == pytest.approx(0.9)
    assert detectable_by_canary(10) == pytest.approx(0.2057, abs=1e-4)


def test_canary_whose_every_device_may_fail_finds_nothing() -> None:
    assert detectable_by_canary(2, allowed=2) is None


def test_one_percent_against_five_takes_132_devices_and_against_ten_52() -> None:
    assert devices_to_tell(0.01, 0.05) == 132
    assert devices_to_tell(0.01, 0.10) == 52


def test_rates_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="0 < good < bad < 1"):
        devices_to_tell(0.05, 0.05)


def test_few_devices_prove_no_rate() -> None:
    assert detectable_by_rate(0, 0.05) is None
    assert detectable_by_rate(3, 0.5) is None, "the lower bound of 3 of 3 is 0.37"


@pytest.mark.parametrize(("devices", "max_rate"), [(20, 0.05), (100, 0.05), (400, 0.02)])
def test_what_is_said_to_be_found_is_found_nine_times_in_ten_by_the_gate(
    devices: int, max_rate: float
) -> None:
    rate = detectable_by_rate(devices, max_rate)
    assert rate is not None
    draw = random.Random(7)
    stopped = sum(
        failure_gate(
            sum(draw.random() < rate for _ in range(devices)),
            devices,
            max_rate=max_rate,
            max_canary=0,
            canary=False,
        )
        is not None
        for _ in range(600)
    )
    assert 0.86 < stopped / 600 < 0.94  # 3.3 standard deviations


@given(st.integers(1, 60), st.integers(0, 3))
def test_more_canaries_find_smaller_rates(devices: int, allowed: int) -> None:
    fewer, more = detectable_by_canary(devices, allowed), detectable_by_canary(devices + 1, allowed)
    assert more is not None or fewer is None
    if fewer is not None and more is not None:
        assert more <= fewer
