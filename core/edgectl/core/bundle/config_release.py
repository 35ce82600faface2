"""A release of the type ``config``: the same OCI layout with one manifest, whose one layer is a pipeline's YAML file.

It may name the releases of its parts: then it is a set. A set has an artifact type of its own, so that an agent from
before, which would take the configuration and leave the engines, refuses it.

::

    index.json                      annotation io.edgectl.type: config
    blobs/sha256/<64 hex>           the manifest, its config (:class:`ConfigRelease`), the YAML
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgectl.core.bundle.layout import Bundle, read_index
from edgectl.core.bundle.schema import (
    ANNOTATION_TYPE,
    MAX_JSON_BYTES,
    Descriptor,
    Manifest,
)
from edgectl.core.bundle.variant import Variant, read_blob, read_bounded, verify_blob
from edgectl.core.errors import BundleError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.schema import Config, Digest, Name, parse_json

__all__ = [
    "ARTIFACT_CONFIG",
    "ARTIFACT_SET",
    "LAYER_YAML",
    "MAX_CONFIG_BYTES",
    "MAX_PARTS",
    "MEDIA_CONFIG_RELEASE",
    "ConfigBundle",
    "ConfigDocument",
    "ConfigRelease",
    "PartRelease",
    "open_artifact",
    "open_release",
]

ARTIFACT_CONFIG = "application/vnd.edgectl.config.v1"
ARTIFACT_SET = "application/vnd.edgectl.set.v1"
MEDIA_CONFIG_RELEASE = "application/vnd.edgectl.config.release.v1+json"
LAYER_YAML = "application/vnd.edgectl.config.v1+yaml"
MAX_CONFIG_BYTES = 256 << 10
"""Of the YAML file."""
MAX_PARTS = 16
"""Of a set."""


class PartRelease(Config):
    """The engines that one part of a pipeline is to run."""

    release: str = Field(max_length=200)
    """``name@version``."""
    digest: Digest
    """Of its index.json: what is signed with the set is exact."""


class ConfigRelease(Config):
    """The config blob: what a pipeline has to be that takes this configuration."""

    schema_version: Literal[1] = 1
    name: str
    version: str
    kind: str
    """Of pipeline: ``surveillance``, …"""
    parts: dict[Name, PartRelease] = Field(default={}, max_length=MAX_PARTS)
    """Part → what it runs with this configuration, and with no other; none: it is no set."""

    def to_json(self) -> bytes:
        """The config blob. Without parts it is what it was before there were sets, to the byte."""
        return self.model_dump_json(exclude=None if self.parts else {"parts"}).encode()


class ConfigDocument:
    """The one manifest of such a release, whose blobs lie in ``blobs`` (a folder of files named by 64 hex digits)."""

    def __init__(self, blobs: Path, digest: str, manifest: Manifest, config: ConfigRelease) -> None:
        self.blobs = blobs
        self.digest = digest
        """Of the manifest."""
        self.manifest = manifest
        self.config = config

    @classmethod
    def open(cls, blobs: Path, digest: str) -> ConfigDocument:
        """Read manifest and config, both checked against their digests. Raises :class:`BundleError` or
        :class:`IntegrityError`."""
        return cls.of(blobs, digest, _manifest(blobs, digest))

    @classmethod
    def of(cls, blobs: Path, digest: str, manifest: Manifest) -> ConfigDocument:
        if manifest.artifactType not in (ARTIFACT_CONFIG, ARTIFACT_SET):
            raise BundleError("this is an engine and no configuration")
        if [d.mediaType for d in manifest.layers] != [LAYER_YAML]:
            raise BundleError("a configuration has one layer, its YAML file")
        config = parse_json(
            ConfigRelease,
            read_blob(blobs, manifest.config.digest),
            max_bytes=MAX_JSON_BYTES,
            what="config of a configuration",
            error=BundleError,
        )
        if bool(config.parts) != (manifest.artifactType == ARTIFACT_SET):
            raise BundleError("a set names the releases of its parts, and no other configuration does")
        return cls(blobs, digest, manifest, config)

    def text(self) -> str:
        """The YAML file. Raises :class:`BundleError` if it is missing, too large or no UTF-8."""
        (layer,) = self.manifest.layers
        try:
            return read_bounded(self.blobs / hex_of(layer.digest), MAX_CONFIG_BYTES).decode()
        except UnicodeDecodeError as e:
            raise BundleError("the configuration is not UTF-8 text") from e

    def descriptors(self) -> Iterator[Descriptor]:
        """Config and layer: every blob but the manifest itself."""
        yield self.manifest.config
        yield from self.manifest.layers

    def installed(self) -> Iterator[Descriptor]:
        """What lies on a device."""
        return self.descriptors()

    def verify(self) -> int:
        """Hash every blob. Returns the bytes read; raises :class:`IntegrityError` at the first wrong one."""
        total = len(read_blob(self.blobs, self.digest))
        for d in self.descriptors():
            verify_blob(self.blobs / hex_of(d.digest), d)
            total += d.size
        return total


class ConfigBundle:
    """Such a release on disk, index read and checked."""

    def __init__(self, root: Path) -> None:
        """Raises :class:`BundleError` / :class:`IntegrityError`."""
        self.root = root
        self.index_bytes, self.index = read_index(root)
        self.digest = digest_of(self.index_bytes)
        self.blobs = root / "blobs" / "sha256"
        if len(self.index.manifests) != 1:
            raise BundleError(
                f"configuration {root} has {len(self.index.manifests)} manifests, it has to have one"
            )
        self.document = ConfigDocument.open(self.blobs, self.index.manifests[0].digest)

    @property
    def name(self) -> str:
        return self.document.config.name

    @property
    def version(self) -> str:
        return self.document.config.version

    @property
    def artifacts(self) -> tuple[ConfigDocument, ...]:
        return (self.document,)

    @property
    def profiles(self) -> list[str]:
        """Of device profiles: a configuration is for any."""
        return []

    def verify(self) -> int:
        """Hash every blob. Returns bytes read; raises :class:`IntegrityError` naming the first wrong one."""
        return self.document.verify()


def open_release(root: Path) -> Bundle | ConfigBundle:
    """A bundle of engines or a configuration. Raises :class:`BundleError` / :class:`IntegrityError`."""
    _, index = read_index(root)
    return ConfigBundle(root) if index.annotations.get(ANNOTATION_TYPE) == "config" else Bundle(root)


def open_artifact(blobs: Path, digest: str) -> Variant | ConfigDocument:
    """What a manifest names: a variant or a configuration. Raises :class:`BundleError` / :class:`IntegrityError`."""
    manifest = _manifest(blobs, digest)
    if manifest.artifactType in (ARTIFACT_CONFIG, ARTIFACT_SET):
        return ConfigDocument.of(blobs, digest, manifest)
    return Variant.open(blobs, digest)


def _manifest(blobs: Path, digest: str) -> Manifest:
    return parse_json(
        Manifest,
        read_blob(blobs, digest),
        max_bytes=MAX_JSON_BYTES,
        what="variant manifest",
        error=BundleError,
    )
