from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import StorageError, UsageError
from edgectl.core.folder_lock import hold

BUSY = UsageError("somebody is there")


def test_folder_is_made_and_held_by_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with hold(folder, "x.lock", busy=BUSY):
        with pytest.raises(UsageError, match="somebody"), hold(folder, "x.lock", busy=BUSY):
            pass
        with hold(folder, "y.lock", busy=BUSY):
            pass
    with hold(folder, "x.lock", busy=BUSY):
        pass


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), hold(tmp_path / "file" / "b", "x.lock", busy=BUSY):
        pass
