"""What an engine takes of memory. Part of a variant's config, and what a device says after it has warmed one up."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgectl.core.schema import Config

__all__ = ["MIB", "EngineMemory"]

MIB = 1 << 20
_MOST = 1 << 44  # bytes


class EngineMemory(Config):
    """Bytes that an engine adds to a process that opens and runs it. None: not known.

    Growth of the resident set, not of the proportional one: how much of a library counts there depends on who else
    has it open. The first engine of a runtime brings that runtime's library along, later ones of the process do not.
    """

    source: Literal["measured", "compiler"]
    """``measured``: in processes that opened exactly these files with these settings. ``compiler``: of an engine that
    runs only on a device: what NVIDIA's compiler said of it where the bundle was built."""
    resident_bytes: int | None = Field(default=None, ge=0, le=_MOST)
    """After some calls; with a batch, of as many pictures as it takes."""
    peak_bytes: int | None = Field(default=None, ge=0, le=_MOST)
    """The most at any moment from opening on; at least :attr:`resident_bytes`."""
    process_bytes: int | None = Field(default=None, ge=0, le=_MOST)
    """Resident memory of the process before: interpreter, numpy and ONNX Runtime."""
    device_bytes: int | None = Field(default=None, ge=0, le=_MOST)
    """Memory of the GPU. By ``compiler``: of the engine and of what is computed in between, without the context of
    CUDA."""
    one_picture_bytes: int | None = Field(default=None, ge=0, le=_MOST)
    """:attr:`resident_bytes` with calls of one picture, of a variant that takes a batch; None for any other."""
    runs: int = Field(default=0, ge=0)
    """Processes; figures are medians of them. 0: none ran."""

    @model_validator(mode="after")
    def _peak_is_the_most(self) -> EngineMemory:
        if self.resident_bytes is not None and (
            self.peak_bytes is None or self.peak_bytes < self.resident_bytes
        ):
            raise ValueError(
                f"peak_bytes is {self.peak_bytes}, less than resident_bytes {self.resident_bytes}"
            )
        return self

    def told(self) -> str:
        """For people, in a sentence without its end."""
        parts = []
        if self.resident_bytes is not None and self.peak_bytes is not None:
            parts.append(f"{_mib(self.resident_bytes)} resident, {_mib(self.peak_bytes)} while it opens")
        if self.one_picture_bytes is not None:
            parts.append(f"{_mib(self.one_picture_bytes)} with one picture a call")
        if self.process_bytes is not None:
            parts.append(f"beside {_mib(self.process_bytes)} of the process")
        if self.device_bytes is not None:
            what = "engine and activations, by NVIDIA's compiler" if self.source == "compiler" else "measured"
            parts.append(f"{_mib(self.device_bytes)} of the GPU ({what})")
        return ", ".join(parts) or "not known"


def _mib(n: int) -> str:
    return f"{n / MIB:.1f} MiB"
