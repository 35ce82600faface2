"""What was measured of an engine, with the context without which the numbers mean nothing. Part of a variant's config."""

from __future__ import annotations

from edgectl.core.schema import Config

__all__ = ["Conditions", "FreshRun", "Measured", "RouteGain"]


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


class FreshRun(Config):
    """What an engine did in new processes, one after the other; the median of the processes where not said otherwise."""

    runs: int
    """Processes."""
    cold_start_s: float
    """Open the engine and run it once; loading the runtime's library is not in it."""
    rss_mb: float
    """Largest resident memory (MiB) of any of the processes, interpreter and runtime included."""
    cpu_ms: float
    """Processor time of all threads for one inference when there are ``gap_ms`` of rest between two: waiting busily shows here."""
    gap_ms: float
    p50_ms: float
    p95_ms: float | None = None
    """Of the samples of all processes; None if they are too few."""
    p95_loaded_ms: float | None = None
    """The same with ``busy`` processes beside it that do nothing but compute."""
    busy: int
    n: int
    ratio_to_float: float | None = None
    """Median of paired ratios to the fastest float candidate, in processes of their own, in turn. None for float itself."""
    ratio_low: float | None = None
    ratio_high: float | None = None


class RouteGain(Config):
    """Preprocessing inside the graph against outside, from the picture to the outputs: paired ratio with its 95 % interval; < 1 is faster."""

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
    """Median of paired latency ratios against the float candidate, same machine, interleaved; < 1 is faster."""
    machine: str
    threads: int
    runtime_version: str
    conditions: Conditions
    fresh: FreshRun | None = None
    """In processes of its own; only what ships is measured there."""
    route: RouteGain | None = None
    """The engine takes pixels. Every other figure here is of the same graph before its preprocessing was folded in."""
