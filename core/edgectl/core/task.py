"""What a model is for: how its input is made, how its output is read, how good it is judged.

A :class:`TaskSpec` travels inside every bundle, so that what was calibrated and measured on the host is what
runs on the device. The decoders and feature extractors that these specs name live in ``edgectl.pipelines``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from edgectl.core.schema import Config

__all__ = ["AudioInput", "DecodeSpec", "FeatureSpec", "ImageInput", "Metric", "TaskSpec", "TensorInput"]

Metric = Literal["detection", "top1", "pixels", "sqnr"]
"""``detection``: AP at IoU 0.5 against labels or against the float model; ``top1``: agreement of the arg max;
``pixels``: agreement of the class of each pixel;
``sqnr``: signal-to-quantization-noise ratio and cosine of the raw outputs, for everything else."""


class ImageInput(Config):
    """A camera frame as a tensor. ``value = (pixel * scale - mean) / std``, channel-wise in the order of
    ``color``."""

    kind: Literal["image"] = "image"
    tensor: str | None = None
    """Input name; None: the graph's only input."""
    width: int = Field(ge=8, le=8192)
    height: int = Field(ge=8, le=8192)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "uint8"] = "float32"
    color: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fit: Literal["letterbox", "stretch"] = "letterbox"
    pad: int = Field(default=114, ge=0, le=255)
    adapts: bool = Field(default=False, exclude=True)
    """The model's own size, layout and type come first; those above are for what it leaves open. Never
    part of a bundle."""


class FeatureSpec(Config):
    """How audio samples become features. Everything that must agree between training, builder and device.

    ``waveform``: raw samples, ``window`` new samples after ``context`` old ones (Silero: 512 after 64).
    ``log_mel`` / ``mfcc``: frames of ``window`` samples every ``hop``; ``frames`` of them make one input. A
    frame: periodic Hann window, FFT of ``fft`` points, ``spectrum``, triangular filters on the HTK mel scale
    from ``mel_low`` to ``mel_high`` Hz, ``ln(x + log_floor)``. ``mfcc``: DCT-II of that, scaled by sqrt(2 /
    mels), the first ``coefficients`` (the arithmetic of ``tf.signal``, which MLPerf Tiny's keyword model was
    trained with).
    """

    kind: Literal["waveform", "log_mel", "mfcc"]
    window: int = Field(ge=16, le=65536, description="samples")
    hop: int = Field(ge=16, le=65536, description="samples")
    context: int = Field(default=0, ge=0, le=65536, description="samples")
    fft: int = Field(default=512, ge=16, le=65536)
    spectrum: Literal["power", "magnitude"] = "power"
    mels: int = Field(default=40, ge=1, le=256)
    mel_low: float = Field(default=20.0, ge=0, description="Hz")
    mel_high: float = Field(default=4000.0, gt=0, description="Hz")
    coefficients: int = Field(default=10, ge=1, le=256)
    frames: int = Field(default=1, ge=1, le=4096)
    log_floor: float = Field(default=1e-6, gt=0)
    peak_normalise: bool = False
    """Divide each input's samples by the largest of them before the features (MLPerf Tiny keyword spotting
    does)."""

    @model_validator(mode="after")
    def _window_fits(self) -> FeatureSpec:
        if self.kind != "waveform" and not self.hop <= self.window <= self.fft:
            raise ValueError("hop ≤ window ≤ fft must hold")
        return self

    @property
    def samples(self) -> int:
        """Samples that one input of the model spans."""
        return (
            self.context + self.window
            if self.kind == "waveform"
            else self.window + (self.frames - 1) * self.hop
        )


class AudioInput(Config):
    """A stretch of mono audio, samples in ±1, as a tensor."""

    kind: Literal["audio"] = "audio"
    tensor: str | None = None
    rate: Literal[8000, 16000] = 16000
    features: FeatureSpec
    shape: tuple[int, ...] | None = None
    """Shape of one input, batch included; None: ``(1, frames, bins)``."""
    adapts: bool = Field(default=False, exclude=True)
    """The model's own shape and number of frames come first. Never part of a bundle."""


class TensorInput(Config):
    """Nothing is known of the input: calibration comes as an ``.npz`` of the graph's own inputs."""

    kind: Literal["tensor"] = "tensor"


class DecodeSpec(Config):
    """How outputs become detections, probabilities or keywords.

    ``kind`` names a decoder, or is ``none``: outputs are left as they are. What a decoder takes besides is its
    own business: :attr:`options` are kept as they were written, and checked by the decoder
    (``edgectl.pipelines.decoders``).
    """

    model_config = ConfigDict(extra="allow")

    kind: str = Field(default="none", min_length=1, max_length=64)
    score: float = Field(default=0.35, ge=0, le=1)
    """From this score on, something is a detection."""
    iou: float = Field(default=0.45, gt=0, le=1)
    """Boxes of one class that overlap by more are one object."""
    nms: Literal["class", "agnostic", "none"] | None = None
    """Which boxes suppress each other: those of one ``class``, all of them (``agnostic``), ``none``. Not given: what
    the model's authors do."""
    max_detections: int = Field(default=100, ge=1, le=10_000)
    """The best so many of a picture are kept."""

    @property
    def options(self) -> dict[str, Any]:
        return self.model_extra or {}


class TaskSpec(Config):
    """A named task: input, decode, labels and metric. ``labels[i]`` names class ``i``."""

    name: str = Field(min_length=1, max_length=64)
    input: Annotated[ImageInput | AudioInput | TensorInput, Field(discriminator="kind")]
    decode: DecodeSpec = DecodeSpec()
    labels: tuple[str, ...] = Field(default=(), max_length=65536)
    metric: Metric = "sqnr"
    background: tuple[str, ...] = ()
    """Labels that are never an event (``silence``, ``unknown``)."""

    @model_validator(mode="after")
    def _background_is_labelled(self) -> TaskSpec:
        if unknown := set(self.background) - set(self.labels):
            raise ValueError(f"background names labels that do not exist: {', '.join(sorted(unknown))}")
        return self
