"""A pipeline in this process whose events are iterated over: the way in from Python.

::

    with run("surveillance", "gate-bundle", "clip.mp4", config={"rules": [...]}) as events:
        for event in events:
            print(event["type"], event["t_s"])
    print(events.summary().frames)

Several sources, ``{"gate": "rtsp://…", "yard": "rtsp://…"}``, run side by side and share the engines.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgectl.core.bundle import Bundle, Preference
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.device_profiles.machine import probe
from edgectl.pipelines.host.config import load_config, parse_config
from edgectl.pipelines.host.place_check import check_places
from edgectl.pipelines.host.run import RunSummary, Tally, part_variants, summary_of
from edgectl.pipelines.host.running_stream import RunningStream, start_all, stop_all
from edgectl.pipelines.kinds.base import EngineFactory, PipelineArgs, make_pipeline, open_variant
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EnginePool

__all__ = ["EventRun", "run"]

_LIMIT = 256
"""Events that wait to be taken. Then the pipeline waits, if its source does; a camera's events are dropped and
counted."""
_POLL_S = 0.1


def run(
    kind: str,
    bundle: str | Path | Bundle | Sequence[str | Path | Bundle] | Mapping[str, str | Path | Bundle],
    source: str | Path | Mapping[str, str | Path],
    *,
    config: PipelineConfig | Mapping[str, Any] | str | Path | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    prefer: Preference | None = None,
    stream: str = "run",
) -> EventRun:
    """Prepare a pipeline of ``kind`` on ``source``; ``with`` starts it, and stops it on every way out.

    ``source``: one, or stream → source for several, which share the engines and the configuration; ``out`` has a
    folder for each then, and ``stream`` means nothing.
    ``bundle``: a folder, or several for several parts, or part → folder (``{"detector": …, "gear": …}``); what this machine runs best is taken (``prefer``: best at
    that). ``config``: a YAML file, or its content as a mapping. ``seconds``: of the source, after which it ends.
    ``out``: folder for the files of sinks. Raises :class:`EdgectlError`.
    """
    if isinstance(config, str | Path):
        config = load_config(kind, Path(config))
    elif not isinstance(config, PipelineConfig):
        config = parse_config(kind, config)
    named = {part: _bundle(b) for part, b in bundle.items()} if isinstance(bundle, Mapping) else {}
    bundles = [bundle] if isinstance(bundle, str | Path | Bundle) else [] if named else list(bundle)
    machine = probe()
    machine.require_runtime()
    engines = part_variants(
        [_bundle(b) for b in bundles],
        machine.facts,
        tuple(machine.runtimes),
        prefer,
        named,
    )
    folder = None if out is None else Path(out)
    sources = {n: str(s) for n, s in source.items()} if isinstance(source, Mapping) else str(source)
    return EventRun(kind, engines, sources, config, seconds=seconds, out=folder, stream=stream)


def _bundle(given: str | Path | Bundle) -> Bundle:
    return given if isinstance(given, Bundle) else Bundle(Path(given))


class EventRun:
    """Iterate over it in its ``with`` block, from one thread. Each event is a
    :data:`~edgectl.pipelines.sinks.base.Record`.

    From a file no event is lost however slow the loop is: the pipeline waits. A failure of the pipeline is raised
    behind the last event; one of several streams that fails does not stop the others, nor does its start, unless
    none starts. Leaving the block, by ``break``, an error or Ctrl-C, too, ends every thread.
    """

    def __init__(
        self,
        kind: str,
        engines: Mapping[str, PartVariant],
        source: str | Mapping[str, str],
        config: PipelineConfig,
        *,
        seconds: float | None = None,
        out: Path | None = None,
        stream: str = "run",
        open_engine: EngineFactory = open_variant,
    ) -> None:
        self._kind = kind
        self._waiting: deque[Record] = deque()
        self._change = threading.Condition()
        self._limit: float = _LIMIT
        self._closed = False
        """Nobody takes events any more."""
        self._flushed = False
        """The pipeline is stopped, and all its events are waiting or taken."""
        self._entered = False
        self._began: float | None = None
        several = isinstance(source, Mapping)
        sources: Mapping[str, str] = source if isinstance(source, Mapping) else {stream: source}
        if not sources:
            raise UsageError("there is no source to run on")
        check_places(dict.fromkeys(sources, config), {})
        self._tallies = {name: Tally() for name in sources}
        pool = EnginePool()
        self._streams: list[RunningStream] = []
        for name, uri in sources.items():
            args = PipelineArgs(
                name,
                uri,
                dict(engines),
                config,
                functools.partial(self._emit, name),
                open_engine,
                out / name if out is not None and several else out,
                seconds=seconds,
                pool=pool,
            )
            self._streams.append(RunningStream(name, make_pipeline(kind, args)))

    def __enter__(self) -> EventRun:
        if self._entered:
            raise UsageError("this pipeline was started before", hint="run(…) makes another one")
        self._entered = True
        try:
            start_all(self._streams)
        except BaseException:
            # interrupted: nobody enters the block, so nobody leaves it
            with contextlib.suppress(EdgectlError):
                self.__exit__(None, None, None)
            raise
        if all(one.started_s is None for one in self._streams):
            error = self._streams[0].error
            assert error is not None
            raise error
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._stop()

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        self._started()
        while True:
            with self._change:
                if not self._waiting and not self._flushed:
                    self._change.wait_for(lambda: self._waiting, _POLL_S)
                if self._waiting:
                    self._change.notify_all()
                    return self._waiting.popleft()
                if self._flushed or self._closed:
                    break
            if all(one.over(0) for one in self._streams):
                self._flush()
        if self.errors and not self._closed:
            raise next(iter(self.errors.values()))
        raise StopIteration

    @property
    def errors(self) -> dict[str, EdgectlError]:
        """Stream → why it failed."""
        return {one.name: one.error for one in self._streams if one.error is not None}

    def summary(self, stream: str | None = None) -> RunSummary:
        """Latency by stage, frames, events: of the whole run, or so far. ``stream``: which one of several.
        Raises :class:`UsageError` for a stream that is not there or did not start."""
        self._started()
        found = [one for one in self._streams if stream in (None, one.name)]
        if len(found) != 1:
            names = ", ".join(one.name for one in self._streams)
            raise UsageError(f"which stream's summary, {stream or ''!r}?", hint=f"the streams are {names}")
        summary = summary_of(found[0], self._kind, self._tallies[found[0].name])
        if summary is None:
            raise UsageError(f"the stream {found[0].name!r} did not start: {found[0].error}")
        return summary

    def _started(self) -> None:
        if self._began is None:
            raise UsageError(
                "this pipeline is not started", hint="with run(…) as events: for event in events: …"
            )

    def _emit(self, stream: str, record: Record) -> None:
        """From the sink thread."""
        with self._change:
            self._change.wait_for(lambda: len(self._waiting) < self._limit or self._closed)
            if not self._closed:
                self._tallies[stream].note(record)
                self._waiting.append(record)
                self._change.notify_all()

    def _flush(self) -> None:
        """The source has ended: what the sinks still hold comes here at once, so that the threads can end."""
        with self._change:
            self._limit = float("inf")
            self._change.notify_all()
        self._stop()
        self._flushed = True

    def _stop(self) -> None:
        stop_all(self._streams)
        for one in self._streams:
            if one.stuck is not None:
                raise one.stuck
