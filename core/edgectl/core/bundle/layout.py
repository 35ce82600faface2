"""The bundle on disk: an OCI image layout (OCI image-spec 1.1, ``image-layout.md``)::

    oci-layout                      {"imageLayoutVersion": "1.0.0"}
    index.json                      one manifest per (profile, variant); its sha256 is the *bundle digest*
    blobs/sha256/<64 hex>           manifests, configs, layers; each named by its own digest

A device keeps the same blobs in its store and opens a variant with :meth:`Variant.open` from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgectl.core.bundle.choice import Selected, Unfit, select, select_fitting
from edgectl.core.bundle.schema import ANNOTATION_TYPE, MAX_INDEX_BYTES, Index, Preference
from edgectl.core.bundle.variant import Variant, read_bounded
from edgectl.core.errors import BundleError
from edgectl.core.files import digest_of
from edgectl.core.schema import parse_json

__all__ = ["Bundle", "read_index"]


class Bundle:
    """A bundle on disk, index read and checked, variants opened."""

    def __init__(self, root: Path | str) -> None:
        """Open an OCI layout. Raises :class:`BundleError` / :class:`IntegrityError` with what is wrong."""
        self.root = root = Path(root)
        self.index_bytes, self.index = read_index(root)
        self.digest = digest_of(self.index_bytes)
        if self.index.annotations.get(ANNOTATION_TYPE) == "config":
            raise BundleError(
                f"{root} is a configuration and has no engines", hint="`edgectl config show` shows it"
            )
        self.blobs = root / "blobs" / "sha256"
        self.variants = tuple(Variant.open(self.blobs, d.digest) for d in self.index.manifests)
        if not self.variants:
            raise BundleError(f"bundle {root} has no variants", hint="build it again")

    @property
    def artifacts(self) -> tuple[Variant, ...]:
        """What its manifests name."""
        return self.variants

    @property
    def profiles(self) -> list[str]:
        """The device profiles that it has variants for."""
        return sorted({v.config.profile for v in self.variants})

    @property
    def name(self) -> str:
        return self.index.annotations.get("org.opencontainers.image.title", self.variants[0].config.name)

    @property
    def version(self) -> str:
        return self.index.annotations.get("org.opencontainers.image.version", self.variants[0].config.version)

    def verify(self) -> int:
        """Hash every blob. Returns bytes read; raises :class:`IntegrityError` naming the first wrong blob."""
        return sum(v.verify() for v in self.variants)

    def select(
        self,
        facts: frozenset[str],
        *,
        profile: str | None = None,
        runtimes: Iterable[str] = ("onnxruntime",),
        prefer: Preference | None = None,
    ) -> Variant:
        """The best variant for a machine: the first, in the order of the index, that it meets (see
        :func:`select`)."""
        return select(self.variants, facts, profile=profile, runtimes=runtimes, prefer=prefer)

    def select_fitting(
        self,
        facts: frozenset[str],
        *,
        profile: str | None = None,
        runtimes: Iterable[str] = ("onnxruntime",),
        prefer: Preference | None = None,
        unfit: Unfit,
    ) -> Selected:
        """The same of those that are not ``unfit`` (see :func:`select_fitting`)."""
        return select_fitting(
            self.variants, facts, profile=profile, runtimes=runtimes, prefer=prefer, unfit=unfit
        )


def read_index(root: Path) -> tuple[bytes, Index]:
    """The bytes of ``index.json`` of an OCI layout, and what they say. Raises :class:`BundleError`."""
    index = root / "index.json"
    if not root.exists():
        raise BundleError(f"there is no bundle {root}", hint="`edgectl build … --out DIR` writes one")
    if not (root / "oci-layout").is_file() or not index.is_file():
        raise BundleError(
            f"{root} is not a bundle: it has no oci-layout and index.json",
            hint="`edgectl build … --out DIR` writes one",
        )
    data = read_bounded(index, MAX_INDEX_BYTES)
    return data, parse_json(Index, data, max_bytes=MAX_INDEX_BYTES, what="index.json", error=BundleError)
