"""Digests of what is no good."""

from pathlib import Path

import pytest

from edgectl.builder.convert.source import digest_source
from edgectl.core.errors import ModelError


def test_a_loop_of_links_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").symlink_to("b")
    (tmp_path / "model" / "b").symlink_to("a")
    with pytest.raises(ModelError, match=r"cannot read .*model"):
        digest_source(tmp_path / "model")
