"""Measures candidates for a builder, within bounds, while this device has nothing else to do.

What is fetched lies in a folder of its own, ``measure/`` in the state folder, with a store of its own: slots, journal
and trust know nothing of it. It is empty whenever no session lives, and after a start of the agent. Measuring itself is
done by a child process (:mod:`edgectl.engines.measure.job_child`), which ends with the session, and with the agent
whatever ends that.

Threads: one for each session, ``measure``. What is ordered comes on the dispatcher thread of the link and waits for
nothing.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edgectl.agent.config import MeasureConfig
from edgectl.agent.deploy.memory_gate import MemoryGate
from edgectl.agent.measure.session import MeasureSession
from edgectl.agent.state.store import Store
from edgectl.agent.transfer.download import Cancelled
from edgectl.agent.transfer.fetch import Fetcher
from edgectl.core.bundle import Descriptor
from edgectl.core.errors import (
    AdmissionError,
    BusyError,
    EdgectlError,
    ProtocolError,
    StorageError,
    UsageError,
)
from edgectl.core.files import atomic_write, storage
from edgectl.core.measuring import MAX_JOB_BYTES, MAX_RESULT_BYTES, MeasureOrder
from edgectl.core.memory import MIB
from edgectl.core.schema import parse_json
from edgectl.device_profiles.admission import Demand, MemoryRoom
from edgectl.engines.child import run_child
from edgectl.engines.measure.job import MeasureJob

__all__ = ["Measurer", "RunChild", "forget_measured"]

log = logging.getLogger(__name__)

_FOLDER = "measure"
_GATE = "(measuring)"
"""What the memory gate knows it by; no slot can be called so."""
_CHILD = "edgectl.engines.measure.job_child"
_LOOK_S = 0.25
_QUIET_S = 10.0
_GIVE_WAY_S = 10.0
"""For a child that was killed to end, and its files to go."""
_LEAST_MB = 128
_ADVICE = "build again, with fewer candidates, or look at [measure] in its agent.toml"


class RunChild(Protocol):
    """:func:`edgectl.engines.child.run_child`."""

    def __call__(
        self,
        module: str,
        arguments: list[str],
        *,
        timeout_s: float,
        what: str,
        memory_mb: int | None,
        stop: Callable[[], EdgectlError | None] | None,
        advice: str | None,
    ) -> Mapping[str, Any]: ...


def forget_measured(state_dir: Path) -> None:
    """Remove what an agent left that was killed while it measured. Raises :class:`StorageError`."""
    _remove(state_dir / _FOLDER)


class Measurer:
    """Thread-safe. Every session but the one that lives is forgotten, except how the last one ended."""

    def __init__(
        self,
        config: MeasureConfig | None,
        state_dir: Path,
        fetcher: Fetcher,
        gate: MemoryGate,
        room: Callable[[bool], MemoryRoom],
        *,
        machine: Callable[[], dict[str, Any]],
        idle: Callable[[], str | None],
        quiet: Callable[[float], str | None],
        reserve_mb: int,
        run: RunChild = run_child,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``config`` None: nothing is measured here. ``idle``: why this device has something else to do, in a sentence;
        ``quiet``: the same of its processors, looked at for at most so many seconds. ``machine``: what it is.
        ``reserve_mb``: of memory, what stays free."""
        self._config = config
        self._folder = state_dir / _FOLDER
        self._fetcher = fetcher
        self._gate = gate
        self._room = room
        self._machine = machine
        self._idle = idle
        self._quiet = quiet
        self._reserve_mb = reserve_mb
        self._run = run
        self._clock = clock
        self._changed = threading.Condition()
        self._session: MeasureSession | None = None
        self._thread: threading.Thread | None = None
        self._holds = False
        """Memory, disk or a connection are taken."""

    def obey(self, order: MeasureOrder) -> dict[str, object]:
        """The answer's ``result``. Raises :class:`UsageError` (nothing is measured here, or no such session),
        :class:`BusyError` (another builder measures), :class:`ProtocolError` (not now)."""
        if self._config is None:
            raise UsageError(
                "this device measures nothing for builders: its agent.toml has no [measure]",
                hint="add an empty [measure] to its agent.toml and start its agent again",
            )
        with self._changed:
            now_s = self._clock()
            session = self._session
            alive = session is not None and session.look(now_s)
            if order.act == "open" and (session is None or session.name != order.session):
                if alive or (self._thread is not None and self._thread.is_alive()):
                    raise BusyError("another build measures on this device", hint="try again when it is done")
                session = self._begin(MeasureSession(order.session, order.lease_s, now_s))
            if session is None or session.name != order.session:
                raise UsageError(
                    "there is no such measuring session here: it ended, or the agent started again",
                    hint="build again",
                )
            answer = session.obey(order, now_s)
            self._changed.notify_all()
        return answer.model_dump(mode="json", exclude_none=True)

    @property
    def active(self) -> bool:
        """Whether a builder has this device: nothing else that is put off until it is idle is to begin."""
        with self._changed:
            return self._thread is not None and self._thread.is_alive()

    def give_way(self) -> None:
        """End what goes on: on the thread of a slot that is about to ask what fits into memory, or on the disk. Both are
        free when this returns."""
        why = self._idle() or "a deployment began"
        with self._changed:
            if self._session is not None:
                self._session.end(BusyError(f"this device stopped measuring: {why}", hint="try again later"))
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._holds, _GIVE_WAY_S):
                log.warning("what was measured for a builder is still there after %g s", _GIVE_WAY_S)

    def close(self) -> None:
        """End what goes on, and wait for it."""
        with self._changed:
            if self._session is not None:
                self._session.end(BusyError("the agent of this device stops"))
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def _begin(self, session: MeasureSession) -> MeasureSession:
        self._session = session
        self._thread = threading.Thread(target=self._serve, args=(session,), name="measure", daemon=True)
        self._thread.start()
        return session

    # ---- thread ``measure``

    def _serve(self, session: MeasureSession) -> None:
        try:
            self._clear()
            self._admit(session)
            while (job := self._next(session)) is not None:
                self._answer(session, job)
        except EdgectlError as e:
            self._end(session, e)
        except Exception as e:
            log.exception("measuring broke")
            self._end(session, ProtocolError(f"measuring broke on this device: {type(e).__name__}: {e}"))
        finally:
            self._gate.drop(_GATE)
            try:
                self._clear()
            except StorageError as e:
                log.error("%s", e.message)
            with self._changed:
                self._holds = False
                self._changed.notify_all()
        log.info(
            "measuring for a builder ended: %s", session.trouble.message if session.trouble else "closed"
        )

    def _admit(self, session: MeasureSession) -> None:
        """Raises :class:`BusyError`."""
        why = self._idle() or self._quiet(_QUIET_S)
        if why is not None:
            raise BusyError(f"this device is busy: {why}", hint="try again later, or on another device")
        machine = self._machine()
        with self._changed:
            if session.look(self._clock()):
                session.ready(machine)
                self._holds = True

    def _next(self, session: MeasureSession) -> Descriptor | None:
        """The next job; None once the session is over."""
        while True:
            why = self._stop(session)
            with self._changed:
                if why is not None:
                    session.end(why)
                    return None
                if (job := session.taken()) is not None:
                    return job
                self._changed.wait(_LOOK_S)

    def _answer(self, session: MeasureSession, job: Descriptor) -> None:
        try:
            result = self._measured(session, job)
        except Cancelled:
            return  # the session ended, and says why
        except EdgectlError as e:
            with self._changed:
                if not session.over:
                    session.failed(e)
            return
        with self._changed:
            if session.over:
                return
            try:
                session.finished(result)
            except ProtocolError as e:
                session.failed(e)

    def _measured(self, session: MeasureSession, order: Descriptor) -> bytes:
        """The result of a job as JSON. Raises :class:`EdgectlError`, and :class:`Cancelled` where the session ended."""
        assert self._config is not None
        deadline_s = allowed_s = self._clock() + self._config.minutes * 60

        def ended() -> bool:
            if self._clock() > deadline_s:
                raise self._too_long()
            why = self._stop(session)
            if why is not None:
                self._end(session, why)
            return why is not None

        store = Store(
            self._folder / "store", reserve=self._fetcher.store.reserve, quota=self._config.disk_mb * MIB
        )
        fetcher = replace(self._fetcher, store=store)
        fetcher.fetch_blobs([order], ended, lambda _: None)
        data = store.read(order.digest, MAX_JOB_BYTES)
        job = parse_json(MeasureJob, data, max_bytes=MAX_JOB_BYTES, what="measuring job")
        deadline_s = min(deadline_s, self._clock() + job.timeout_s)

        def fetch() -> None:
            fetcher.fetch_blobs(
                job.files, ended, lambda p: self._stage(session, f"{p.done} of {p.total} bytes")
            )

        try:
            fetch()
        except StorageError:
            store.collect_garbage([order.digest, *(d.digest for d in job.files)])  # of the jobs before
            try:
                fetch()
            except StorageError as e:
                hint = "free space on the device, or raise disk_mb of [measure] in its agent.toml"
                raise StorageError(e.message, hint=hint) from e
        self._stage(session, f"measuring {len(job.contenders)} candidates")
        memory_mb = self._borrow()
        left_s = max(1.0, deadline_s - self._clock())
        until = str(time.monotonic() + left_s)
        written, result = self._folder / "job.json", self._folder / "result.json"
        atomic_write(written, data)
        result.unlink(missing_ok=True)
        try:
            self._run(
                _CHILD,
                [str(store.blobs), str(written), str(result), str(self._folder / "engines"), until],
                timeout_s=left_s,
                what="measuring",
                memory_mb=memory_mb,
                stop=lambda: self._stop(session),
                advice=_ADVICE,
            )
        except EdgectlError:
            if (why := self._stop(session)) is not None:
                self._end(session, why)
                raise Cancelled from None
            if self._clock() >= allowed_s:
                raise self._too_long() from None
            raise
        finally:
            self._gate.drop(_GATE)
        with storage(str(result)):
            if result.stat().st_size > MAX_RESULT_BYTES:
                raise ProtocolError("the result is too large to be sent", hint="measure fewer candidates")
            return result.read_bytes()

    def _too_long(self) -> BusyError:
        assert self._config is not None
        return BusyError(
            f"the job took more than the {self._config.minutes:g} min that this device allows",
            hint="raise minutes of [measure] in its agent.toml, or build with fewer candidates",
        )

    def _borrow(self) -> int:
        """MiB that the child may take until a slot asks for memory: what is allowed, and no more than is free beside the
        reserve. Raises :class:`AdmissionError`."""
        assert self._config is not None
        free = min((b.free // MIB for b in self._room(False).host), default=None)
        most = self._config.memory_mb
        allowed = most if free is None else min(most, free - self._reserve_mb)
        demand = Demand(resident=max(_LEAST_MB, allowed) * MIB)
        found = self._gate.lend(_GATE, demand, self.give_way)
        if found.fits is False:
            raise AdmissionError(f"there is no memory to measure with: it {found.sentence}")
        return max(_LEAST_MB, allowed)

    def _stop(self, session: MeasureSession) -> EdgectlError | None:
        """Why the session ends now; None: it goes on."""
        busy = self._idle()
        with self._changed:
            if not session.look(self._clock()):
                return session.trouble
        if busy is not None:
            return BusyError(f"this device stopped measuring: {busy}", hint="try again later")
        return None

    def _end(self, session: MeasureSession, why: EdgectlError) -> None:
        with self._changed:
            session.end(why)

    def _stage(self, session: MeasureSession, what: str) -> None:
        with self._changed:
            session.stage = what

    def _clear(self) -> None:
        _remove(self._folder)


def _remove(folder: Path) -> None:
    with storage(str(folder)):
        if folder.exists():
            shutil.rmtree(folder)
