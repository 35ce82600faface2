"""Write a bundle: an OCI image layout of content-addressed blobs (:mod:`edgectl.core.bundle` reads it).

It is written into a temporary folder beside its place, and the two change places in one step: whatever
happens, the old bundle or the new one is there, whole. (Where the file system cannot swap two folders, a kill
between two renames leaves the old one as ``.NAME.old``.) The same contents give the same bytes; provenance
and SBOM carry no time and no name of a machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgectl.core.bundle import (
    ANNOTATION_CHUNKS,
    ANNOTATION_PROFILE,
    ANNOTATION_RUNTIME,
    ANNOTATION_VARIANT,
    CHUNK_SIZE,
    MEDIA_CONFIG,
    MEDIA_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    VariantConfig,
)
from edgectl.core.errors import UsageError
from edgectl.core.files import digest_of, exchange, fsync_dir, hex_of, storage
from edgectl.core.transfer import describe

__all__ = ["VariantContent", "check_target", "provenance", "sbom", "variant_files", "write_bundle"]


@dataclass(frozen=True)
class VariantContent:
    """One variant to be written. ``layers``: (media type, bytes or a file that has them), the engine first."""

    config: VariantConfig
    layers: tuple[tuple[str, bytes | Path], ...]


def write_bundle(out: Path, variants: Sequence[VariantContent], *, name: str, version: str) -> str:
    """Write a bundle to the folder ``out`` and return its digest. A bundle that is already there is replaced.

    Raises :class:`UsageError` if ``out`` is something else than a bundle or an empty folder,
    :class:`StorageError` for a full or unwritable disk; what was at ``out`` is then still there, and nothing
    else is.
    """
    check_target(out)
    with storage(str(out)):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        with storage(str(out)):
            digest = _write(temporary, variants, name, version)
            temporary.chmod(0o755)
            _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return digest


def variant_files(
    variant: VariantContent,
) -> tuple[Descriptor, tuple[Descriptor, ...], dict[str, bytes | Path]]:
    """A variant as it would stand in a bundle: its manifest, what the manifest names, and all that by digest, as bytes
    or a file that has them."""
    config_bytes = variant.config.model_dump_json(exclude_none=True).encode()
    config = describe(config_bytes, MEDIA_CONFIG)
    layers = tuple(
        _describe_file(data, media) if isinstance(data, Path) else describe(data, media)
        for media, data in variant.layers
    )
    manifest_bytes = Manifest(config=config, layers=layers, annotations=_annotations(variant)).encode()
    manifest = describe(manifest_bytes, MEDIA_MANIFEST)
    files: dict[str, bytes | Path] = {manifest.digest: manifest_bytes, config.digest: config_bytes}
    files |= {d.digest: data for d, (_, data) in zip(layers, variant.layers, strict=True)}
    return manifest, (config, *layers), files


def check_target(out: Path) -> None:
    """Raise :class:`UsageError` if ``out`` is something else, or :class:`StorageError` if its folder takes
    no files (checked before a long build, too)."""
    if out.exists() and not (out.is_dir() and ((out / "oci-layout").is_file() or not any(out.iterdir()))):
        raise UsageError(f"{out} exists and is not a bundle", hint="give --out another folder")
    above = next(p for p in (out.absolute().parent, *out.absolute().parents) if p.exists())
    with storage(str(out)), tempfile.TemporaryDirectory(dir=above, prefix=f".{out.name}."):
        pass


def provenance(
    subject: Mapping[str, str], parameters: Mapping[str, Any], materials: Mapping[str, str]
) -> bytes:
    """An in-toto statement (v1, SLSA provenance v1): what was made (name → digest), how, and of what (name
    → digest)."""

    def resources(of: Mapping[str, str]) -> list[dict[str, Any]]:
        return [{"name": n, "digest": {"sha256": hex_of(d)}} for n, d in sorted(of.items())]

    return _json(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": resources(subject),
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": "urn:edgectl:build:v1",
                    "externalParameters": dict(parameters),
                    "resolvedDependencies": resources(materials),
                },
                "runDetails": {"builder": {"id": "urn:edgectl:builder", "version": _versions()}},
            },
        }
    )


def sbom(name: str, version: str, model: str, licence: str | None = None) -> bytes:
    """A CycloneDX 1.6 bill of materials: the model (digest ``model``; ``licence``: SPDX expression, None: not
    known) and the libraries that made and run it."""
    libraries = [
        {"type": "library", "name": n, "version": v, "purl": f"pkg:pypi/{n}@{v}", "bom-ref": n}
        for n, v in sorted(_versions().items())
    ]
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": name,
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": hex_of(model)}],
    }
    if licence is not None:
        component["licenses"] = [{"expression": licence}]
    depends = [{"ref": name, "dependsOn": [c["bom-ref"] for c in libraries]}]
    return _json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": component},
            "components": libraries,
            "dependencies": depends,
        }
    )


def _write(root: Path, variants: Sequence[VariantContent], name: str, version: str) -> str:
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    manifests = [_manifest(blobs, v) for v in variants]
    annotations = {"org.opencontainers.image.title": name, "org.opencontainers.image.version": version}
    index = Index(manifests=tuple(manifests), annotations=annotations).encode()
    _put(root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    _put(root / "index.json", index)
    return digest_of(index)


def _manifest(blobs: Path, variant: VariantContent) -> Descriptor:
    manifest, named, files = variant_files(variant)
    for d in (*named, manifest):
        path = blobs / hex_of(d.digest)
        if not path.exists():
            _put(path, files[d.digest])
    return manifest.model_copy(update={"annotations": _annotations(variant)})


def _annotations(variant: VariantContent) -> dict[str, str]:
    return {
        ANNOTATION_PROFILE: variant.config.profile,
        ANNOTATION_VARIANT: variant.config.variant,
        ANNOTATION_RUNTIME: variant.config.runtime,
    }


def _describe_file(file: Path, media: str) -> Descriptor:
    """A chunk of it at a time is in memory."""
    whole, of_chunks, size = hashlib.sha256(), hashlib.sha256(), 0
    with file.open("rb") as f:
        while chunk := f.read(CHUNK_SIZE):
            whole.update(chunk)
            of_chunks.update(hashlib.sha256(chunk).digest())
            size += len(chunk)
    annotations = {ANNOTATION_CHUNKS: f"sha256:{of_chunks.hexdigest()}"} if size > CHUNK_SIZE else {}
    return Descriptor(
        mediaType=media, digest=f"sha256:{whole.hexdigest()}", size=size, annotations=annotations
    )


def _put(path: Path, data: bytes | Path) -> None:
    """Write one file durably; it becomes visible with the whole folder. Of a file, which nobody changes any more, a second
    name where that can be, and a copy elsewhere."""
    if isinstance(data, Path):
        try:
            os.link(data, path)
        except OSError:
            shutil.copyfile(data, path)
        with path.open("rb") as f:
            os.fsync(f.fileno())
        return
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _replace(temporary: Path, out: Path) -> None:
    """Put ``temporary`` in the place of ``out``. What was there is then at ``temporary``, or gone."""
    if not out.exists():
        temporary.rename(out)
    elif not exchange(temporary, out):
        _replace_in_two_steps(temporary, out)
    fsync_dir(out.parent)


def _replace_in_two_steps(temporary: Path, out: Path) -> None:
    """A folder cannot be renamed over a full one, so the old one moves aside and comes back on failure."""
    aside = out.with_name(f".{out.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    out.rename(aside)
    try:
        temporary.rename(out)
    except OSError:
        aside.rename(out)
        raise
    fsync_dir(out.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _versions() -> dict[str, str]:
    found = {}
    for d in ("edgectl", "numpy", "onnx", "onnxruntime", "onnxslim", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[d] = importlib.metadata.version(d)
    return found


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
