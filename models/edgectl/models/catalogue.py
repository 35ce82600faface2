"""The catalogue (``catalogue.toml``), the reference models beside it, and ``pull``.

Left out: any file that its publisher does not offer as ONNX; edgectl converts nothing.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field

from edgectl.core.errors import IntegrityError, LinkError, UsageError
from edgectl.core.files import digest_of, file_digest, open_atomic
from edgectl.core.nearest import did_you_mean
from edgectl.core.schema import Config, Digest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Entry", "ReferenceModel", "entries", "pull", "reference", "references"]

_HERE = Path(str(files("edgectl.models")))


class Entry(Config):
    """A public model: one file at one commit."""

    name: str
    file: str
    url: str = Field(pattern=r"^https://")
    digest: Digest
    size: int = Field(gt=0, le=1 << 31)
    licence: str
    task: str
    """The named task to build it with."""
    about: str


@dataclass(frozen=True)
class ReferenceModel:
    """One of our own: an ONNX file, its task as TOML, and its card (how it was trained, what it reaches)."""

    name: str
    model: Path
    task: Path
    card: dict[str, Any]


def entries() -> tuple[Entry, ...]:
    """The public models, by name."""
    table = tomllib.loads((_HERE / "catalogue.toml").read_text("utf-8"))
    return tuple(Entry.model_validate({"name": name, **row}) for name, row in sorted(table.items()))


def references() -> tuple[ReferenceModel, ...]:
    """The models that come with edgectl."""
    return tuple(
        ReferenceModel(
            p.stem, p, p.with_suffix(".toml"), json.loads(p.with_suffix(".json").read_text("utf-8"))
        )
        for p in sorted(_HERE.glob("*.onnx"))
    )


def reference(name: str) -> ReferenceModel:
    """A reference model by name. Raises :class:`UsageError` with the nearest names."""
    found = {r.name: r for r in references()}
    if name not in found:
        raise UsageError(f"there is no reference model {name!r}", hint=did_you_mean(name, sorted(found)))
    return found[name]


def pull(
    name: str,
    target: Path,
    *,
    local: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Copy or download a model to ``target`` (a folder). Returns the file; an intact one that is there
    already is kept.

    ``local`` is a folder that holds the file, under its own name or any other. Nothing is left behind on
    failure. Raises :class:`UsageError`, :class:`LinkError` (no such host, no answer), :class:`IntegrityError`
    (other bytes).
    """
    known = {e.name: e for e in entries()}
    own = {r.name: r for r in references()}
    if name in own:
        destination = target / own[name].model.name
        with open_atomic(destination) as f:
            f.write(own[name].model.read_bytes())
        return destination
    if name not in known:
        raise UsageError(
            f"there is no model {name!r} in the catalogue", hint=did_you_mean(name, sorted([*known, *own]))
        )
    entry = known[name]
    destination = target / entry.file
    if (
        destination.is_file()
        and destination.stat().st_size == entry.size
        and file_digest(destination) == entry.digest
    ):
        return destination
    if local is not None:
        for candidate in sorted(local.glob("**/*")):
            if (
                candidate.is_file()
                and candidate.stat().st_size == entry.size
                and file_digest(candidate) == entry.digest
            ):
                with open_atomic(destination) as f:
                    f.write(candidate.read_bytes())
                return destination
        raise UsageError(
            f"{local} has no file with the digest of {name}", hint=f"expected {entry.file}, {entry.digest}"
        )
    _download(entry, destination, progress)
    return destination


def _download(entry: Entry, destination: Path, progress: Callable[[int, int], None]) -> None:
    try:
        with urllib.request.urlopen(entry.url, timeout=30) as response, open_atomic(destination) as f:  # noqa: S310 (https only)
            data = bytearray()
            while piece := response.read(1 << 16):
                data += piece
                if len(data) > entry.size:
                    raise IntegrityError(
                        f"{entry.name} is larger than the {entry.size} bytes of the catalogue"
                    )
                progress(len(data), entry.size)
            if digest_of(bytes(data)) != entry.digest:
                raise IntegrityError(
                    f"{entry.name} is not the file of the catalogue",
                    hint="the publisher changed it: do not use it",
                )
            f.write(data)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as e:
        reason = getattr(e, "reason", e)
        raise LinkError(
            f"cannot download {entry.name} from {entry.url}: {reason}",
            hint="with the file at hand, use `edgectl models pull --from DIR`",
        ) from e
