"""The controller's blobs: uploaded once, verified on arrival, read chunk by chunk by the seeder."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from edgectl.core.bundle import (
    CHUNK_SIZE,
    LAYER_ENGINE,
    MAX_INDEX_BYTES,
    MAX_JSON_BYTES,
    Descriptor,
    Index,
    Manifest,
    Variant,
    VariantConfig,
    read_bounded,
)
from edgectl.core.bundle.config_release import ConfigDocument, PartRelease, open_artifact
from edgectl.core.delta import Span, common_bytes, make_delta, tensor_spans
from edgectl.core.errors import BundleError, IntegrityError, ProtocolError
from edgectl.core.files import atomic_write, digest_of, fsync_dir, hex_of, open_atomic, storage
from edgectl.core.schema import Message, parse_json
from edgectl.core.transfer import DeltaOffer

__all__ = ["BlobStore", "ReleaseType"]

_KEEP_SHARE = 0.6
"""Of the whole: a larger difference is not worth keeping."""
_MAX_OFFERS = 8
# bytes of a blob that is taken into memory to make a difference
_MAX_DELTA_BLOB = 512 << 20
_MAX_OTHERS = 3
"""Bases for one engine, beside its namesake."""
_MAX_OTHER_BYTES = 256 << 20
"""Of all engines of a bundle that differences from such bases are made for: ten seconds."""

_YOUNG_S = 86400.0
_NAME = re.compile(r"[0-9a-f]{64}")

_Engines = dict[tuple[str, str], Descriptor]
"""By profile and variant name."""


class _Offers(Message):
    offers: tuple[DeltaOffer, ...] = ()


class ReleaseType(NamedTuple):
    name: Literal["engine", "config", "set"]
    parts: Mapping[str, PartRelease] = {}
    """Of a set."""


class BlobStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._deltas = folder.with_name(folder.name + "-deltas")
        self._hashes: dict[str, tuple[int, list[bytes]]] = {}
        self._expected: dict[str, float] = {}
        """Blobs of a release that is being published: when they were asked for or came (Unix time)."""
        self._types: dict[str, ReleaseType] = {}
        with storage(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self.folder / hex_of(digest)

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def expects(self, digest: str) -> bool:
        """Whether it is here. Who asks is about to name it: it is not removed meanwhile."""
        self._expected[digest] = time.time()
        return self.has(digest)

    def arrived(self, digests: Iterable[str]) -> None:
        """A release names these now."""
        for digest in digests:
            self._expected.pop(digest, None)

    def find(self, prefix: str) -> str | None:
        """The digest of the blob whose name starts with these 32 hex digits."""
        if len(prefix) != 32 or set(prefix) - set("0123456789abcdef"):
            return None
        return next((f"sha256:{p.name}" for p in self.folder.glob(f"{prefix}*")), None)

    async def put(self, digest: str, body: AsyncIterator[bytes], max_bytes: int) -> int:
        """Stream a blob to disk. Raises :class:`IntegrityError` if it is not what ``digest`` says; then
        nothing is left."""
        sha, size = hashlib.sha256(), 0
        self._expected[digest] = time.time()
        with open_atomic(self.path(digest)) as f:
            async for piece in body:
                size += len(piece)
                if size > max_bytes:
                    raise BundleError(f"blob {digest[:19]}… has more than {max_bytes} bytes")
                sha.update(piece)
                f.write(piece)
            if f"sha256:{sha.hexdigest()}" != digest:
                raise IntegrityError(f"blob {digest[:19]}… arrived corrupt", hint="upload it again")
        return size

    def size(self, digest: str) -> int:
        with storage(digest):
            return self.path(digest).stat().st_size

    def chunk(self, digest: str, index: int) -> bytes:
        with storage(digest), self.path(digest).open("rb", buffering=0) as f:
            return os.pread(f.fileno(), CHUNK_SIZE, index * CHUNK_SIZE)

    def deltas(self, digest: str) -> tuple[DeltaOffer, ...]:
        """The differences from which a device that has another blob can make this one."""
        path = self._deltas / hex_of(digest)
        if not path.is_file():
            return ()
        return parse_json(
            _Offers, path.read_bytes(), max_bytes=MAX_JSON_BYTES, what="list of differences"
        ).offers

    def hashes(self, digest: str) -> tuple[int, list[bytes]]:
        """Size in bytes, and the sha256 of every chunk. Remembered: a blob never changes."""
        if digest in self._hashes:
            return self._hashes[digest]
        found: list[bytes] = []
        with storage(digest), self.path(digest).open("rb") as f:
            while piece := f.read(CHUNK_SIZE):
                found.append(hashlib.sha256(piece).digest())
            self._hashes[digest] = f.tell(), found
        return self._hashes[digest]

    def make_deltas(self, new: str, old: str) -> list[DeltaOffer]:
        """Make the differences with which devices that run bundle ``old`` get bundle ``new``. Returns those
        that were kept; they are offered from now on, each to the devices that have its base.

        Each new engine gets one from its namesake (profile and variant), and from the engines of the same
        profile that have most in common with it: a variant may have been renamed, or a device may change to
        another one. Kept is what is clearly smaller.

        Raises :class:`BundleError` / :class:`IntegrityError` if a bundle is not here whole.
        """
        kept = []
        for blob, base in _worth_trying(self._engines(new), self._engines(old), self._common()):
            known = self.deltas(blob.digest)
            if any(d.base == base.digest for d in known):
                continue
            with storage(blob.digest):
                data = make_delta(self.path(base.digest).read_bytes(), self.path(blob.digest).read_bytes())
            if data is None or len(data) > _KEEP_SHARE * blob.size:
                continue
            offer = DeltaOffer(base=base.digest, digest=digest_of(data), size=len(data))
            atomic_write(self.path(offer.digest), data)
            atomic_write(
                self._deltas / hex_of(blob.digest), _Offers(offers=(offer, *known)[:_MAX_OFFERS]).encode()
            )
            kept.append(offer)
        return kept

    def _common(self) -> Callable[[Descriptor, Descriptor], float]:
        """Which share of an engine's bytes is in tensors that a base has, too. Each file is read once."""
        spans: dict[str, list[Span]] = {}

        def of(d: Descriptor) -> list[Span]:
            if d.digest not in spans:
                with storage(d.digest), suppress(ProtocolError):
                    spans[d.digest] = tensor_spans(self.path(d.digest).read_bytes())
            return spans.setdefault(d.digest, [])  # none: it is no ONNX file

        return lambda blob, base: common_bytes(of(base), of(blob)) / blob.size

    def _engines(self, index_digest: str) -> _Engines:
        """The engine layer of each variant, by profile and variant name."""
        found = {}
        self.closure(index_digest)
        for variant in self.variants(index_digest):
            for layer in variant.manifest.layers:
                if layer.mediaType == LAYER_ENGINE:
                    found[variant.config.profile, variant.config.variant] = layer
        return found

    def configs(self, index_digest: str) -> list[VariantConfig]:
        """Of each variant of a bundle. Raises :class:`BundleError` / :class:`IntegrityError`."""
        return [v.config for v in self.variants(index_digest)]

    def variants(self, index_digest: str) -> list[Variant]:
        """Of a bundle; none of a configuration. Raises :class:`BundleError` / :class:`IntegrityError`."""
        found = (open_artifact(self.folder, d.digest) for d in self._index(index_digest).manifests)
        return [v for v in found if isinstance(v, Variant)]

    def configuration(self, index_digest: str) -> ConfigDocument | None:
        """None where the release is a bundle of engines. Raises :class:`BundleError` / :class:`IntegrityError`."""
        found = (open_artifact(self.folder, d.digest) for d in self._index(index_digest).manifests)
        return next((c for c in found if isinstance(c, ConfigDocument)), None)

    def type_of(self, index_digest: str) -> ReleaseType:
        """Remembered: a release never changes. Raises :class:`BundleError` / :class:`IntegrityError`."""
        if (known := self._types.get(index_digest)) is None:
            document = self.configuration(index_digest)
            known = ReleaseType("engine")
            if document is not None:
                parts = document.config.parts
                known = ReleaseType("set" if parts else "config", parts)
            self._types[index_digest] = known
        return known

    def _index(self, digest: str) -> Index:
        data = self._json(digest, MAX_INDEX_BYTES)
        return parse_json(Index, data, max_bytes=MAX_INDEX_BYTES, what="index.json", error=BundleError)

    def closure(self, index_digest: str) -> list[Descriptor]:
        """Every blob of a bundle but its index. Raises :class:`BundleError` / :class:`IntegrityError` if
        one is missing."""
        index = self._index(index_digest)
        found: dict[str, Descriptor] = {}
        for d in index.manifests:
            manifest = parse_json(
                Manifest,
                self._json(d.digest, MAX_JSON_BYTES),
                max_bytes=MAX_JSON_BYTES,
                what="variant manifest",
                error=BundleError,
            )
            for blob in (d, manifest.config, *manifest.layers):
                if not self.has(blob.digest) or self.path(blob.digest).stat().st_size != blob.size:
                    raise IntegrityError(
                        f"blob {blob.digest[:19]}… of this bundle was not uploaded", hint="publish it again"
                    )
                found[blob.digest] = blob
        return list(found.values())

    def offered(self, index_digest: str) -> list[str]:
        """What devices may fetch of a bundle: all its blobs, and the differences to them. Raises like
        :meth:`closure`."""
        blobs = [index_digest, *(d.digest for d in self.closure(index_digest))]
        return [*blobs, *(offer.digest for blob in blobs for offer in self.deltas(blob))]

    def collect(self, kept: Collection[str], gone: Collection[str] = ()) -> dict[str, int]:
        """Remove every blob but ``kept``, the bases of differences to these, and what somebody is about to
        name; of those that are not in ``gone`` only what came a day ago: its upload may still go on. Returns
        digest → bytes.

        A kill in the middle leaves whole blobs, which the next run finds. No release may be taking its blobs
        meanwhile.
        """
        young_s = time.time() - _YOUNG_S
        self._expected = {d: at for d, at in self._expected.items() if at > young_s}
        kept = {*kept, *self._expected, *(offer.base for d in kept for offer in self.deltas(d))}
        removed: dict[str, int] = {}
        with storage(str(self.folder)):
            for path in sorted(self.folder.iterdir()):
                digest = f"sha256:{path.name}"
                if not _NAME.fullmatch(path.name) or digest in kept:
                    continue
                found = path.stat()
                if digest in gone or found.st_mtime < young_s:
                    # first: no difference to a blob that is not here
                    (self._deltas / path.name).unlink(missing_ok=True)
                    path.unlink()
                    self._hashes.pop(digest, None)
                    removed[digest] = found.st_size
            if removed:
                fsync_dir(self.folder)
        return removed

    def _json(self, digest: str, max_bytes: int) -> bytes:
        data = read_bounded(self.path(digest), max_bytes)
        if digest_of(data) != digest:
            raise IntegrityError(f"blob {digest[:19]}… is corrupt")
        return data


def _worth_trying(
    new: _Engines, old: _Engines, common: Callable[[Descriptor, Descriptor], float]
) -> list[tuple[Descriptor, Descriptor]]:
    """(engine, base) of the differences to make: every engine with its namesake, then the best of the
    others, within bounds."""
    found: dict[tuple[str, str], tuple[Descriptor, Descriptor]] = {}
    others = []
    for (profile, variant), blob in new.items():
        bases = {
            base.digest: base for (p, _), base in old.items() if p == profile and base.size <= _MAX_DELTA_BLOB
        }
        if blob.digest in bases or not CHUNK_SIZE <= blob.size <= _MAX_DELTA_BLOB:
            continue
        namesake = old.get((profile, variant))
        if namesake is not None and bases.pop(namesake.digest, None) is not None:
            found[blob.digest, namesake.digest] = blob, namesake
        ranked = sorted(((common(blob, base), blob, base) for base in bases.values()), key=lambda r: -r[0])
        others += [r for r in ranked if r[0] >= 1 - _KEEP_SHARE][:_MAX_OTHERS]
    left = _MAX_OTHER_BYTES
    for _, blob, base in sorted(others, key=lambda r: -r[0]):
        if (blob.digest, base.digest) not in found and blob.size <= left:
            found[blob.digest, base.digest] = blob, base
            left -= blob.size
    return list(found.values())
