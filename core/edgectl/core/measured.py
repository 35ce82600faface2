"""What was measured of an engine, with the context without which the numbers mean nothing. Part of a
variant's config."""

from __future__ import annotations

from enum import Enum

from edgectl.core.memory import EngineMemory
from edgectl.core.schema import Config

__all__ = [
    "BatchRun",
    "Conditions",
    "Context",
    "ContextRun",
    "Measured",
    "ProcessRun",
    "RouteGain",
    "Standing",
]


class Context(str, Enum):
    """A way in which a device runs an engine."""

    ALONE = "alone"
    """Back to back: each call when the last one is done."""
    PACED = "paced"
    """As a camera paces it: a rest before each call."""
    BESIDE = "beside"
    """Back to back, beside processes that compute. Shown, and decides nothing."""


class Standing(str, Enum):
    """How an engine compares with another one (:mod:`edgectl.engines.measure.contexts`)."""

    FASTER = "faster"
    EQUAL = "equal"
    SLOWER = "slower"
    UNDECIDED = "undecided"
    """The machine was too busy to tell."""


class ContextRun(Config):
    """How an engine did in one context, in processes of its own."""

    context: Context
    p50_ms: float
    ratio: float | None = None
    """Median of the ratios of neighbouring blocks to the float engine that the bundle falls back on. None
    for that one itself."""
    low: float | None = None
    high: float | None = None
    """95 % interval; the median of each process lies in it."""
    standing: Standing | None = None


class Conditions(Config):
    """The state of the machine at a measurement. What cannot be read there is None."""

    load: float
    """Average over one minute."""
    temperature_c: float | None = None
    """The hottest sensor."""
    governor: str | None = None
    """Of the first core's clock, e.g. ``performance``."""
    power_mode: str | None = None
    """Of a Jetson (``nvpmodel``)."""


class ProcessRun(Config):
    """What an engine did in new processes, one after the other; the median of the processes where not said
    otherwise."""

    runs: int
    """Processes."""
    cold_start_s: float
    """Open the engine and run it once; loading the runtime's library is not in it."""
    rss_mb: float
    """Largest resident memory (MiB) of any of the processes, interpreter and runtime included."""
    cpu_ms: float
    """Processor time of all threads for one inference when one comes every ``gap_ms``: waiting busily
    shows here."""
    gap_ms: float
    p50_ms: float
    p95_ms: float | None = None
    """Of the samples of all processes; None if they are too few."""
    p95_loaded_ms: float | None = None
    """The same with ``busy`` processes beside it that do nothing but compute."""
    busy: int
    n: int
    ratio_to_float: float | None = None
    """Median of paired ratios of blocks to the fastest float candidate, alone. None for float itself."""
    ratio_low: float | None = None
    ratio_high: float | None = None
    contexts: tuple[ContextRun, ...] = ()
    """Each way in which a device runs it."""
    others: float | None = None
    """Cores that computed for other processes meanwhile; None where the machine does not tell."""
    busy_because: tuple[str, ...] = ()
    """Why the machine was too busy to trust this; empty if it was quiet."""
    memory: EngineMemory | None = None
    """What the engine added to each of the processes; None in bundles from before it was measured."""


class BatchRun(Config):
    """A call with several pictures, interleaved with the engine that takes one."""

    pictures: int
    p50_ms: float
    """Of the call."""
    ratio: float
    """Median of the paired ratios of the time a picture to the engine of one picture; < 1 is faster."""
    low: float
    high: float
    """95 % interval."""


class RouteGain(Config):
    """Preprocessing inside the graph against outside, from the picture to the outputs: paired ratio with
    its 95 % interval; < 1 is faster."""

    ratio: float
    low: float
    high: float
    engine_p50_ms: float
    """Of the engine alone, which does more work then."""


class Measured(Config):
    """One measurement with its context; without the context the numbers mean nothing."""

    p10_ms: float
    p50_ms: float
    p90_ms: float | None = None
    n: int
    ratio_to_float: float | None = None
    """Median of paired latency ratios against the fastest float candidate, among all candidates of the
    search, interleaved; < 1 is faster. What decides is :attr:`ProcessRun.contexts`."""
    machine: str
    threads: int
    runtime_version: str
    conditions: Conditions
    fresh: ProcessRun | None = None
    """In processes of its own; only what ships, or nearly did, is measured there."""
    standing: Standing | None = None
    """What the contexts say together, against the fastest float candidate; None for float itself."""
    route: RouteGain | None = None
    """The engine takes pixels. Figures here are of the same graph before its preprocessing was folded in,
    but for ``fresh`` and what comes from it."""
    batches: tuple[BatchRun, ...] = ()
    """Every batch that ``--batch`` asked for, 1 first; empty where it did not or the model takes none."""
