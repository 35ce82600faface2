"""A variant whose engine travels packed: what it decodes to, and what is refused."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from support.bundle import make_bundle

from edgectl.core.bundle import LAYER_ENGINE, LAYER_PACKED, Bundle, Unpacked, Variant
from edgectl.core.codebook import pack
from edgectl.core.errors import BundleError, IntegrityError
from edgectl.core.files import digest_of

WRONG = "sha256:" + "0" * 64


def packed_variant(folder: Path, **more: object) -> Variant:
    return Bundle(make_bundle(folder / "bundle", size=200_003, packed=True, **more)).variants[0]  # type: ignore[arg-type]


def replace_layer(variant: Variant, data: bytes) -> None:
    """What a publisher could sign: the variant is opened already, so no digest stands in the way."""
    path = variant.layer(LAYER_PACKED)
    assert path is not None
    path.write_bytes(data)


def test_a_packed_engine_is_small_and_decodes_to_the_file_that_was_signed(tmp_path: Path) -> None:
    variant = packed_variant(tmp_path)
    data = variant.unpack()
    assert digest_of(data) == variant.config.unpacked.digest
    assert variant.need(LAYER_PACKED).stat().st_size < 0.1 * len(data)
    assert variant.verify() < 0.2 * len(data)
    path = variant.engine(tmp_path / "cache")
    assert path.read_bytes() == data
    path.write_bytes(b"torn")
    assert variant.engine(tmp_path / "cache").read_bytes() == data


@pytest.mark.parametrize(
    "unpacked",
    [
        Unpacked(digest=WRONG, size=200_003),
        Unpacked(digest=WRONG, size=1),
        Unpacked(digest=WRONG, size=1 << 30),
    ],
)
def test_an_engine_that_decodes_to_something_else_than_the_config_says_is_refused(
    tmp_path: Path, unpacked: Unpacked
) -> None:
    variant = packed_variant(tmp_path, unpacked=unpacked)
    with pytest.raises(IntegrityError):
        variant.verify()
    with pytest.raises(IntegrityError):
        variant.engine(tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def header(**fields: object) -> bytes:
    return b"EDGCB1\n" + json.dumps(fields).encode() + b"\n"


@pytest.mark.parametrize(
    "bomb",
    [
        header(size=1 << 40, digest=WRONG, regions=[]) + zlib.compress(b"\0" * 100),
        header(size=200_003, digest=WRONG, regions=[]) + zlib.compress(b"\0" * (64 << 20), 9),
        header(size=200_003, digest=WRONG, regions=[[0, 1 << 40, 1]]) + zlib.compress(b"\0" * 100),
        header(size=200_003, digest=WRONG, regions=[[0, 8, 256]] * 40_000) + zlib.compress(b"\0" * 100),
        pack(b"\1\0\0\0" * (16 << 20), [b"\1\0\0\0" * (16 << 20)]),
    ],
    ids=[
        "a terabyte declared",
        "64 MiB behind a small declaration",
        "a huge region",
        "codebooks larger than the file",
        "64 MiB, honestly declared",
    ],
)
def test_a_bomb_is_refused_before_it_takes_memory(tmp_path: Path, bomb: bytes) -> None:
    import tracemalloc

    variant = packed_variant(tmp_path)
    replace_layer(variant, bomb)
    tracemalloc.start()
    with pytest.raises(IntegrityError):
        variant.unpack()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_config_and_its_layers_must_agree_on_how_the_engine_travels(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="packed, or as it is"):
        Bundle(make_bundle(tmp_path / "bundle", unpacked=Unpacked(digest=WRONG, size=5)))
    variant = Bundle(make_bundle(tmp_path / "plain")).variants[0]
    assert variant.engine(tmp_path / "cache") == variant.layer(LAYER_ENGINE)
    with pytest.raises(BundleError, match="not packed"):
        variant.unpack()
