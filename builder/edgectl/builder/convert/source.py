"""What a source is made of: its digest, its size, and the checks that need no framework."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgectl.core.errors import ModelError

__all__ = ["SourceDigest", "check_archive", "digest_source"]

_MAX_BYTES = 4 << 30
_MAX_FILES = 10_000
_MAX_MEMBERS = 100_000
_MIB = 1 << 20


@dataclass(frozen=True)
class SourceDigest:
    """``digest``: ``sha256:…`` of a file; of a folder, of its sorted files' names, sizes and digests."""

    digest: str
    size: int


def digest_source(path: Path) -> SourceDigest:
    """Raises :class:`ModelError` for what is larger than a model here may be, that cannot be read, or (in a folder) that
    leaves the folder or is no plain file."""
    try:
        if not path.is_dir():
            size = path.stat().st_size
            _check_size(path, size)
            return SourceDigest("sha256:" + _sha256(path), size)
        return _digest_folder(path)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror or e}", hint="check the path of the model") from e
    except RuntimeError as e:
        # until Python 3.12 a loop of links is no OSError
        raise ModelError(f"cannot read {path}: a link in it leads to itself", hint="take the link out") from e


def check_archive(path: Path) -> None:
    """Raise :class:`ModelError` for a zip that unpacks to more than a model has, or with a member outside of its folder. What
    is no zip is not looked at."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as z:
            members = z.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as e:
        raise ModelError(f"{path.name} is a damaged archive: {e}", hint="export or download it again") from e
    total = sum(m.file_size for m in members)
    if len(members) > _MAX_MEMBERS or total > _MAX_BYTES:
        raise ModelError(
            f"{path.name} unpacks to {len(members)} files of {total / _MIB:.0f} MiB; at most {_MAX_MEMBERS} of {_MAX_BYTES // _MIB} MiB are read",
            hint="export to ONNX with the framework's own tools and give that file",
        )
    for m in members:
        parts = m.filename.replace("\\", "/").split("/")
        if ".." in parts or m.filename.startswith(("/", "\\")):
            raise ModelError(
                f"{path.name} has a member that leaves its folder: {m.filename[:80]!r}",
                hint="get it again from where it comes from: no framework writes such a file",
            )


def _digest_folder(folder: Path) -> SourceDigest:
    sha, total, count, root = hashlib.sha256(), 0, 0, folder.resolve()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in (*folders, *sorted(names)):
            path = Path(place) / name
            if not path.resolve().is_relative_to(root):
                raise ModelError(
                    f"{path.relative_to(folder)} in {folder.name} is a link that leaves the folder",
                    hint="copy what it points to into the folder",
                )
        for name in sorted(names):
            path = Path(place) / name
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(
                    f"{path.relative_to(folder)} in {folder.name} is no plain file",
                    hint="take it out, or export the model again",
                )
            total, count = total + found.st_size, count + 1
            _check_size(folder, total)
            if count > _MAX_FILES:
                raise ModelError(
                    f"{folder.name} has more than {_MAX_FILES} files: it is no model",
                    hint="give the folder of the model itself",
                )
            sha.update(f"{path.relative_to(folder).as_posix()}\0{found.st_size}\0{_sha256(path)}\n".encode())
    return SourceDigest("sha256:" + sha.hexdigest(), total)


def _check_size(path: Path, size: int) -> None:
    if size > _MAX_BYTES:
        raise ModelError(
            f"{path.name} has {size // _MIB} MiB; at most {_MAX_BYTES // _MIB} MiB are read",
            hint="export to ONNX with the framework's own tools and give that file",
        )


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as f:
        while piece := f.read(_MIB):
            sha.update(piece)
    return sha.hexdigest()
