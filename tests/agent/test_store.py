from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.agent.store import Store
from edgectl.core.bundle import CHUNK_SIZE, Descriptor
from edgectl.core.errors import IntegrityError, StorageError
from edgectl.core.files import digest_of, hex_of


def describe(data: bytes) -> Descriptor:
    return Descriptor(mediaType="x", digest=digest_of(data), size=len(data))


def test_part_becomes_a_blob_only_when_whole_and_right(tmp_path: Path) -> None:
    store, data = Store(tmp_path), b"a" * CHUNK_SIZE + b"b" * 10
    d = describe(data)
    part = store.part(d)
    part.write(1, data[CHUNK_SIZE:])
    with pytest.raises(IntegrityError):
        part.finish()
    assert not store.has(d.digest)
    part.write(0, data[:CHUNK_SIZE])
    part.finish()
    assert store.path(d.digest).read_bytes() == data
    assert not list((tmp_path / "parts").iterdir())


def test_part_left_by_a_kill_is_read_again_chunk_by_chunk(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1024  # four chunks
    part = Store(tmp_path).part(describe(data))
    part.write(2, data[2 * CHUNK_SIZE : 3 * CHUNK_SIZE])
    part.close()
    again = Store(tmp_path).part(describe(data))
    assert [(i, c == data[i * CHUNK_SIZE : (i + 1) * CHUNK_SIZE]) for i, c in again.chunks()] == [(2, True)]
    again.close()


def test_corrupt_blob_is_found_named_and_removed(tmp_path: Path) -> None:
    store, data = Store(tmp_path), b"engine"
    d = describe(data)
    store.put(d.digest, data)
    store.verify([d])
    store.path(d.digest).write_bytes(b"Engine")
    with pytest.raises(IntegrityError, match="corrupt"):
        store.verify([d])
    assert not store.has(d.digest), "so that it is fetched anew"


def test_download_that_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="stay reserved"):
        Store(tmp_path).check_space(1 << 60)


def test_garbage_is_what_nobody_refers_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keep, drop = b"keep", b"dropped"
    for data in (keep, drop):
        store.put(digest_of(data), data)
    store.part(describe(b"unfinished")).close()
    assert store.collect_garbage([digest_of(keep)]) == len(drop)
    assert [p.name for p in store.blobs.iterdir()] == [hex_of(digest_of(keep))]
    assert not list((tmp_path / "parts").iterdir())


def test_inline_blob_with_wrong_bytes_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(IntegrityError):
        store.put(digest_of(b"a"), b"b")
    assert not list(store.blobs.iterdir())
