"""What cannot be read of ``controller.toml`` is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import UsageError
from edgectl.fleet.config import load_controller_config


@pytest.mark.parametrize(
    "data", [b"fleet = ", b"fleet = '\xff'", b"fleet = " + b"9" * 5000, b"fleet = " + b"[" * 5000]
)
def test_what_is_no_toml_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(data)
    with pytest.raises(UsageError, match=r"c\.toml(:1)?: this is not (TOML|UTF-8 text)"):
        load_controller_config(tmp_path / "c.toml")
