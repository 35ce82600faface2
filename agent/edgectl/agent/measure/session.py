"""One measuring session of a builder: its state, its lease, what is to be measured and what came of it. Decides; does no
IO, and takes time (monotonic seconds) as an argument."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

from edgectl.core.bundle import Descriptor
from edgectl.core.errors import BusyError, EdgectlError, LinkError, ProtocolError, UsageError
from edgectl.core.measuring import (
    MAX_PAGES,
    MAX_RESULT_BYTES,
    PAGE_BYTES,
    MeasureAnswer,
    MeasureEvent,
    MeasureOrder,
    MeasureState,
    MeasureTrouble,
    after,
)

__all__ = ["MeasureSession"]


class MeasureSession:
    """Not thread-safe: who has it has a lock."""

    def __init__(self, name: str, lease_s: float, now_s: float) -> None:
        self.name = name
        self.state = MeasureState.LOOKING
        self.stage = "looking whether this device has little else to do"
        self.trouble: EdgectlError | None = None
        self.machine: dict[str, Any] = {}
        self.job: Descriptor | None = None
        """To be measured next."""
        self._until_s = now_s + lease_s
        self._lease_s = lease_s
        self._pages: tuple[bytes, ...] = ()
        self._digest: str | None = None

    @property
    def over(self) -> bool:
        return self.state is MeasureState.ENDED

    def obey(self, order: MeasureOrder, now_s: float) -> MeasureAnswer:
        """What the builder is told; of a session that is over, why. Raises :class:`UsageError` for a page that there is
        not, and :class:`ProtocolError` for a job that cannot be started now."""
        if not self.look(now_s):
            return self._answer(None)
        self._until_s, self._lease_s = now_s + order.lease_s, order.lease_s
        if order.act == "close":
            self.end(BusyError("the builder closed the measuring session"))
        elif order.act == "start":
            self._move(MeasureEvent.START)
            self.job, self.trouble, self._pages, self._digest = order.job, None, (), None
            self.stage = "fetching"
        return self._answer(order.page if order.act == "result" else None)

    def look(self, now_s: float) -> bool:
        """Whether it is still going on: a lease that ran out ends it."""
        if not self.over and now_s > self._until_s:
            self.end(
                LinkError(f"the builder did not renew its lease of {self._lease_s:g} s", hint="build again")
            )
        return not self.over

    def ready(self, machine: dict[str, Any]) -> None:
        """The device is idle."""
        self._move(MeasureEvent.IDLE)
        self.machine, self.stage = machine, ""

    def taken(self) -> Descriptor | None:
        """The job that is to be measured now, handed out once."""
        job, self.job = self.job, None
        return job

    def finished(self, result: bytes) -> None:
        """Raises :class:`ProtocolError` for a result that is too large to be sent."""
        packed = zlib.compress(result, 6)
        pages = tuple(packed[i : i + PAGE_BYTES] for i in range(0, len(packed), PAGE_BYTES))
        if len(result) > MAX_RESULT_BYTES or len(pages) > MAX_PAGES:
            raise ProtocolError(
                f"the result has {len(result)} bytes, more than can be sent", hint="measure fewer candidates"
            )
        self._move(MeasureEvent.FINISHED)
        self._pages, self._digest, self.stage = pages, f"sha256:{hashlib.sha256(packed).hexdigest()}", ""

    def failed(self, why: EdgectlError) -> None:
        """This job has no result; another one may."""
        self._move(MeasureEvent.FINISHED)
        self.trouble, self.stage = why, ""

    def end(self, why: EdgectlError) -> None:
        """Once only: the first reason counts."""
        if not self.over:
            self._move(MeasureEvent.END)
            self.trouble, self.stage, self.job, self._pages, self._digest = why, "", None, (), None

    def _move(self, event: MeasureEvent) -> None:
        self.state = after(self.state, event)

    def _answer(self, page: int | None) -> MeasureAnswer:
        if page is not None and page >= len(self._pages):
            raise UsageError(f"there is no page {page} of a result: the session is {self.state.value}")
        why = self.trouble
        told = None
        if why is not None:
            said = why.message if why.hint is None else f"{why.message} ({why.hint})"
            told = MeasureTrouble(code=why.code[:64], detail=said[:1024])
        return MeasureAnswer(
            session=self.name,
            state=self.state,
            stage=self.stage[:200],
            trouble=told,
            machine=self.machine if self.state is MeasureState.READY else {},
            pages=len(self._pages),
            digest=self._digest,
            page="" if page is None else base64.b64encode(self._pages[page]).decode(),
        )
