"""Files appear whole or not at all; digests and names cannot leave their folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import IntegrityError, StorageError
from edgectl.core.files import (
    atomic_write,
    check_name,
    digest_of,
    exchange,
    file_digest,
    forget_unfinished,
    hex_of,
    open_atomic,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "config.json"
    atomic_write(target, b"old")

    def interrupted() -> None:
        with open_atomic(target) as f:
            f.write(b"half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        interrupted()
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(StorageError, match="disk is full"):
        atomic_write(tmp_path / "blob", b"data")
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=3000))
def test_file_digest_is_the_digest_of_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "blob"
    path.write_bytes(data)
    assert file_digest(path) == digest_of(data)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:../../etc/passwd",
        "sha512:" + "0" * 128,
        "sha256:" + "0" * 64 + "\n",
    ],
)
def test_what_is_no_digest_becomes_no_path(bad: str) -> None:
    with pytest.raises(IntegrityError):
        hex_of(bad)


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a+", "#", "-a", "a-", "A", "a" * 65, "a\n", "é"])
def test_what_is_no_name_becomes_no_topic(bad: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        check_name(bad)


@pytest.mark.parametrize("good", ["a", "gate-1", "yolo.8_2", "a" * 64])
def test_names(good: str) -> None:
    assert check_name(good) == good


def test_what_a_power_cut_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = "import os; from pathlib import Path; from edgectl.core import files; os.replace = lambda *_: os._exit(1); files.atomic_write(Path('blob'), b'x')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".blob.")
    kept = {"blob", ".hidden", ".bashrc.d", "part.12345678", ".blob.folder12"}
    for name in kept - {".blob.folder12"}:
        (tmp_path / name).touch()
    (tmp_path / ".blob.folder12").mkdir()
    forget_unfinished(tmp_path, tmp_path / "not there")
    assert {p.name for p in tmp_path.iterdir()} == kept


def test_two_folders_change_places_in_one_step_or_nothing_happens(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    swapped = exchange(one, other)
    assert [p.name for p in one.iterdir()] == (["other"] if swapped else ["one"])
    assert [p.name for p in other.iterdir()] == (["one"] if swapped else ["other"])
    if swapped:
        with pytest.raises(FileNotFoundError):
            exchange(one, tmp_path / "gone")
