"""One pipeline on one source, in this process, until it ends: what ``edgectl run`` does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgectl.core.bundle import Bundle, Preference, Variant
from edgectl.core.errors import UsageError
from edgectl.core.histogram import MIN_SAMPLES, Histogram
from edgectl.core.wire import Frames, StreamStats
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import EngineFactory, Pipeline, PipelineArgs, make_pipeline, open_variant
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.sinks.base import Record, Sink
from edgectl.pipelines.stream.part import PartVariant

__all__ = ["RunSummary", "Tally", "part_of", "part_variants", "percentiles", "run_stream"]

_LOOK_S = 0.5
_PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(frozen=True)
class RunSummary:
    kind: str
    seconds: float
    """Wall time of the run, without opening engines."""
    frames: Frames
    fps: float
    """Frames processed per second of wall time."""
    stages: dict[str, dict[str, float | None]]
    """Stage → ``p50``, ``p90``, ``p99``, ``max`` in ms and ``n``. A percentile is None where there are too
    few samples for it."""
    events: dict[str, int]
    """Event type (with its phase) → how many."""
    rules: dict[str, int]
    """Rule or zone id → events it made."""
    counters: dict[str, int]
    errors: int
    outputs: tuple[Path, ...] = ()
    last_counts: dict[str, Any] = field(default_factory=dict)
    """Line id → counts per direction and class at the end."""


def run_stream(
    kind: str,
    bundles: Sequence[Bundle],
    source_uri: str,
    config: PipelineConfig | None = None,
    seconds: float | None = None,
    out: Path | None = None,
    on_event: Callable[[Record], None] | None = None,
    on_progress: Callable[[StreamStats, float | None], None] | None = None,
    *,
    facts: frozenset[str] | None = None,
    runtimes: Sequence[str] = ("onnxruntime",),
    open_engine: EngineFactory = open_variant,
    variants: Mapping[str, Variant] | None = None,
    prefer: Preference | None = None,
    stream: str = "run",
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
) -> RunSummary:
    """Run until the source ends, ``seconds`` of it are over, somebody sets ``stop``, or it fails.

    ``facts`` are this machine's (``arch:…``) and ``runtimes`` what it has; each bundle's best variant for
    them is taken (``prefer``: the one that is best at that), for the part of the pipeline that its task says.
    ``variants`` (part → variant) overrides that. ``on_event`` is called from the sink thread, ``on_progress``
    about twice a second from this one, with the share that is done (0..1) where the source can tell its
    length. What they raise, and KeyboardInterrupt, stops in good order and is raised again. Raises
    :class:`EdgectlError`.
    """
    engines = {part: PartVariant(v) for part, v in (variants or {}).items()} or part_variants(
        bundles, facts or frozenset(), runtimes, prefer
    )
    tally = Tally()
    deaf: list[BaseException] = []

    def emit(record: Record) -> None:
        tally.note(record)
        if on_event is not None and not deaf:
            try:
                on_event(record)
            except BaseException as e:
                # SystemExit among them: Rich raises it where nobody reads. Raised again below
                deaf.append(e)

    def progress(stats: StreamStats) -> None:
        if on_progress is not None:
            on_progress(stats, stats.frames.captured / pipeline.expected if pipeline.expected else None)

    pipeline = make_pipeline(
        kind,
        PipelineArgs(
            stream,
            source_uri,
            engines,
            config or parse_config(kind, None),
            emit,
            open_engine,
            out,
            seconds=seconds,
            sinks=tuple(sinks),
        ),
    )
    try:
        pipeline.start()
        started = time.monotonic()
        while not pipeline.wait(_LOOK_S) and not deaf and not (stop is not None and stop.is_set()):
            progress(pipeline.stats())
        elapsed = time.monotonic() - started
    finally:
        pipeline.stop()
    if deaf:
        raise deaf[0]
    if pipeline.error is not None:
        raise pipeline.error
    progress(pipeline.stats())
    return tally.summary(kind, pipeline, elapsed)


class Tally:
    """Counts the events of a run."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._by_rule: Counter[str] = Counter()
        self._last_counts: dict[str, Any] = {}

    def note(self, record: Record) -> None:
        self._seen[":".join(str(record[k]) for k in ("type", "phase") if k in record)] += 1
        if "rule" in record:
            self._by_rule[record["rule"]] += 1
        if "counts" in record:
            self._last_counts[record["rule"]] = record["counts"]

    def summary(self, kind: str, pipeline: Pipeline, elapsed_s: float) -> RunSummary:
        last = pipeline.stats()
        return RunSummary(
            kind=kind,
            seconds=elapsed_s,
            frames=last.frames,
            fps=last.frames.processed / elapsed_s if elapsed_s > 0 else 0.0,
            stages={stage: percentiles(h) for stage, h in sorted(pipeline.totals().items())},
            events=dict(sorted(self._seen.items())),
            rules=dict(sorted(self._by_rule.items())),
            counters=last.counters,
            errors=last.errors,
            outputs=tuple(p for p in pipeline.outputs if p.exists()),
            last_counts=dict(self._last_counts),
        )


def part_variants(
    bundles: Sequence[Bundle],
    facts: frozenset[str],
    runtimes: Sequence[str] = ("onnxruntime",),
    prefer: Preference | None = None,
) -> dict[str, PartVariant]:
    """Part (detector, vad, keyword) → the variant of each bundle that fits this machine.
    Raises :class:`UsageError` for two bundles for one part."""
    slots: dict[str, PartVariant] = {}
    for bundle in bundles:
        variant = bundle.select(facts, runtimes=runtimes, prefer=prefer)
        part = part_of(variant)
        if part in slots:
            raise UsageError(f"two bundles are both for the part {part!r}", hint="give one bundle per part")
        slots[part] = PartVariant(variant, f"{bundle.name}@{bundle.version}", bundle.digest)
    return slots


def part_of(variant: Variant) -> str:
    """``detector``, ``vad``, ``keyword`` …, from the decoder of the variant's task. Raises :class:`UsageError` if no
    pipeline can use it."""
    kind = variant.config.task.decode.kind
    if kind == "none":
        raise UsageError(
            f"bundle {variant.config.name} is for task {variant.config.task.name}, which no pipeline runs"
        )
    return DECODERS.get(kind).part


def percentiles(h: Histogram) -> dict[str, float | None]:
    """``p50``, ``p90``, ``p99``, ``max`` in ms and ``n``; None where
    :data:`~edgectl.core.histogram.MIN_SAMPLES` is not reached."""
    values: dict[str, float | None] = {
        f"p{p:g}": _ms(h.percentile_ms(p)) for p in _PERCENTILES if p in MIN_SAMPLES
    }
    return {**values, "max": _ms(None if h.max_us is None else h.max_us / 1000), "n": h.n}


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
