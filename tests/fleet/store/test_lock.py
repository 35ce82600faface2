from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import UsageError
from edgectl.fleet.store.lock import hold_store


def test_second_controller_on_a_folder_is_told_what_to_do(tmp_path: Path) -> None:
    with (
        hold_store(tmp_path),
        pytest.raises(UsageError, match="a controller is running") as e,
        hold_store(tmp_path),
    ):
        pass
    assert e.value.hint is not None
    with hold_store(tmp_path):
        pass
