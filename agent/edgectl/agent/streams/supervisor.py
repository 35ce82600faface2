"""All streams, grouped into worker processes, which change the engine of a slot while they run.

Which engine a slot is to run is not decided here: ``engine_of`` says it, each time a worker starts.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.config_requests import NEW_AGENT, configure_stream
from edgectl.agent.streams.engine_requests import (
    commit_engine,
    compare_engine,
    give_back,
    reopen_engine,
    take_engine,
)
from edgectl.agent.streams.supervised_stream import SupervisedStream, WorkerCallbacks
from edgectl.agent.streams.worker_life import Timing
from edgectl.agent.streams.worker_process import WorkerProcess
from edgectl.agent.streams.worker_sharing import worker_groups
from edgectl.core.errors import ConfigError, EngineError
from edgectl.core.schema import Key
from edgectl.core.wire import ShadowGate
from edgectl.pipelines.host.protocol import EngineRef, Shadowed

__all__ = ["WORKER", "Supervisor"]

WORKER = (sys.executable, "-m", "edgectl.pipelines.host.worker")


class Supervisor:
    def __init__(
        self,
        pipelines: Mapping[str, StreamConfig],
        engine_of: Callable[[str], EngineRef | None],
        journal: Journal,
        hooks: WorkerCallbacks,
        *,
        on_trial: Callable[[str], bool] = lambda slot: False,
        set_engines: Mapping[str, Mapping[str, EngineRef]] = MappingProxyType({}),
        command: Sequence[str] = WORKER,
        stats_every_s: float = 2.0,
        timing: Timing | None = None,
        cache: Path | None = None,
        pictures: Path | None = None,
    ) -> None:
        """``on_trial``: slot → whether its engine is still judged. ``set_engines``: stream → part → engine of the set that
        its configuration is. ``cache``: folder of finalised engines. ``pictures``:
        folder of the sockets at which workers serve pictures; None: they serve none."""
        numbers = itertools.count()
        timing = timing or Timing()
        self._edition = 0
        """How often an engine's file became a better one."""
        self._streams: dict[str, SupervisedStream] = {}

        def worker_of(name: str) -> WorkerProcess:
            place = None if pictures is None else pictures / str(next(numbers))
            return WorkerProcess(name, command, timing.stop_s, place)

        for group in worker_groups(pipelines):
            worker = worker_of(group.name)
            for stream in group.streams:
                self._streams[stream] = SupervisedStream(
                    stream,
                    pipelines[stream],
                    engine_of,
                    journal,
                    hooks,
                    worker,
                    partial(worker_of, stream),
                    on_trial=on_trial,
                    set_engines=set_engines.get(stream, {}),
                    stats_every_s=stats_every_s,
                    timing=timing,
                    cache=cache,
                )

    def start(self) -> None:
        for stream in self._streams.values():
            stream.thread.start()

    def close(self) -> None:
        """Stop every stream and worker in good order and join."""
        for stream in self._streams.values():
            stream.stop()
        for stream in self._streams.values():
            if stream.thread.ident is not None:
                stream.thread.join()

    @property
    def threads(self) -> list[threading.Thread]:
        """One a stream, from :meth:`start` to :meth:`close`."""
        return [stream.thread for stream in self._streams.values()]

    def ensure(
        self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        """Make every stream that uses ``slot`` run ``ref``; None stops them. A running stream is swapped
        between two frames.

        Returns at once for a stream that waits for an engine of another slot. Raises :class:`EngineError` if
        one does not take it in time; those that have taken it go back to what they ran before.
        """
        deadline = time.monotonic() + timeout_s
        taken: list[tuple[SupervisedStream, str, EngineRef]] = []
        try:
            for stream in self._using(slot):
                if ref is None or stream.engines() is None:
                    stream.restart()  # its thread finds a slot empty and waits
                    continue
                for part in stream.parts(slot):
                    before = stream.life.parts.serving.get(part)
                    take_engine(stream, part, ref, deadline, cancelled)
                    if before is not None and before != ref:
                        taken.append((stream, part, before))
        except EngineError:
            for stream, part, before in taken:
                give_back(stream, part, before)
            raise

    def commit(self, slot: str) -> None:
        """The old engine may be unloaded. To go back to it is a switch like any other from then on."""
        for stream in self._using(slot):
            for part in stream.parts(slot):
                commit_engine(stream, part)

    def restart(self, slot: str) -> None:
        """Every stream that uses ``slot`` starts in a new process with what the record says: what runs now
        must not go on."""
        for worker in {stream.worker for stream in self._using(slot)}:
            worker.replace("the engine that ran must not go on")
        for stream in self._using(slot):
            stream.restart()  # it may have been in no worker

    def refresh(self, slot: str, ref: EngineRef, timeout_s: float) -> None:
        """Streams that run ``ref`` open it anew, because its file became a better one; they change over
        between two frames.

        A stream that does not run it is left alone. Raises :class:`EngineError` if a stream does not take it;
        what ran goes on.
        """
        deadline = time.monotonic() + timeout_s
        self._edition += 1
        for stream in self._using(slot):
            for part in stream.parts(slot):
                reopen_engine(stream, part, ref, self._edition, deadline)

    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, timeout_s: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]:
        """Let each stream that uses ``slot`` run ``ref`` beside its engine; one result a stream and part.

        Raises :class:`EngineError` if a stream cannot, ends, or does not come to the end of it in time;
        :class:`Interrupted` if that is nothing that an engine does.
        """
        deadline = time.monotonic() + timeout_s
        running = [stream for stream in self._using(slot) if stream.engines() is not None]
        return [
            compare_engine(stream, part, ref, gate, deadline, cancelled)
            for stream in running
            for part in stream.parts(slot)
        ]

    def configure(
        self,
        pipelines: Mapping[str, StreamConfig],
        told: Callable[[str], Mapping[str, Any]],
        settle: Callable[[str, StreamConfig], StreamConfig] = lambda stream, config: config,
        accepted: Callable[[str, dict[str, Any]], None] = lambda stream, config: None,
    ) -> dict[str, str | ConfigError]:
        """Let streams go on with other configurations. ``told``: what the event says of a stream's. ``settle`` has the last
        word on what a stream is to take, or raises :class:`ConfigError`; ``accepted`` hears what it goes on with. Nobody
        else changes the stream's configuration meanwhile.

        Returns, for each that has another one, what came of it, or why it goes on as before. One does not wait for
        another's trouble."""
        found: dict[str, str | ConfigError] = {}
        for name, stream in self._streams.items():
            if name not in pipelines:
                continue
            with stream.configuring:
                config, before = pipelines[name], stream.config
                if late := [key for key in NEW_AGENT if getattr(config, key) != getattr(before, key)]:
                    found[name] = f"holds from the agent's next start on: {' and '.join(late)} changed"
                    continue
                try:
                    config = settle(name, config)
                    if config != before:
                        found[name] = configure_stream(stream, config, told(name))
                    accepted(name, config.config)
                except ConfigError as e:
                    found[name] = e
        return found

    def written_in(self, place_of: Callable[[Key], str | None]) -> None:
        """``place_of``: setting → where it stands in the agent's configuration."""
        for stream in self._streams.values():
            stream.place_of = place_of

    def idle(self, slot: str) -> bool:
        """No stream can run this slot's engine now: none uses it, or each lacks the engine of another
        slot."""
        return all(stream.engines() is None for stream in self._using(slot))

    def processes(self, slot: str) -> tuple[int, int]:
        """How many worker processes would open an engine of this slot: those that run, and those that would start with
        it because it is all that they lack."""
        using = self._using(slot)
        running = {stream.worker for stream in using if stream.worker.pid is not None}
        ready = {stream.worker for stream in using if stream.lacks_only(slot)}
        return len(running), len(ready - running)

    def opened_with(self, slot: str) -> list[str]:
        """Manifests of the engines of other slots that the processes which would start with an engine of this one open,
        too: they are on record, and nowhere in memory yet. One for each process and engine."""
        found = set()
        for stream in self._using(slot):
            if stream.worker.pid is None and stream.lacks_only(slot):
                others = [part for part, s in stream.config.slots.items() if s != slot]
                refs = [ref for other in others if (ref := stream.engine(other)) is not None]
                found |= {(stream.worker.name, ref.manifest) for ref in refs}
        return [manifest for _, manifest in sorted(found)]

    def states(self) -> dict[str, tuple[str, str | None]]:
        """Stream → (a word of :data:`edgectl.agent.streams.worker_states.SHOWN`; reason)."""
        return {name: stream.state for name, stream in self._streams.items()}

    def progressing(self) -> bool:
        """Every pipeline that has engines has advanced within its ``stall_s`` (feeds systemd's watchdog)."""
        return not any(stream.stalled for stream in self._streams.values())

    def stream(self, name: str) -> SupervisedStream:
        return self._streams[name]

    def worker_of(self, stream: str) -> str:
        """The name of the worker that the stream is in, or would be."""
        return self._streams[stream].worker.name

    def pictures_of(self, stream: str) -> Path | None:
        """Where the worker that the stream is in serves its pictures."""
        return self._streams[stream].worker.pictures

    def proven(self, stream: str, ref: EngineRef) -> bool:
        """A stream besides this one makes steady progress with the engine."""
        return any(
            other.life.steady and ref in other.life.parts.serving.values()
            for name, other in self._streams.items()
            if name != stream
        )

    def _using(self, slot: str) -> list[SupervisedStream]:
        """Streams that run what the slot has; those whose set says what they run do not."""
        return [stream for stream in self._streams.values() if stream.parts(slot)]
