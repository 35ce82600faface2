"""One of the random sequences with a real broker, controller and agents; more:
``bench/rollout_sequences.py --real N``."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.real_rollouts import RealSequence


@pytest.mark.slow
def test_what_rollouts_say_is_true_of_real_devices_after_kills_and_restarts(tmp_path: Path) -> None:
    RealSequence(tmp_path, 3, steps=8).run()
