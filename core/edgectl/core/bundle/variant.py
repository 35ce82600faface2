"""One variant of a bundle, read from its blobs. Everything read is untrusted: sizes are bounded before bytes are read,
digests are checked before a name becomes a path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from edgectl.core.bundle.schema import (
    LAYER_ENGINE,
    LAYER_PACKED,
    MAX_JSON_BYTES,
    Descriptor,
    Manifest,
    VariantConfig,
)
from edgectl.core.errors import BundleError, IntegrityError
from edgectl.core.files import atomic_write, digest_of, file_digest, hex_of
from edgectl.core.schema import parse_json

__all__ = ["Variant", "added_blobs", "read_blob", "read_bounded", "verify_blob"]

M = TypeVar("M", bound=BaseModel)


class Variant:
    """One variant of a bundle whose blobs lie in ``blobs`` (a folder of files named by 64 hex digits)."""

    def __init__(self, blobs: Path, digest: str, manifest: Manifest, config: VariantConfig) -> None:
        self.blobs = blobs
        self.digest = digest
        """Digest of the manifest: the identity of this variant."""
        self.manifest = manifest
        self.config = config

    @classmethod
    def open(cls, blobs: Path, digest: str) -> Variant:
        """Read manifest and config, both checked against their digests.

        Raises :class:`BundleError` or :class:`IntegrityError`.
        """
        manifest = parse_json(
            Manifest,
            read_blob(blobs, digest),
            max_bytes=MAX_JSON_BYTES,
            what="variant manifest",
            error=BundleError,
        )
        config = parse_json(
            VariantConfig,
            read_blob(blobs, manifest.config.digest),
            max_bytes=MAX_JSON_BYTES,
            what="variant config",
            error=BundleError,
        )
        kinds = {d.mediaType for d in manifest.layers} & {LAYER_ENGINE, LAYER_PACKED}
        if (config.unpacked is not None) != (LAYER_PACKED in kinds) or len(kinds) > 1:
            raise BundleError(
                f"the engine layer of variant {config.variant} is not what its config says: packed, or as it is"
            )
        return cls(blobs, digest, manifest, config)

    def layer(self, media_type: str) -> Path | None:
        """Path of the first layer of this type; None if the variant has none.

        The engine of a packed variant: where :meth:`engine` of an installation puts it.
        """
        if media_type == LAYER_ENGINE and self.config.unpacked is not None:
            return self.blobs / hex_of(self.config.unpacked.digest)
        for d in self.manifest.layers:
            if d.mediaType == media_type:
                return self.blobs / hex_of(d.digest)
        return None

    def need(self, media_type: str) -> Path:
        """Like :meth:`layer`, but a missing one is a :class:`BundleError`."""
        path = self.layer(media_type)
        if path is None or not path.is_file():
            raise BundleError(
                f"variant {self.config.variant} has no {media_type.rsplit('.', 2)[-2]} layer",
                hint="build the bundle again",
            )
        return path

    def document(self, media_type: str, model: type[M], what: str) -> M | None:
        """A layer of JSON; None if the variant has none. Raises :class:`BundleError` for one that is malformed."""
        path = self.layer(media_type)
        if path is None:
            return None
        data = read_bounded(path, MAX_JSON_BYTES)
        return parse_json(model, data, max_bytes=MAX_JSON_BYTES, what=what, error=BundleError)

    def unpack(self) -> bytes:
        """The ONNX file of a packed variant, decoded from its layer. The size that was signed bounds what is
        taken of memory.

        Raises :class:`BundleError` if the layer is missing or too large, :class:`IntegrityError` if it
        decodes to anything else than the config says.
        """
        # numpy: an agent whose engines are not packed does without
        from edgectl.core.codebook import unpack

        unpacked = self.config.unpacked
        if unpacked is None:
            raise BundleError(f"the engine of variant {self.config.variant} is not packed")
        packed = read_bounded(self.need(LAYER_PACKED), unpacked.size + MAX_JSON_BYTES)
        data = unpack(packed, max_bytes=unpacked.size)
        if len(data) != unpacked.size or digest_of(data) != unpacked.digest:
            raise IntegrityError(
                f"the packed engine of variant {self.config.variant} decodes to something else than was signed",
                hint="build the bundle again",
            )
        return data

    def engine(self, folder: Path) -> Path:
        """The ONNX file. Of a packed variant that is not installed (a bundle on a host) it is decoded into
        ``folder``, once."""
        path = self.layer(LAYER_ENGINE)
        if self.config.unpacked is None or (path is not None and path.is_file()):
            return self.need(LAYER_ENGINE)
        kept = folder / hex_of(self.config.unpacked.digest)
        if not (kept.is_file() and file_digest(kept) == self.config.unpacked.digest):
            atomic_write(kept, self.unpack())
        return kept

    def descriptors(self) -> Iterator[Descriptor]:
        """Config and layers: every blob but the manifest itself."""
        yield self.manifest.config
        yield from self.manifest.layers

    def installed(self) -> Iterator[Descriptor]:
        """What lies on a device: :meth:`descriptors`, and the decoded engine if it came packed."""
        yield from self.descriptors()
        if (u := self.config.unpacked) is not None:
            yield Descriptor(mediaType=LAYER_ENGINE, digest=u.digest, size=u.size)

    def verify(self) -> int:
        """Hash every blob of this variant, and what a packed engine decodes to.

        Returns the bytes read; raises :class:`IntegrityError` at the first wrong one.
        """
        total = len(read_blob(self.blobs, self.digest))
        for d in self.descriptors():
            verify_blob(self.blobs / hex_of(d.digest), d)
            total += d.size
        if self.config.unpacked is not None:
            self.unpack()
        return total


def added_blobs(variants: Iterable[Variant]) -> list[list[Descriptor]]:
    """The blobs of each variant that none before it has: what it costs to have it in the bundle, too."""
    seen: set[str] = set()
    added = []
    for v in variants:
        added.append([d for d in v.descriptors() if d.digest not in seen])
        seen |= {d.digest for d in v.descriptors()}
    return added


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A whole file of at most ``max_bytes``; :class:`BundleError` if it is missing or larger."""
    try:
        with path.open("rb") as f:
            data = f.read(max_bytes + 1)
    except OSError as e:
        raise BundleError(
            f"cannot read {path.name}: {e.strerror}", hint="the bundle is incomplete: build or fetch it again"
        ) from e
    if len(data) > max_bytes:
        raise BundleError(f"{path.name} has more than {max_bytes} bytes")
    return data


def verify_blob(path: Path, d: Descriptor) -> None:
    """Compare one blob with its descriptor: size first, then sha256. Raises :class:`IntegrityError`."""
    try:
        size = path.stat().st_size
    except OSError as e:
        raise IntegrityError(
            f"blob {d.digest[:19]}… ({d.mediaType}) is missing", hint="build or fetch the bundle again"
        ) from e
    if size != d.size or file_digest(path) != d.digest:
        raise IntegrityError(
            f"blob {d.digest[:19]}… ({d.mediaType}) is corrupt", hint="build or fetch the bundle again"
        )


def read_blob(blobs: Path, digest: str) -> bytes:
    data = read_bounded(blobs / hex_of(digest), MAX_JSON_BYTES)
    if digest_of(data) != digest:
        raise IntegrityError(f"blob {digest[:19]}… is corrupt", hint="build or fetch the bundle again")
    return data
