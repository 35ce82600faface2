"""What a device profile says: CPU, GPU, runtimes and limits of one kind of device.

A profile is a claim about a kind of device; :mod:`edgectl.device_profiles.machine` says what one machine
really is.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from edgectl.core.bundle import Runtime
from edgectl.core.schema import Config, Name

__all__ = ["CpuSpec", "DeviceLimits", "DeviceProfile", "Family", "GpuSpec", "RtxSpec", "TensorRtSpec"]

Family = Literal["x86-vnni", "x86-avx2", "arm64", "trt-gpu", "trt-dla"]
"""Kernel family: which form of int8 the device's kernels take."""

Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+){0,3}$")]


class CpuSpec(Config):
    arch: Literal["any", "x86_64", "aarch64"]
    """``any``: the float fallback runs everywhere; int8 is written for the architecture that builds."""
    family: Literal["host", "x86-vnni", "x86-avx2", "arm64"]
    """``host``: resolved to the family of the machine that builds."""
    isa: tuple[str, ...] = ()
    """Facts that the int8 variant of this profile needs, e.g. ``isa:avx512_vnni|isa:avx_vnni``."""
    max_threads: int = Field(default=2, ge=1, le=256)
    """Cores that inference may take; the rest belongs to capture, tracking and the link."""


class GpuSpec(Config):
    sm: tuple[Version, ...] = Field(min_length=1)
    """Compute capabilities that this profile covers, e.g. ``8.7``."""
    dla_cores: int = Field(default=0, ge=0, le=4)
    unified_memory: bool = False


class TensorRtSpec(Config):
    min: Version
    max: Version
    """Inclusive, compared number by number: ``11.4`` covers ``11.4.0.106``."""
    workspace_mb: int = Field(default=1024, ge=64, le=65536)
    build_minutes: int = Field(default=20, ge=1, le=240)
    memory_mb: int = Field(default=6144, ge=256, le=1 << 20)
    """Resident memory that a compile may take; more, and it is stopped."""
    dla_core: int | None = Field(default=None, ge=0, le=3)
    """Run on this DLA core, with the GPU for what it cannot do. None: the GPU alone."""

    @property
    def generations(self) -> tuple[int, ...]:
        """Major versions of TensorRT in the range, oldest first."""
        low, high = int(self.min.split(".")[0]), int(self.max.split(".")[0])
        return tuple(g for g in (8, 10, 11) if low <= g <= high)

    def covers(self, version: str) -> bool:
        """Whether a full TensorRT version, build number included, lies in the range."""
        found = [int(n) for n in re.findall(r"\d+", version)]
        low, high = ([int(n) for n in bound.split(".")] for bound in (self.min, self.max))
        return low <= found[: len(low)] and found[: len(high)] <= high


class RtxSpec(Config):
    sm: tuple[Version, ...] = Field(min_length=1, max_length=16)
    """Compute capabilities that an engine is compiled for ahead of time, one each."""


class DeviceLimits(Config):
    rss_mb: int = Field(default=1024, ge=32)
    bundle_mb: int = Field(default=256, ge=1)


class DeviceProfile(Config):
    """One kind of device. ``runtimes`` are in order of preference; the CPU fallback always runs in ONNX
    Runtime."""

    name: Name
    description: str = Field(min_length=1, max_length=200)
    inherits: Name | None = None
    models: tuple[str, ...] = ()
    """Strings found in ``/proc/device-tree/model`` of such a device."""
    cpu: CpuSpec
    gpu: GpuSpec | None = None
    tensorrt: TensorRtSpec | None = None
    rtx: RtxSpec | None = None
    """TensorRT-RTX."""
    runtimes: tuple[Runtime, ...] = Field(min_length=1)
    limits: DeviceLimits = DeviceLimits()
    min_speedup: float = Field(default=1.02, ge=1.0, le=10.0)
    """A quantized variant ships only if it is this much faster than float on the machine that measured it."""

    @model_validator(mode="after")
    def _tensorrt_needs_a_gpu(self) -> DeviceProfile:
        if "tensorrt" in self.runtimes and (self.gpu is None or self.tensorrt is None):
            raise ValueError("runtime tensorrt needs the tables [gpu] and [tensorrt]")
        if self.tensorrt is not None and self.tensorrt.dla_core is not None:
            cores = self.gpu.dla_cores if self.gpu else 0
            if self.tensorrt.dla_core >= cores:
                raise ValueError(
                    f"dla_core is {self.tensorrt.dla_core}, and the profile's [gpu] has dla_cores = {cores}"
                )
        if "tensorrt-rtx" in self.runtimes and (self.gpu is None or self.rtx is None):
            raise ValueError("runtime tensorrt-rtx needs the tables [gpu] and [rtx]")
        if "onnxruntime" not in self.runtimes:
            raise ValueError("runtimes must contain onnxruntime: every bundle carries a CPU fallback")
        return self

    @property
    def arch_requirement(self) -> str:
        """The one fact that even the fallback needs, as an alternative list for ``requirement_met``."""
        return "arch:x86_64|arch:aarch64" if self.cpu.arch == "any" else f"arch:{self.cpu.arch}"

    @property
    def sm_requirement(self) -> str:
        """``sm:8.7`` or ``sm:8.0|sm:8.6``; empty without a GPU."""
        return "|".join(f"sm:{sm}" for sm in self.gpu.sm) if self.gpu else ""
