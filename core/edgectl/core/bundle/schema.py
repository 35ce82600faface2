"""What stands in a bundle: media types, limits, and the models of its index, manifests and configs."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from edgectl.core.licence import Licence
from edgectl.core.measured import Measured
from edgectl.core.memory import EngineMemory
from edgectl.core.schema import Config, Digest, Message, Name
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
    "LAYER_WEIGHTS",
    "LIGHTER",
    "MAX_INDEX_BYTES",
    "MAX_JSON_BYTES",
    "MEDIA_CONFIG",
    "MEDIA_INDEX",
    "MEDIA_MANIFEST",
    "PREFERENCES",
    "AheadOfTime",
    "Descriptor",
    "GoldenSpec",
    "Index",
    "LayerReport",
    "LighterPreference",
    "Manifest",
    "Precision",
    "Preference",
    "Recipe",
    "Runtime",
    "SessionSettings",
    "TensorSpec",
    "Tolerance",
    "Unpacked",
    "VariantConfig",
]

MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_CONFIG = "application/vnd.edgectl.variant.config.v1+json"
LAYER_ENGINE = "application/vnd.edgectl.engine.v1.onnx"
"""The ONNX file that the runtime opens, or that the finaliser compiles (TensorRT)."""
LAYER_PACKED = "application/vnd.edgectl.engine.v1.packed"
"""In place of :data:`LAYER_ENGINE`: that file as :mod:`edgectl.core.codebook` packs it; see
:class:`Unpacked`."""
LAYER_WEIGHTS = "application/vnd.edgectl.weights.v1"
"""Weights of an engine that is too large for one ONNX file: external data of :data:`LAYER_ENGINE`, which names it by the 64
hex digits of its digest. Both lie in the folder of blobs, so the runtime opens the engine from where it lies."""
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
ANNOTATION_TYPE = "io.edgectl.type"
"""On the index: ``config`` for a configuration; without it, it is a bundle of engines."""
ANNOTATION_CHUNKS = "io.edgectl.chunks"
"""On every layer of more than one chunk: digest of the concatenated 32-byte sha256 of its chunks, in
order."""

# bytes
CHUNK_SIZE = 65536
MAX_INDEX_BYTES = 1 << 20
MAX_JSON_BYTES = 4 << 20  # a manifest, config or report

Runtime = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]
Preference = Literal["fast", "accurate", "low-power", "small-input"]
"""What a variant of a measured profile is best at; see :attr:`VariantConfig.preferences`."""
PREFERENCES: tuple[Preference, ...] = get_args(Preference)
LighterPreference = Literal["low-power", "small-input"]
"""Preferences of variants that may take the place of another one where less has to be done."""
LIGHTER: tuple[LighterPreference, ...] = get_args(LighterPreference)


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
    """OpenVINO: what float layers compute in: ``f32``, ``bf16`` or ``f16``. Pinned, because its default differs
    between machines (bf16 where the CPU has it)."""


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
    memory: EngineMemory | None = None
    """What it adds to a process that opens it: a device sums it with what runs before it activates anything. None where
    nobody knows (bundles from before, variants that were neither measured nor compiled where they were built)."""
    ahead: AheadOfTime | None = None
    """Of the layer :data:`LAYER_RTX`."""
    licence: Licence | None = None
    """Of the weights; None: not known."""
    speed_only: bool = False
    """Calibrated on random data: never for production."""
    unpacked: Unpacked | None = None
    """Set if, and only if, the engine travels packed."""
    fallback: bool = False
    """The CPU variant that any machine of the profile's architecture can run."""
