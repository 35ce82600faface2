"""Blobs of files are those of the same bytes, and take no second copy where a second name does."""

from pathlib import Path

import pytest

from edgectl.builder.pack import package
from edgectl.builder.pack.package import _describe_file, _put
from edgectl.core.bundle import CHUNK_SIZE, verify_blob
from edgectl.core.transfer import describe


@pytest.mark.parametrize("size", [0, 10, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE])
def test_a_file_is_the_blob_that_its_bytes_are(tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    (tmp_path / "weights").write_bytes(data)
    described = _describe_file(tmp_path / "weights", "media")
    assert described == describe(data, "media")
    _put(tmp_path / "blob", tmp_path / "weights")
    verify_blob(tmp_path / "blob", described)
    assert (tmp_path / "blob").stat().st_ino == (tmp_path / "weights").stat().st_ino


def test_where_no_second_name_can_be_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(package.os, "link", refuses)
    (tmp_path / "weights").write_bytes(b"abc")
    _put(tmp_path / "blob", tmp_path / "weights")
    (tmp_path / "weights").unlink()
    assert (tmp_path / "blob").read_bytes() == b"abc"
