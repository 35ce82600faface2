"""What each pixel is, as PNG files beside the pictures: the number of its class, 255 for what is not judged.

Layouts: a folder with ``images/`` and ``masks/`` (or ``labels/``), files of the same name; a folder of PNGs alone, with the
folder of pictures given beside it; Cityscapes (``leftImg8bit/…/x_leftImg8bit.png`` with
``gtFine/…/x_gtFine_labelTrainIds.png``). One byte a pixel, grey or by palette: a palette's colours are for people, its indices
are the classes (PASCAL VOC). PNG, 3rd edition: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.builder.truth.labelled import LabelledItem, LabelledSet, TrueClasses
from edgectl.builder.truth.names import match_names, refuse_unknown
from edgectl.builder.truth.places import read_at_most, refuse_missing, too_many
from edgectl.core.config_file import read_bounded_text
from edgectl.core.errors import DataError, UsageError
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES

__all__ = ["has_class_maps", "read_class_indices", "read_class_maps"]

_LAYOUT = "class maps"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES, _MOST_PIXELS = 64 << 20, 1 << 26
_MOST_CLASSES = 256
_GREY, _PALETTE = 0, 3
_DEPTHS = (1, 2, 4, 8)
_MASK_FOLDERS = ("masks", "labels", "annotations")
_CITYSCAPES = re.compile(r"(.+)_gtFine_labelTrainIds\.png\Z")
_NAMES = "classes.txt"


@dataclass(frozen=True)
class _Header:
    """Of a PNG file. ``data``: where the chunks after it begin."""

    width: int
    height: int
    depth: int
    colour: int
    tail: bytes
    """Compression, filter and interlace method."""


def has_class_maps(folder: Path) -> bool:
    """Whether it has one of the layouts; one that names its pictures elsewhere is asked for by that."""
    return _cityscapes(folder) is not None or _masks_of(folder) is not None


def read_class_maps(
    folder: Path, labels: Sequence[str], *, pictures: Path | None = None, known_only: bool = False
) -> LabelledSet:
    """``pictures``: the folder of pictures, where ``folder`` has nothing but the PNGs. ``known_only``: classes that the model does
    not have are not judged. Raises :class:`DataError`, which names the file."""
    pairs = _pairs(folder, pictures)
    to, notes = _matched(folder, labels, known_only, len(pairs))
    items = tuple(LabelledItem(picture, TrueClasses(mask, to)) for picture, mask in pairs)
    return LabelledSet(_LAYOUT, "pixels", items, tuple(range(len(labels))), notes)


def read_class_indices(path: Path) -> NDArray[np.uint8]:
    """(h, w): the indices of a PNG, whatever colours its palette gives them. Raises :class:`DataError` for what is none, and
    for more than 67 million pixels before any of them are decoded."""
    data = read_at_most(
        path, _MOST_BYTES, unreadable="mend the labels", too_large="take it out of the labels"
    )
    header = _header(path, data)
    # the same indices, without the colours that a decoder would put in their place
    plain = _as_grey(data, header) if header.colour == _PALETTE else data
    found = None if plain is None else cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.shape != (header.height, header.width) or found.dtype != np.uint8:
        raise DataError(f"{path.name} cannot be decoded", hint="take it out of the labels, or mend it")
    # decoders spread fewer bits over the whole byte
    indices: NDArray[np.uint8] = (found // (255 // ((1 << header.depth) - 1))).astype(np.uint8)
    return indices


def _header(path: Path, data: bytes) -> _Header:
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 33:
        raise DataError(f"{path.name} is no PNG file", hint="class maps are PNG files")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if width * height > _MOST_PIXELS or not width or not height:
        raise DataError(
            f"{path.name} says {width}x{height} pixels; at most {_MOST_PIXELS} are decoded",
            hint="take it out of the labels",
        )
    if colour not in (_GREY, _PALETTE) or depth not in _DEPTHS:
        raise DataError(
            f"{path.name} has {'colours' if colour not in (_GREY, _PALETTE) else f'{depth} bits a pixel'}, not one class number "
            "a pixel",
            hint="give class numbers: grey of 8 bits, or a palette (of Cityscapes: …_labelTrainIds.png)",
        )
    return _Header(width, height, depth, colour, data[26:29])


def _as_grey(data: bytes, header: _Header) -> bytes | None:
    """A PNG whose pixels are indices of a palette as one whose pixels are grey; None for one that is cut short."""
    head = struct.pack(">IIBB", header.width, header.height, header.depth, _GREY) + header.tail
    parts, at = [_SIGNATURE, _chunk(b"IHDR", head)], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            return None
        if kind in (b"IDAT", b"IEND"):
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _masks_of(folder: Path) -> Path | None:
    """``masks/`` of a folder that has ``images/``, too."""
    if not (folder / "images").is_dir():
        return None
    return next(
        (folder / m for m in _MASK_FOLDERS if (folder / m).is_dir() and any((folder / m).glob("*.png"))), None
    )


def _cityscapes(folder: Path) -> tuple[Path, Path] | None:
    both = folder / "leftImg8bit", folder / "gtFine"
    return both if all(b.is_dir() for b in both) else None


def _pairs(folder: Path, pictures: Path | None) -> list[tuple[Path, Path]]:
    """(picture, class map), by name."""
    if (both := _cityscapes(folder)) is not None:
        masks = sorted(both[1].rglob("*_gtFine_labelTrainIds.png"))
        found = [
            (both[0] / m.parent.relative_to(both[1]) / f"{name[1]}_leftImg8bit.png", m)
            for m in masks
            if (name := _CITYSCAPES.match(m.name))
        ]
        of = both[0]
    else:
        own = _masks_of(folder)
        where, of = (folder, pictures) if pictures is not None else (own, folder / "images")
        assert where is not None
        by_stem = (
            {p.stem: p for p in sorted(of.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
            if of.is_dir()
            else {}
        )
        masks = sorted(where.glob("*.png"))
        found = [(by_stem.get(m.stem, of / f"{m.stem}.jpg"), m) for m in masks]
    too_many(len(found), f"class maps in {folder}")
    if not found:
        raise DataError(f"{folder} has no class maps", hint="they are PNG files called like the pictures")
    refuse_missing(
        (p for p, _ in found if not p.is_file()),
        len(found),
        of,
        "--validation-images FOLDER says where they are",
    )
    return found


def _matched(
    folder: Path, labels: Sequence[str], known_only: bool, pictures: int
) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Number of the labels → the model's, -1 for one that is not judged; None: the same. And what to say of it."""
    names = folder / _NAMES
    if not names.is_file():
        return None, (
            "the class maps have no names: their numbers were taken for places in the model's labels",
        )
    try:
        said = [
            line.strip() for line in read_bounded_text(names, max_bytes=1 << 20).splitlines() if line.strip()
        ]
    except UsageError as e:
        raise DataError(e.message, hint="mend the labels") from e
    if len(said) > _MOST_CLASSES:
        raise DataError(
            f"{names.name} names {len(said)} classes; a byte a pixel tells {_MOST_CLASSES} apart",
            hint="name the classes that the class maps have, a line each, from number 0 on",
        )
    matched = match_names(dict(enumerate(said)), labels)
    if matched.unknown and (not known_only or not matched.to):
        left = pictures if matched.to else 0
        raise refuse_unknown(list(matched.unknown.values()), labels, left=left, of=pictures)
    notes = (
        (
            f"classes of the labels that the model does not have are not judged: {', '.join(matched.unknown.values())}",
        )
        if matched.unknown
        else ()
    )
    return tuple(matched.to.get(i, -1) for i in range(len(said))), notes
