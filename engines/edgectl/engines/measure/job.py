"""What a builder asks a device to measure: the document of one job. It names every file by its digest, and is
itself named so in a signed order (:mod:`edgectl.core.measuring`).

Measured is with the code of a build: rounds by :func:`edgectl.engines.timing.interleave`, contexts by
:func:`edgectl.engines.measure.processes.measure_in_processes`. :mod:`edgectl.engines.measure.job_child` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from edgectl.core.bundle import Descriptor, Runtime, SessionSettings
from edgectl.core.measured import Conditions
from edgectl.core.schema import Config, Message

__all__ = ["Contender", "GoldenFigures", "JobFigures", "MeasureJob", "RoundTimes"]

_MAX_CONTENDERS = 128


class Contender(Config):
    """One engine: a graph with settings, or a variant as a bundle has it, which is finalised on the device and
    checked against its golden outputs first."""

    name: str = Field(min_length=1, max_length=300)
    runtime: Runtime = "onnxruntime"
    session: SessionSettings = SessionSettings()
    model: Descriptor | None = None
    manifest: Descriptor | None = None
    """Of a variant; ``runtime`` and ``session`` are then its own."""
    blobs: tuple[Descriptor, ...] = Field(default=(), max_length=64)
    """What the manifest refers to and the device needs."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Contender:
        if (self.model is None) == (self.manifest is None):
            raise ValueError("a contender is a model or a variant")
        return self

    @property
    def files(self) -> tuple[Descriptor, ...]:
        return tuple(d for d in (self.model, self.manifest, *self.blobs) if d is not None)


class MeasureJob(Config):
    """``rounds``: engines of one process, called in turn. ``processes``: in processes of their own, in each context of
    a device. ``check``: variants are finalised and checked against their golden outputs, and not timed. ``quiet``: wait at
    most ``seconds`` until the device has little else to do."""

    version: Literal[1] = 1
    kind: Literal["rounds", "processes", "check", "quiet"]
    contenders: tuple[Contender, ...] = Field(default=(), max_length=_MAX_CONTENDERS)
    feeds: Descriptor | None = None
    """An ``.npz`` of inputs, named ``NUMBER/INPUT``; of variants, their golden inputs where this is None."""
    seconds: float = Field(ge=0, le=3600)
    """Of all rounds (0: ``fewest`` of them, however long they take); of each context in each process (0: the fewest blocks
    of calls that tell something)."""
    fewest: int = Field(default=20, ge=3, le=10_000)
    most: int = Field(default=200, ge=3, le=10_000)
    runs: int = Field(default=5, ge=1, le=20)
    """Processes of each contender."""
    timeout_s: float = Field(gt=0, le=86400)
    """For everything, from the first byte that is fetched. A device may allow less."""

    @model_validator(mode="after")
    def _is_whole(self) -> MeasureJob:
        if (self.kind == "quiet") != (not self.contenders):
            raise ValueError("contenders come with everything but quiet, and only there")
        if len({c.name for c in self.contenders}) != len(self.contenders):
            raise ValueError("two contenders have one name")
        if self.feeds is None and any(c.model is not None for c in self.contenders):
            raise ValueError("a model needs feeds")
        if self.kind == "rounds" and any(c.model is None for c in self.contenders):
            raise ValueError("rounds are of models, not of variants")
        if self.kind == "check" and any(c.model is not None for c in self.contenders):
            raise ValueError("only variants have golden outputs to check")
        return self

    @property
    def files(self) -> Sequence[Descriptor]:
        """All that is fetched for it, each once."""
        found = {d.digest: d for c in self.contenders for d in c.files}
        if self.feeds is not None:
            found[self.feeds.digest] = self.feeds
        return list(found.values())


class RoundTimes(Message):
    """``ms``: the n-th of every contender of the job belong together. ``runtime``: name and version."""

    ms: tuple[float, ...] = Field(max_length=10_000)
    runtime: str = Field(max_length=200)


class GoldenFigures(Message):
    """Of a variant that reproduced its golden outputs: the worst cosine, and how it was finalised."""

    worst_cosine: float
    kind: str = Field(default="original", max_length=32)
    runtime: str = Field(default="", max_length=200)
    notes: tuple[str, ...] = Field(default=(), max_length=16)


class JobFigures(Message):
    """What came of a job, but for the times of processes
    (:class:`edgectl.engines.measure.job_child.MeasureResult`)."""

    rounds: dict[str, RoundTimes] = Field(default={}, max_length=_MAX_CONTENDERS)
    golden: dict[str, GoldenFigures] = Field(default={}, max_length=_MAX_CONTENDERS)
    failed: dict[str, str] = Field(default={}, max_length=_MAX_CONTENDERS)
    """Contender → why it did not run, in a sentence."""
    quiet: bool | None = None
    conditions: Conditions
    """Afterwards."""
    seconds: float
