"""The own car's speed, and how old it may be."""

from __future__ import annotations

from edgectl.pipelines.kinds.driving.ego import EgoConfig, Speed


def test_speed_grows_old() -> None:
    speed = Speed(EgoConfig(max_age_ms=500))
    assert speed.at(0.0, {}) is None
    assert speed.at(1.0, {"speed_mps": 20.0}) == 20.0
    assert speed.at(1.4, {}) == 20.0
    assert speed.at(1.6, {}) is None
    assert Speed(EgoConfig(speed_mps=13.0)).at(0.0, {}) == 13.0
