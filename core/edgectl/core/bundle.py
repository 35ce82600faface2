"""The bundle: an OCI image layout that holds every variant of one model (OCI image-spec 1.1,
``image-layout.md``).

On disk::

    oci-layout                      {"imageLayoutVersion": "1.0.0"}
    index.json                      one manifest per (profile, variant); its sha256 is the *bundle digest*
    blobs/sha256/<64 hex>           manifests, configs, layers; each named by its own digest

This module has the schema and the reader. Everything read is untrusted: sizes are bounded before bytes are
read, digests are checked before a name becomes a path. The writer is ``edgectl.builder.pack.package``; the device
keeps the same blobs in its store and opens a variant with :meth:`Variant.open` from there.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from edgectl.core.errors import BundleError, IntegrityError, UsageError
from edgectl.core.files import atomic_write, digest_of, file_digest, hex_of
from edgectl.core.measured import Measured
from edgectl.core.schema import Config, Digest, Message, Name, parse_json
from edgectl.core.task import TaskSpec

__all__ = [
    "ANNOTATION_CHUNKS",
    "ANNOTATION_PROFILE",
    "ANNOTATION_RUNTIME",
    "ANNOTATION_VARIANT",
    "CHUNK_SIZE",
    "LAYER_ACCEPTANCE",
    "LAYER_CALIBRATION",
    "LAYER_ENGINE",
    "LAYER_GOLDEN",
    "LAYER_LAYERS",
    "LAYER_PACKED",
    "LAYER_PROVENANCE",
    "LAYER_RANGES",
    "LAYER_REPORT",
    "LAYER_RTX",
    "LAYER_SBOM",
    "MAX_INDEX_BYTES",
    "MAX_JSON_BYTES",
    "MEDIA_CONFIG",
    "MEDIA_INDEX",
    "MEDIA_MANIFEST",
    "PREFERENCES",
    "AheadOfTime",
    "Bundle",
    "Descriptor",
    "GoldenSpec",
    "Index",
    "LayerReport",
    "Manifest",
    "Precision",
    "Preference",
    "Recipe",
    "Runtime",
    "SessionSettings",
    "TensorSpec",
    "Tolerance",
    "Unpacked",
    "Variant",
    "VariantConfig",
    "added_blobs",
    "select",
]

MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.edgectl.variant.config.v1+json"
LAYER_ENGINE = "application/vnd.edgectl.engine.v1.onnx"
"""The ONNX file that the runtime opens, or that the finaliser compiles (TensorRT)."""
LAYER_PACKED = "application/vnd.edgectl.engine.v1.packed"
"""In place of :data:`LAYER_ENGINE`: that file as :mod:`edgectl.core.codebook` packs it; see
:class:`Unpacked`."""
LAYER_GOLDEN = "application/vnd.edgectl.golden.v1.npz"
"""Arrays ``in/<sample>/<tensor>`` and ``out/<sample>/<tensor>``; see :class:`GoldenSpec`."""
LAYER_CALIBRATION = "application/vnd.edgectl.calibration.v1+json"
LAYER_RTX = "application/vnd.edgectl.engine.v1.rtx"
"""The engine that TensorRT-RTX made ahead of time of :data:`LAYER_ENGINE`; see :class:`AheadOfTime`."""
LAYER_RANGES = "application/vnd.edgectl.ranges.v1+json"
"""Implicit quantization (DLA before TensorRT 11): a JSON object of tensor → largest magnitude."""
LAYER_LAYERS = "application/vnd.edgectl.layers.v1+json"
"""A JSON list of :class:`LayerReport`."""
LAYER_REPORT = "application/vnd.edgectl.report.v1+json"
"""What was measured when the bundle was built; only people read it."""
LAYER_ACCEPTANCE = "application/vnd.edgectl.acceptance.v1+json"
"""TensorRT: what NVIDIA's compiler said of the graph where it was built (:class:`~edgectl.core.acceptance.Acceptance`)."""
LAYER_PROVENANCE = "application/vnd.in-toto+json"
LAYER_SBOM = "application/vnd.cyclonedx+json"

ANNOTATION_PROFILE = "io.edgectl.profile"
ANNOTATION_VARIANT = "io.edgectl.variant"
ANNOTATION_RUNTIME = "io.edgectl.runtime"
ANNOTATION_CHUNKS = "io.edgectl.chunks"
"""On every layer of more than one chunk: digest of the concatenated 32-byte sha256 of its chunks, in
order."""

# bytes
CHUNK_SIZE = 65536
MAX_INDEX_BYTES = 1 << 20
MAX_JSON_BYTES = 4 << 20  # a manifest, config or report

Runtime = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
Precision = Literal["float32", "float16", "int8"]
Preference = Literal["fast", "accurate", "low-power", "small-input"]
"""What a variant of a measured profile is best at; see :attr:`VariantConfig.preferences`."""
PREFERENCES: tuple[Preference, ...] = get_args(Preference)


class Descriptor(Message):
    """OCI content descriptor."""

    mediaType: str = Field(max_length=255)
    digest: Digest
    size: int = Field(ge=0, le=1 << 40)  # bytes
    annotations: dict[str, str] = {}


class Manifest(Message):
    """OCI image manifest of one variant."""

    schemaVersion: Literal[2] = 2
    mediaType: str = MEDIA_MANIFEST
    artifactType: str = "application/vnd.edgectl.variant.v1"
    config: Descriptor
    layers: tuple[Descriptor, ...] = Field(max_length=64)
    annotations: dict[str, str] = {}


class Index(Message):
    """OCI image index: the bundle. ``annotations`` carry ``org.opencontainers.image.title`` (name) and
    ``.version``."""

    schemaVersion: Literal[2] = 2
    mediaType: str = MEDIA_INDEX
    manifests: tuple[Descriptor, ...] = Field(max_length=256)
    annotations: dict[str, str] = {}


class TensorSpec(Config):
    """A graph input or output. ``shape`` is static; ``dtype`` a numpy name (``float32``, ``int64``)."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class SessionSettings(Config):
    """What the runtime is told. Measured together with the engine, so it travels with it."""

    threads: int = Field(default=1, ge=1, le=256)
    provider: Literal["cpu", "cuda"] = "cpu"
    """ONNX Runtime: where the graph runs. ``cuda`` is an error where it is not there, never a quiet fall
    back to the CPU."""
    spinning: bool = False
    """ONNX Runtime: its threads wait for each other busily inside a run; between runs they never do."""
    arena: bool = True
    """ONNX Runtime keeps the memory of its activations between runs in an arena."""
    optimization: Literal["all", "disabled"] = "all"
    """``disabled`` only for a file that this very runtime already optimised; Q/DQ models need ``all``."""
    precision_hint: str | None = None
    """OpenVINO: pinned, because its default differs between machines (bf16 where the CPU has it)."""


class Recipe(Config):
    """How one variant was made."""

    family: str
    """Kernel family of the Q/DQ placement: ``float``, ``x86-vnni``, ``x86-avx2``, ``arm64``, ``trt-gpu``,
    …; ``given``: a model in the quantized or float16 form that it came in."""
    passes: tuple[str, ...] = ()
    precision: Precision = "float32"
    activations: str | None = None
    weights: str | None = None
    excluded: tuple[str, ...] = ()
    """Nodes kept in float, by name."""
    method: str | None = None
    calibration: Digest | None = None
    """Digest of the calibration table the scales come from."""
    samples: int = 0
    plan: Literal["none", "on-device", "ahead"] = "none"
    """``on-device``: a TensorRT plan is compiled from this file by the finaliser on the device itself. ``ahead``: an engine
    was compiled where the bundle was built (:class:`AheadOfTime`)."""


class AheadOfTime(Config):
    """An engine that was compiled ahead of time: it opens in this very version of its runtime, on GPUs of these compute
    capabilities. Elsewhere the device compiles one from the graph."""

    compiler: str = Field(max_length=100)
    """``TensorRT-RTX 1.7.1.116``."""
    sm: tuple[str, ...] = Field(min_length=1, max_length=16)


class Tolerance(Config):
    """An output reproduces its golden one if its cosine is at least ``cosine`` and its largest absolute
    error ≤ ``max_abs``."""

    cosine: float
    max_abs: float


class Unpacked(Config):
    """The ONNX file that a packed engine layer decodes to. It is named here, in what was signed, and
    decoded at installation."""

    digest: Digest
    size: int = Field(ge=1, le=2 << 30)  # bytes


class GoldenSpec(Config):
    """How many golden samples there are and how close a finalised engine must come, per output."""

    samples: int = Field(ge=1, le=64)
    tolerances: dict[str, Tolerance]


class LayerReport(Config):
    """What became of one node: its precision, and what quantizing it cost."""

    node: str
    op: str
    precision: Precision
    reason: str = ""
    scale: float | None = None
    zero_point: int | None = None
    sqnr_db: float | None = None


class VariantConfig(Config):
    """The config blob of one variant."""

    schema_version: Literal[1] = 1
    name: str
    version: str
    profile: Name
    variant: Name
    runtime: Runtime
    requires: tuple[str, ...] = ()
    """What the machine must have, e.g. ``arch:x86_64``, ``isa:avx512_vnni``, ``sm:8.7``; see
    :func:`requirement_met`."""
    task: TaskSpec
    recipe: Recipe
    session: SessionSettings = SessionSettings()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: GoldenSpec
    accuracy: dict[str, float] = {}
    """Metric → value on the validation slice, e.g. ``{"ap50_vs_float": 0.993, "drop": 0.004}``."""
    measured: Measured | None = None
    """None where the target is not the machine that built it."""
    preferences: tuple[Preference, ...] = ()
    """What this variant is the best of its profile at: ``fast`` (least latency), ``accurate`` (fastest
    that loses at most a tenth of the accuracy budget), ``low-power`` (least processor time an inference),
    ``small-input`` (a smaller picture, with an accuracy budget of its own). Empty where nothing was
    measured."""
    batch: int = Field(default=1, ge=1, le=64)
    """Most pictures that one call takes; ``inputs`` and ``outputs`` give the shapes for one."""
    budget_ms: float | None = None
    expected_rss_mb: float | None = None
    """Resident memory (MiB) of a process that runs only this engine, where it was built; None where that
    was not measured."""
    ahead: AheadOfTime | None = None
    """Of the layer :data:`LAYER_RTX`."""
    speed_only: bool = False
    """Calibrated on random data: never for production."""
    unpacked: Unpacked | None = None
    """Set if, and only if, the engine travels packed."""
    fallback: bool = False
    """The CPU variant that any machine of the profile's architecture can run."""


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
            _read(blobs, digest),
            max_bytes=MAX_JSON_BYTES,
            what="variant manifest",
            error=BundleError,
        )
        config = parse_json(
            VariantConfig,
            _read(blobs, manifest.config.digest),
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
        total = len(_read(self.blobs, self.digest))
        for d in self.descriptors():
            verify_blob(self.blobs / hex_of(d.digest), d)
            total += d.size
        if self.config.unpacked is not None:
            self.unpack()
        return total


class Bundle:
    """A bundle on disk, index read and checked, variants opened."""

    def __init__(self, root: Path | str) -> None:
        """Open an OCI layout. Raises :class:`BundleError` / :class:`IntegrityError` with what is wrong."""
        self.root = root = Path(root)
        index = root / "index.json"
        if not root.exists():
            raise BundleError(f"there is no bundle {root}", hint="`edgectl build … --out DIR` writes one")
        if not (root / "oci-layout").is_file() or not index.is_file():
            raise BundleError(
                f"{root} is not a bundle: it has no oci-layout and index.json",
                hint="`edgectl build … --out DIR` writes one",
            )
        self.index_bytes = read_bounded(index, MAX_INDEX_BYTES)
        self.digest = digest_of(self.index_bytes)
        self.index = parse_json(
            Index, self.index_bytes, max_bytes=MAX_INDEX_BYTES, what="index.json", error=BundleError
        )
        self.blobs = root / "blobs" / "sha256"
        self.variants = tuple(Variant.open(self.blobs, d.digest) for d in self.index.manifests)
        if not self.variants:
            raise BundleError(f"bundle {root} has no variants", hint="build it again")

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


def select(
    variants: Iterable[Variant],
    facts: frozenset[str],
    *,
    profile: str | None,
    runtimes: Iterable[str],
    prefer: Preference | None = None,
) -> Variant:
    """The first variant whose runtime is there and whose ``requires`` the machine's ``facts`` cover.

    A variant of ``profile`` that has the ``prefer`` goes first, even if it is the fallback; where none has it
    (nothing was measured for that profile), the preference says nothing. Then variants of ``profile`` are
    preferred; a ``fallback`` variant of another profile is taken last. ``small-input`` variants have an
    accuracy budget of their own: nobody gets one who did not ask for it. Raises :class:`BundleError` naming
    what each variant lacks, and :class:`UsageError` for a preference that there is not.
    """
    if prefer is not None and prefer not in PREFERENCES:
        raise UsageError(f"there is no preference {prefer!r}", hint=f"there are: {', '.join(PREFERENCES)}")
    known = [v for v in variants if prefer == "small-input" or "small-input" not in v.config.preferences]
    have = set(runtimes)

    def rank(v: Variant) -> tuple[bool, bool, bool]:
        elsewhere = profile is not None and v.config.profile != profile
        return (
            prefer is not None and (elsewhere or prefer not in v.config.preferences),
            v.config.fallback,
            elsewhere,
        )

    ranked = sorted(known, key=rank)
    lacks = []
    for v in ranked:
        missing = [r for r in v.config.requires if not requirement_met(r, facts)]
        if v.config.runtime not in have:
            missing.append(f"runtime:{v.config.runtime}")
        if not missing:
            return v
        lacks.append(f"{v.config.profile}/{v.config.variant} needs {', '.join(missing)}")
    raise BundleError(
        f"no variant of this bundle runs on this machine ({platform.machine()}): {'; '.join(lacks)}",
        hint="build it with a profile that fits: `edgectl profiles probe` names one",
    )


def added_blobs(variants: Iterable[Variant]) -> list[list[Descriptor]]:
    """The blobs of each variant that none before it has: what it costs to have it in the bundle, too."""
    seen: set[str] = set()
    added = []
    for v in variants:
        added.append([d for d in v.descriptors() if d.digest not in seen])
        seen |= {d.digest for d in v.descriptors()}
    return added


def requirement_met(requirement: str, facts: frozenset[str]) -> bool:
    """Whether a machine's facts (``arch:x86_64``, ``isa:avx2``, …) cover one requirement; ``a|b`` means
    either."""
    return any(alternative in facts for alternative in requirement.split("|"))


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


def _read(blobs: Path, digest: str) -> bytes:
    data = read_bounded(blobs / hex_of(digest), MAX_JSON_BYTES)
    if digest_of(data) != digest:
        raise IntegrityError(f"blob {digest[:19]}… is corrupt", hint="build or fetch the bundle again")
    return data
