"""A sink that hangs, in each way that it can, holds up neither a second stream of the same process nor its end.

In a process of its own, because the fault that this looks for, a call that keeps Python's lock, would stop the test as
well (:mod:`support.hanging`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import hanging

from edgectl.pipelines.sinks import SINKS

_LONGEST_S = 120.0
"""For a busy machine: what hangs, hangs for ever."""

SAME = {"retention", "frigate"}
"""Those that do what another one does: it deletes below the same lock, it speaks over the same connection."""


@pytest.mark.parametrize("way", hanging.WAYS)
def test_a_second_stream_goes_on_and_the_end_comes(tmp_path: Path, way: str) -> None:
    ran = subprocess.run(
        [sys.executable, hanging.__file__, way, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(hanging.__file__).parent.parent), "no_proxy": "*"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        check=False,
    )
    assert ran.stdout.splitlines() == ["goes on", "has ended"], ran.stderr
    assert "Traceback" not in ran.stderr


def test_every_sink_is_looked_at() -> None:
    assert {way.split(",")[0].split(" ")[0] for way in hanging.WAYS} == set(SINKS.own) - SAME
