"""The controller's blobs: uploaded once, verified on arrival, read chunk by chunk by the seeder."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from edgectl.core.bundle import CHUNK_SIZE, MAX_INDEX_BYTES, MAX_JSON_BYTES, Descriptor, Index, Manifest, read_bounded
from edgectl.core.errors import BundleError, IntegrityError
from edgectl.core.files import digest_of, hex_of, open_atomic, storage
from edgectl.core.schema import parse_json

__all__ = ["BlobStore"]


class BlobStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with storage(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self.folder / hex_of(digest)

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def find(self, prefix: str) -> str | None:
        """The digest of the blob whose name starts with these 32 hex digits."""
        if len(prefix) != 32 or set(prefix) - set("0123456789abcdef"):
            return None
        return next((f"sha256:{p.name}" for p in self.folder.glob(f"{prefix}*")), None)

    async def put(self, digest: str, body: AsyncIterator[bytes], max_bytes: int) -> int:
        """Stream a blob to disk. Raises :class:`IntegrityError` if it is not what ``digest`` says; then nothing is left."""
        sha, size = hashlib.sha256(), 0
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

    def chunk(self, digest: str, index: int) -> bytes:
        with storage(digest), self.path(digest).open("rb") as f:
            f.seek(index * CHUNK_SIZE)
            return f.read(CHUNK_SIZE)

    def hashes(self, digest: str) -> tuple[int, list[bytes]]:
        """Size in bytes, and the sha256 of every chunk."""
        found: list[bytes] = []
        with storage(digest), self.path(digest).open("rb") as f:
            while piece := f.read(CHUNK_SIZE):
                found.append(hashlib.sha256(piece).digest())
            return f.tell(), found

    def closure(self, index_digest: str) -> list[Descriptor]:
        """Every blob of a bundle but its index. Raises :class:`BundleError` / :class:`IntegrityError` if one is missing."""
        index = parse_json(
            Index, self._json(index_digest, MAX_INDEX_BYTES), max_bytes=MAX_INDEX_BYTES, what="index.json", error=BundleError
        )
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
                    raise IntegrityError(f"blob {blob.digest[:19]}… of this bundle was not uploaded", hint="publish it again")
                found[blob.digest] = blob
        return list(found.values())

    def _json(self, digest: str, max_bytes: int) -> bytes:
        data = read_bounded(self.path(digest), max_bytes)
        if digest_of(data) != digest:
            raise IntegrityError(f"blob {digest[:19]}… is corrupt")
        return data
