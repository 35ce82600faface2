"""What the tests of a stream share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pipelines import write_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", frames=40)
