from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dashboard import DashWorld


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DashWorld]:
    world = DashWorld(tmp_path, monkeypatch)
    yield world
    world.close()
