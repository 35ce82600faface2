"""The worker processes of all streams, which change the engine of a slot while they run.

Which engine a slot is to run is not decided here: ``engine_of`` says it, each time a worker starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.engine_requests import commit_engine, compare_engine, reopen_engine, take_engine
from edgectl.agent.streams.worker_life import Timing
from edgectl.agent.streams.worker_process import WORKER, WorkerCallbacks, WorkerProcess
from edgectl.core.wire import ShadowGate
from edgectl.pipelines.host.protocol import EngineRef, Shadowed

__all__ = ["Supervisor"]


class Supervisor:
    def __init__(
        self,
        pipelines: Mapping[str, StreamConfig],
        engine_of: Callable[[str], EngineRef | None],
        journal: Journal,
        hooks: WorkerCallbacks,
        *,
        command: Sequence[str] = WORKER,
        stats_every_s: float = 2.0,
        timing: Timing | None = None,
        cache: Path | None = None,
    ) -> None:
        """``cache``: folder of finalised engines."""
        self._workers = {
            stream: WorkerProcess(
                stream,
                config,
                engine_of,
                journal,
                hooks,
                command=command,
                stats_every_s=stats_every_s,
                timing=timing,
                cache=cache,
            )
            for stream, config in pipelines.items()
        }

    def start(self) -> None:
        for worker in self._workers.values():
            worker.thread.start()

    def close(self) -> None:
        """Stop every worker in good order and join."""
        for worker in self._workers.values():
            worker.stop()
        for worker in self._workers.values():
            if worker.thread.ident is not None:
                worker.thread.join()

    @property
    def threads(self) -> list[threading.Thread]:
        """One a stream, from :meth:`start` to :meth:`close`."""
        return [worker.thread for worker in self._workers.values()]

    def ensure(
        self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        """Make every stream that uses ``slot`` run ``ref``; None stops them. A running worker is swapped
        between two frames.

        Returns at once for a stream that waits for an engine of another slot. Raises :class:`EngineError` if
        a worker does not take it in time.
        """
        deadline = time.monotonic() + timeout_s
        for worker in self._using(slot):
            if ref is None or worker.engines() is None:
                worker.restart()  # its thread finds a slot empty and waits
                continue
            for part in worker.parts(slot):
                take_engine(worker, part, ref, deadline, cancelled)

    def commit(self, slot: str) -> None:
        """The old engine may be unloaded. To go back to it is a switch like any other from then on."""
        for worker in self._using(slot):
            for part in worker.parts(slot):
                commit_engine(worker, part)

    def restart(self, slot: str) -> None:
        """Every stream that uses ``slot`` starts a new process with what the record says: what runs now
        must not go on."""
        for worker in self._using(slot):
            worker.restart()

    def refresh(self, slot: str, ref: EngineRef, timeout_s: float) -> None:
        """Streams that run ``ref`` open it anew, because its file became a better one; they change over
        between two frames.

        A stream that does not run it is left alone. Raises :class:`EngineError` if a worker does not take it;
        what ran goes on.
        """
        deadline = time.monotonic() + timeout_s
        for worker in self._using(slot):
            for part in worker.parts(slot):
                reopen_engine(worker, part, ref, deadline)

    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, timeout_s: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]:
        """Let each stream that uses ``slot`` run ``ref`` beside its engine; one result a stream and part.

        Raises :class:`EngineError` if a worker cannot, ends, or does not come to the end of it in time;
        :class:`Interrupted` if that is nothing that an engine does.
        """
        deadline = time.monotonic() + timeout_s
        running = [worker for worker in self._using(slot) if worker.engines() is not None]
        return [
            compare_engine(worker, part, ref, gate, deadline, cancelled)
            for worker in running
            for part in worker.parts(slot)
        ]

    def idle(self, slot: str) -> bool:
        """No stream can run this slot's engine now: none uses it, or each lacks the engine of another
        slot."""
        return all(worker.engines() is None for worker in self._using(slot))

    def states(self) -> dict[str, tuple[str, str | None]]:
        """Stream → (a word of :data:`edgectl.agent.streams.worker_states.SHOWN`; reason)."""
        return {stream: worker.state for stream, worker in self._workers.items()}

    def progressing(self) -> bool:
        """Every pipeline that has engines has advanced within its ``stall_s`` (feeds systemd's watchdog)."""
        return not any(worker.stalled for worker in self._workers.values())

    def slots_of(self, stream: str) -> frozenset[str]:
        return frozenset(self._workers[stream].config.slots.values())

    def _using(self, slot: str) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if slot in worker.config.slots.values()]
