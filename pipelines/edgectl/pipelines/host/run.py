"""One pipeline on one source, or on several that share their engines, in this process, until they end: what
``edgectl run`` does."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgectl.core.bundle import LIGHTER, Bundle, Preference, Unfit, Variant, select_lighter
from edgectl.core.errors import EdgectlError, StorageError, UsageError
from edgectl.core.histogram import MIN_SAMPLES, Histogram
from edgectl.core.wire import Frames, StreamStats
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.place_check import check_places
from edgectl.pipelines.host.running_stream import RunningStream, start_all, stop_all
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.base import EngineFactory, Pipeline, PipelineArgs, make_pipeline, open_variant
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.sinks.base import Record, Sink
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EnginePool

__all__ = [
    "RunSummary",
    "StreamResult",
    "StreamToRun",
    "Tally",
    "engines_for",
    "part_of",
    "part_variants",
    "percentiles",
    "run_stream",
    "run_streams",
    "summary_of",
]

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
    crops: dict[str, Frames] = field(default_factory=dict)
    """Part of a second stage → what became of its crops."""
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
    parts: Mapping[str, Bundle] | None = None,
    prefer: Preference | None = None,
    stream: str = "run",
    sinks: Sequence[Sink] = (),
    patient: bool = False,
    stop: threading.Event | None = None,
) -> RunSummary:
    """Run until the source ends, ``seconds`` of it are over, somebody sets ``stop``, or it fails.

    ``facts`` are this machine's (``arch:…``) and ``runtimes`` what it has; each bundle's best variant for
    them is taken (``prefer``: the one that is best at that), for the part of the pipeline that its task says;
    ``parts`` (part → bundle) are further ones whose part is named. ``variants`` (part → variant) overrides that. ``on_event`` is called from the sink thread, ``on_progress``
    about twice a second from this one, with the share that is done (0..1) where the source can tell its
    length. What they raise, and KeyboardInterrupt, stops in good order and is raised again. Raises
    :class:`EdgectlError`.
    """
    (result,) = run_streams(
        kind,
        bundles,
        [StreamToRun(stream, source_uri, config, out, tuple(sinks))],
        seconds,
        on_event,
        None if on_progress is None else lambda all_, share: on_progress(all_[stream], share),
        facts=facts,
        runtimes=runtimes,
        open_engine=open_engine,
        variants=variants,
        parts=parts,
        prefer=prefer,
        patient=patient,
        stop=stop,
    )
    if result.error is not None:
        raise result.error
    assert result.summary is not None
    return result.summary


@dataclass(frozen=True)
class StreamToRun:
    name: str
    source: str
    """Source URI."""
    config: PipelineConfig | None = None
    out: Path | None = None
    """Folder for its files."""
    sinks: tuple[Sink, ...] = ()
    """Fed beside those of the configuration."""


@dataclass(frozen=True)
class StreamResult:
    """``summary`` is None for a stream that did not start. ``error`` is why it failed; None for a good end."""

    name: str
    summary: RunSummary | None
    error: EdgectlError | None


def run_streams(
    kind: str,
    bundles: Sequence[Bundle],
    streams: Sequence[StreamToRun],
    seconds: float | None = None,
    on_event: Callable[[Record], None] | None = None,
    on_progress: Callable[[dict[str, StreamStats], float | None], None] | None = None,
    *,
    facts: frozenset[str] | None = None,
    runtimes: Sequence[str] = ("onnxruntime",),
    open_engine: EngineFactory = open_variant,
    variants: Mapping[str, Variant] | None = None,
    parts: Mapping[str, Bundle] | None = None,
    prefer: Preference | None = None,
    unfit: Unfit = lambda variant: None,
    patient: bool = False,
    trace: Path | None = None,
    stop: threading.Event | None = None,
    started: Callable[[Mapping[str, Pipeline]], None] | None = None,
    on_failure: Callable[[str, EdgectlError], None] | None = None,
) -> list[StreamResult]:
    """Run several streams side by side; they share each engine. One that fails, at its start or later, does not
    stop the others: its result says so. ``patient``: a camera that is away at the start is waited for, as one is that
    goes away later; where nothing but a person can help (a wrong password), the stream fails.

    ``on_event`` is called by one thread at a time; ``on_failure`` from this one, with the name of a stream, when that
    fails: the others may run for weeks. ``trace``: a file for what the threads did last, as a Chrome
    trace. ``started`` hears of streams once they run. Variants that are ``unfit`` are passed over. The rest is as for :func:`run_stream`. Raises :class:`EdgectlError` for what concerns all streams.
    """
    names = [s.name for s in streams]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"two streams are called {min(twice)!r}", hint="--source NAME=URI names a stream")
    engines = {part: PartVariant(v) for part, v in (variants or {}).items()} or part_variants(
        bundles, facts or frozenset(), runtimes, prefer, parts, unfit
    )
    configs = {one.name: one.config or parse_config(kind, None) for one in streams}
    check_places(configs, {one.name: one.out for one in streams})
    needed = {name: engines_for(kind, config, engines) for name, config in configs.items()}
    if unused := set(engines) - {part for some in needed.values() for part in some}:
        raise UsageError(
            f"there is a bundle for the part {min(unused)!r}, which no stream has",
            hint="second_stage and scene in a stream's configuration name further parts; --bundle PART=FOLDER says what it is for",
        )
    ear = _Ear(on_event)
    pool = EnginePool()
    running = [
        RunningStream(
            one.name,
            make_pipeline(
                kind,
                PipelineArgs(
                    one.name,
                    one.source,
                    needed[one.name],
                    configs[one.name],
                    ear.of(one.name),
                    open_engine,
                    one.out,
                    patient=patient,
                    seconds=seconds,
                    sinks=one.sinks,
                    pool=pool,
                ),
            ),
        )
        for one in streams
    ]

    failed: set[str] = set()
    known_live: set[str] = set()

    def progress() -> None:
        for one in running:
            if on_failure is not None and one.error is not None and one.name not in failed:
                failed.add(one.name)
                on_failure(one.name, one.error)
        live = [one for one in running if one.started_s is not None]
        if started is not None and (new := [one for one in live if one.name not in known_live]):
            known_live.update(one.name for one in new)
            started({one.name: one.pipeline for one in new})
        if on_progress is not None and live:
            stats = {one.name: one.pipeline.stats() for one in live}
            expected = [one.pipeline.expected for one in live]
            known = sum(n for n in expected if n)
            share = sum(s.frames.captured for s in stats.values()) / known if all(expected) else None
            on_progress(stats, share)

    try:
        start_all(running, lambda: ear.deaf is not None or (stop is not None and stop.is_set()), progress)
        progress()
        while ear.deaf is None and not (stop is not None and stop.is_set()):
            over = [one.over(_LOOK_S / len(running)) for one in running]
            if all(over):
                break
            progress()
    finally:
        stop_all(running)
        if trace is not None:
            _write_trace(pool, trace)
    if ear.deaf is not None:
        raise ear.deaf
    progress()
    return [
        StreamResult(one.name, summary_of(one, kind, ear.tallies[one.name]), one.error) for one in running
    ]


class _Ear:
    """Hears the events of all streams, one at a time, until the listener fails."""

    def __init__(self, on_event: Callable[[Record], None] | None) -> None:
        self.deaf: BaseException | None = None
        self.tallies: dict[str, Tally] = {}
        self._on_event = on_event
        self._lock = threading.Lock()

    def of(self, name: str) -> Callable[[Record], None]:
        tally = self.tallies[name] = Tally()

        def emit(record: Record) -> None:
            tally.note(record)
            with self._lock:
                if self._on_event is not None and self.deaf is None:
                    try:
                        self._on_event(record)
                    except BaseException as e:
                        # SystemExit among them: Rich raises it where nobody reads. Raised again above
                        self.deaf = e

        return emit


def _write_trace(pool: EnginePool, path: Path) -> None:
    try:
        pool.timeline.write(path)
    except OSError as e:
        raise StorageError(f"cannot write {path}: {e.strerror}") from e


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
            crops=last.crops,
            outputs=tuple(p for p in pipeline.outputs if p.exists()),
            last_counts=dict(self._last_counts),
        )


def summary_of(one: RunningStream, kind: str, tally: Tally) -> RunSummary | None:
    """None: it did not start."""
    return None if one.ran_s is None else tally.summary(kind, one.pipeline, one.ran_s)


def part_variants(
    bundles: Sequence[Bundle],
    facts: frozenset[str],
    runtimes: Sequence[str] = ("onnxruntime",),
    prefer: Preference | None = None,
    parts: Mapping[str, Bundle] | None = None,
    unfit: Unfit = lambda variant: None,
) -> dict[str, PartVariant]:
    """Part (detector, vad, keyword) → the variant of each bundle that fits this machine; what is ``unfit`` is passed
    over. ``parts``: bundles whose part is named. Raises :class:`UsageError` for two bundles for one part,
    :class:`AdmissionError` where each that could run is unfit."""
    slots: dict[str, PartVariant] = {}
    for named, bundle in [*((None, bundle) for bundle in bundles), *(parts or {}).items()]:
        variant = bundle.select_fitting(facts, runtimes=runtimes, prefer=prefer, unfit=unfit).variant
        part = part_of(variant) if named is None else named
        if part in slots:
            raise UsageError(
                f"two bundles are both for the part {part!r}",
                hint="one bundle per part; PART=FOLDER says which part of a second stage one is for",
            )
        slots[part] = PartVariant(
            variant,
            f"{bundle.name}@{bundle.version}",
            bundle.digest,
            lighter=select_lighter(bundle.variants, variant, facts, runtimes=runtimes, names=LIGHTER),
        )
    return slots


def engines_for(
    kind: str, config: PipelineConfig, engines: Mapping[str, PartVariant]
) -> dict[str, PartVariant]:
    """Those that a stream of this configuration has a part for."""
    parts = {*KINDS.get(kind).parts, *config.further_parts()}
    return {part: variant for part, variant in engines.items() if part in parts}


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
