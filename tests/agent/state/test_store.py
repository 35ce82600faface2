from __future__ import annotations

import errno
import os
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgectl.agent.state.store import Store
from edgectl.core.bundle import CHUNK_SIZE, Descriptor
from edgectl.core.errors import IntegrityError, StorageError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.transfer import Broadcast, Need, Seeder, decode_frame, encode_frame
from edgectl.fleet.control.blobs import BlobStore


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


def test_blob_on_a_lost_sector_is_corrupt_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data = Store(tmp_path), b"engine"
    store.put(digest_of(data), data)

    def lost(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("edgectl.agent.state.store.file_digest", lost)
    with pytest.raises(IntegrityError, match="corrupt"):
        store.verify([describe(data)])
    assert not store.has(digest_of(data)), "it is fetched again"


def test_download_that_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="stay reserved"):
        Store(tmp_path).check_space(1 << 60)


def test_download_that_was_cut_off_needs_room_for_its_rest_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, chunk = 64 << 20, bytes(range(256)) * 256
    store = Store(tmp_path, reserve=1 << 20, quota=65 << 20)
    blob = Descriptor(mediaType="x", digest=digest_of(b"some other engine"), size=size)
    part = store.part(blob)
    # half of it, with holes: what is on disk counts, not how long the file is
    for index in range(0, 960, 2):
        part.write(index, chunk)
    os.fsync(part._file.fileno())
    part.close()

    def free(megabytes: int) -> None:
        monkeypatch.setattr(
            "edgectl.agent.state.store.shutil.disk_usage", lambda _: SimpleNamespace(free=megabytes << 20)
        )

    free(40)
    store.check_space(size, begun=[blob])
    free(30)
    with pytest.raises(StorageError, match=r"64\.0 MiB are needed"):
        store.check_space(size, begun=[blob])
    with pytest.raises(StorageError, match="of the quota"):
        store.check_space(size + (2 << 20), begun=[blob])


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


def test_a_power_cut_takes_no_more_than_8_mib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    part = Store(tmp_path).part(Descriptor(mediaType="x", digest=digest_of(b"x"), size=20 << 20))
    for index in range((20 << 20) // CHUNK_SIZE):
        part.write(index, bytes(CHUNK_SIZE))
        assert (index + 1) * CHUNK_SIZE - max(synced, default=0) <= 8 << 20
    part.close()


def test_a_blob_beyond_32_bits_is_written_resumed_and_sent_at_its_offsets(tmp_path: Path) -> None:
    size = (4 << 30) + 100_000
    last = size // CHUNK_SIZE
    d = Descriptor(mediaType="x", digest=digest_of(b"not hashed here"), size=size)
    store = Store(tmp_path / "device", reserve=0)
    part = store.part(d)
    part.write(last - 1, b"a" * CHUNK_SIZE)
    part.write(last, b"b" * (size % CHUNK_SIZE))
    part.close()
    again = store.part(d)
    assert [(i, data[:1], len(data)) for i, data in again.chunks()] == [
        (last - 1, b"a", CHUNK_SIZE),
        (last, b"b", size % CHUNK_SIZE),
    ]
    again.close()
    controller = BlobStore(tmp_path / "controller")
    os.replace(tmp_path / "device" / "parts" / hex_of(d.digest), controller.path(d.digest))
    seeder = Seeder(size=controller.size(d.digest))
    seeder.on_need("dev", Need.parse(Need.of([0, last], size, epoch=1).encode()), 0.0)
    sends = [s for s in iter(lambda: seeder.next(1.0), None) if isinstance(s, Broadcast)]
    frames = [
        decode_frame(encode_frame(d.digest, s.index, controller.chunk(d.digest, s.index)), d.digest)
        for s in sends
    ]
    assert [(f.indices, f.data[:1], len(f.data)) for f in frames] == [
        ((0,), b"\0", CHUNK_SIZE),
        ((last,), b"b", size % CHUNK_SIZE),
    ]


def test_wanted_chunks_are_found_in_any_blob(tmp_path: Path) -> None:
    store = Store(tmp_path)
    chunks = [bytes([k]) * CHUNK_SIZE for k in range(4)]
    store.put(digest_of(b"".join(chunks)), b"".join(chunks))
    wanted = {sha256(chunks[2]).digest(), sha256(b"elsewhere").digest()}
    assert list(store.chunks(wanted)) == [(sha256(chunks[2]).digest(), chunks[2])]
    store.collect_garbage([])
    assert list(store.chunks(wanted)) == []


def test_quota_counts_what_is_stored(tmp_path: Path) -> None:
    store = Store(tmp_path, reserve=0, quota=1000)
    store.put(digest_of(b"x" * 600), b"x" * 600)
    store.check_space(400)
    with pytest.raises(StorageError, match="quota"):
        store.check_space(401)
