"""Writes a configuration, or a set, as a release: an OCI layout with one manifest (:mod:`edgectl.core.bundle.config_release` reads
it)."""

from __future__ import annotations

from pathlib import Path

from edgectl.core.bundle import ANNOTATION_TYPE, MEDIA_MANIFEST, Index, Manifest
from edgectl.core.bundle.config_release import (
    ARTIFACT_CONFIG,
    ARTIFACT_SET,
    LAYER_YAML,
    MEDIA_CONFIG_RELEASE,
    ConfigRelease,
)
from edgectl.core.files import atomic_write, digest_of, hex_of, storage
from edgectl.core.transfer import describe

__all__ = ["write_config"]


def write_config(root: Path, release: ConfigRelease, text: bytes) -> str:
    """Write it into the empty folder ``root``. Returns the digest of the release; the same contents give the same one.
    Raises :class:`StorageError`."""
    config = release.to_json()
    config_at, layer_at = describe(config, MEDIA_CONFIG_RELEASE), describe(text, LAYER_YAML)
    artifact = ARTIFACT_SET if release.parts else ARTIFACT_CONFIG
    manifest = Manifest(artifactType=artifact, config=config_at, layers=(layer_at,)).encode()
    manifest_at = describe(manifest, MEDIA_MANIFEST)
    annotations = {
        ANNOTATION_TYPE: "config",
        "org.opencontainers.image.title": release.name,
        "org.opencontainers.image.version": release.version,
    }
    index = Index(manifests=(manifest_at,), annotations=annotations).encode()
    blobs = root / "blobs" / "sha256"
    with storage(str(root)):
        blobs.mkdir(parents=True)
    for at, data in ((config_at, config), (layer_at, text), (manifest_at, manifest)):
        atomic_write(blobs / hex_of(at.digest), data)
    atomic_write(root / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    atomic_write(root / "index.json", index)
    return digest_of(index)
