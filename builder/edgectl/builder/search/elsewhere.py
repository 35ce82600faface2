"""A device that measures for a build: what the search asks of it, and the door through which whoever joins a builder to a
fleet lets one in (:class:`MeasuringDevice`).

Accuracy is judged here, with the arithmetic of the graph; times are taken there, by the same code
(:mod:`edgectl.engines.measure.job`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from edgectl.builder.search.candidates import Candidate
from edgectl.builder.search.machine import TimingMachine
from edgectl.core.bundle import Descriptor
from edgectl.core.errors import ProtocolError
from edgectl.core.measured import Conditions
from edgectl.core.tensors import write_npz
from edgectl.core.transfer import describe
from edgectl.device_profiles.machine import Machine, host_family
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.finalise.guarded import open_guarded
from edgectl.engines.measure.contexts import calls_in_a_row
from edgectl.engines.measure.job import Contender, MeasureJob
from edgectl.engines.measure.job_child import MeasureResult
from edgectl.engines.measure.processes import LEAST_RUNS, RUNS, SECONDS, ProcessTimes
from edgectl.engines.timing import WARM_UP

__all__ = ["DeviceMachine", "MeasuringDevice", "RoundElsewhere", "TimesElsewhere"]

_ROUND_FEEDS = 8
_START_S = 60.0
"""For a contender to be fetched, opened and warmed up."""
_UNKNOWN_S = 2.5
"""A call, as long as the device has not said how long one takes: of a large model on a small board."""
_SPARE = 2
"""Times as long as was measured may a call take."""
_BEFORE = 1 + WARM_UP
"""Calls of a contender before the first round: when it is opened, and to warm up."""
_OPENING = 4
_BLOCKS = 12
"""Calls of an engine in a process of its own: when it is opened, and at least four blocks in each context."""
_MOST_S = 86400.0
"""That a job may ask for."""


class MeasuringDevice(Protocol):
    """A device that holds still for a build. It measures one job at a time."""

    @property
    def name(self) -> str: ...
    @property
    def profile(self) -> str:
        """The device profile that it says it is of."""

    @property
    def machine(self) -> Machine:
        """What it found itself to be."""

    def measure(self, job: MeasureJob, files: Mapping[str, bytes]) -> MeasureResult:
        """Measure a job there; ``files``: by digest, all that it names. Raises :class:`EdgectlError`: the device is
        gone, busy, or could not measure it; one sentence says which."""
        ...


@dataclass(frozen=True)
class RoundElsewhere:
    """``ms``: candidate → its times, the n-th of each together; ``runtimes``: name and version there."""

    ms: Mapping[str, tuple[float, ...]]
    runtimes: Mapping[str, str]
    failed: Mapping[str, str]


@runtime_checkable
class TimesElsewhere(TimingMachine, Protocol):
    """A timing machine whose candidates are opened here to be judged, and timed where the clock is another one."""

    def timed(
        self, candidates: Sequence[Candidate], seconds: float, fewest: int, most: int
    ) -> RoundElsewhere: ...


class DeviceMachine:
    """A device as the timing machine of a search. ``here``: the machine of the build, ``fresh_s`` and ``left`` as of
    :class:`~edgectl.builder.search.machine.ThisMachine`."""

    def __init__(
        self,
        device: MeasuringDevice,
        here: Machine,
        feeds: Sequence[Feeds],
        fresh_s: float = SECONDS,
        left: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        self.summary = device.machine.summary
        self.feeds = feeds
        self._device = device
        self._same_arithmetic = host_family(here) == host_family(device.machine)
        self._fresh_s = fresh_s
        self._left = left
        self._conditions: Conditions | None = None
        self._call_s: dict[str, float] = {}
        packed = write_npz(
            {f"{i}/{n}": np.asarray(a) for i, f in enumerate(feeds[:_ROUND_FEEDS]) for n, a in f.items()}
        )
        self._feeds_file = describe(packed)
        self._feeds_bytes = packed

    def open(self, c: Candidate) -> Engine:
        """Here, to be judged. Kernels of another family than this machine's round by rules of their own: then the nodes
        themselves compute."""
        settings = c.settings
        if not self._same_arithmetic and c.runtime == "onnxruntime":
            settings = settings.model_copy(update={"optimization": "disabled"})
        return open_guarded(c.graph.model, settings, runtime=c.runtime)

    def clock(self) -> int:
        return time.perf_counter_ns()

    def timed(
        self, candidates: Sequence[Candidate], seconds: float, fewest: int, most: int
    ) -> RoundElsewhere:
        """Raises what the device raises, and :class:`ProtocolError` for an answer that is none."""
        contenders, files = self._contenders(candidates)
        calls_s = (fewest + _BEFORE) * sum(self._call_s.get(c.name, _UNKNOWN_S) for c in candidates)
        found = self._measure(
            MeasureJob(
                kind="rounds",
                contenders=contenders,
                feeds=self._feeds_file,
                seconds=min(3600.0, seconds),
                fewest=fewest,
                most=most,
                timeout_s=min(_MOST_S, 4 * seconds + _START_S * len(contenders) + _SPARE * calls_s + 120),
            ),
            files,
        )
        _check({c.name for c in candidates}, found.rounds.keys() | found.failed.keys())
        if len({len(r.ms) for r in found.rounds.values()}) > 1:
            raise ProtocolError(f"{self._device.name} did not measure every candidate equally often")
        self._call_s |= {n: float(np.median(r.ms)) / 1e3 for n, r in found.rounds.items() if r.ms}
        return RoundElsewhere(
            {n: r.ms for n, r in found.rounds.items() if n not in found.failed},
            {n: r.runtime for n, r in found.rounds.items()},
            found.failed,
        )

    def fresh(self, candidates: Sequence[Candidate]) -> dict[str, ProcessTimes]:
        contenders, files = self._contenders(candidates)
        each_s = [self._call_s.get(c.name, _UNKNOWN_S) for c in candidates]
        calls_s = sum(s * (_OPENING + _BLOCKS * (1 + calls_in_a_row(s * 1e3))) for s in each_s)
        run_s = 3 * self._fresh_s * len(contenders) + calls_s
        runs = int(np.clip(self._left() / run_s, LEAST_RUNS, RUNS))
        found = self._measure(
            MeasureJob(
                kind="processes",
                contenders=contenders,
                feeds=self._feeds_file,
                seconds=self._fresh_s,
                runs=runs,
                timeout_s=min(
                    _MOST_S,
                    runs * (len(contenders) * (12 * self._fresh_s + _START_S) + _SPARE * calls_s),
                ),
            ),
            files,
        )
        _check({c.name for c in candidates}, found.processes.keys() | found.failed.keys())
        return {**found.processes, **{n: ProcessTimes(failed=why) for n, why in found.failed.items()}}

    def conditions(self) -> Conditions:
        """As they were there when it measured last."""
        return self._conditions or Conditions(load=0.0)

    def quiet(self, seconds: float) -> bool:
        job = MeasureJob(kind="quiet", seconds=max(1.0, seconds), timeout_s=seconds + _START_S)
        return bool(self._measure(job, {}).quiet)

    def _measure(self, job: MeasureJob, files: Mapping[str, bytes]) -> MeasureResult:
        found = self._device.measure(job, files)
        self._conditions = found.conditions
        return found

    def _contenders(self, candidates: Sequence[Candidate]) -> tuple[tuple[Contender, ...], dict[str, bytes]]:
        described: dict[str, Descriptor] = {}
        files = {self._feeds_file.digest: self._feeds_bytes}
        for c in candidates:
            if c.graph.digest not in described:
                described[c.graph.digest] = describe(c.graph.model)
                files[c.graph.digest] = c.graph.model
        return tuple(
            Contender(name=c.name, runtime=c.runtime, session=c.settings, model=described[c.graph.digest])
            for c in candidates
        ), files


def _check(asked: set[str], told: set[str]) -> None:
    if asked != told:
        odd = sorted(asked ^ told)[0]
        raise ProtocolError(f"the device's answer is not about what it was asked to measure: {odd[:80]}")
