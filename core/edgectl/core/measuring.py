"""What a builder and a device say to each other while candidates are measured there: the ``measure`` command and
its answer.

A *session* is what a builder has of a device: its lease, and the files that came for it. It ends when the builder
closes it, when the lease is not renewed, when the device has something else to do, or with the agent. Then whatever
was measured is killed and the files are gone; a sentence says why. In a session one *job* after the other is
measured: a document (:class:`edgectl.engines.measure.job.MeasureJob`) which, like every file that it names, is
fetched by its digest. Every order renews the lease.

What may follow what is a table::

    looking ── is idle ──► ready ── start ──► working ── finished ──► done ── start ──► working …
       └────────────────────┴─────────────────┴───── ended ◄─────────┘

Nothing here does IO; time is an argument.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

from pydantic import Field, model_validator

from edgectl.core.bundle import Descriptor
from edgectl.core.errors import ProtocolError
from edgectl.core.schema import Digest, Message, Name

__all__ = [
    "MAX_JOB_BYTES",
    "MAX_PAGES",
    "MAX_RESULT_BYTES",
    "PAGE_BYTES",
    "MeasureAnswer",
    "MeasureEvent",
    "MeasureOrder",
    "MeasureState",
    "MeasureTrouble",
    "after",
]

MAX_JOB_BYTES = 1 << 20
"""Of the document of a job."""
PAGE_BYTES = 48 << 10
"""Of a result as it travels: deflated, in base64 64 KiB."""
MAX_PAGES = 64
MAX_RESULT_BYTES = 32 << 20
"""Of a result, unpacked."""


class MeasureState(str, Enum):
    LOOKING = "looking"
    """The device looks whether it has little else to do."""
    READY = "ready"
    WORKING = "working"
    """Files are fetched, or candidates measured."""
    DONE = "done"
    """The result can be had, or :attr:`MeasureAnswer.trouble` says why there is none."""
    ENDED = "ended"


class MeasureEvent(str, Enum):
    IDLE = "idle"
    START = "start"
    FINISHED = "finished"
    END = "end"


_S, _E = MeasureState, MeasureEvent
_TABLE: dict[tuple[MeasureState, MeasureEvent], MeasureState] = {
    (_S.LOOKING, _E.IDLE): _S.READY,
    (_S.READY, _E.START): _S.WORKING,
    (_S.WORKING, _E.FINISHED): _S.DONE,
    (_S.DONE, _E.START): _S.WORKING,
    **{(state, _E.END): _S.ENDED for state in _S},
}


def after(state: MeasureState, event: MeasureEvent) -> MeasureState:
    """The state that follows. Raises :class:`ProtocolError` for what cannot happen then: a job while another one is
    measured, or before the device is ready."""
    try:
        return _TABLE[state, event]
    except KeyError:
        raise ProtocolError(
            f"{event.value} is not possible while the measuring session is {state.value}"
        ) from None


class MeasureOrder(Message):
    """What is asked of a device. ``open`` begins a session, or says that it is still there; ``look`` renews its
    lease and nothing else."""

    act: Literal["open", "start", "look", "result", "close"]
    session: Name
    lease_s: float = Field(default=30.0, ge=1, le=600)
    """Seconds after which the session ends unless another order comes."""
    job: Descriptor | None = None
    """Of ``start``: the document."""
    page: int = Field(default=0, ge=0, lt=MAX_PAGES)
    """Of ``result``."""

    @model_validator(mode="after")
    def _starts_a_job(self) -> MeasureOrder:
        if (self.act == "start") != (self.job is not None):
            raise ValueError("a job comes with start, and start with a job")
        if self.job is not None and not 0 < self.job.size <= MAX_JOB_BYTES:
            raise ValueError(f"the job has {self.job.size} bytes, at most {MAX_JOB_BYTES} are taken")
        return self


class MeasureTrouble(Message):
    """Why a session ended, or a job has no result: ``code`` as of an error, and a sentence."""

    code: str = Field(max_length=64)
    detail: str = Field(max_length=1024)


class MeasureAnswer(Message):
    """How a session is."""

    session: Name
    state: MeasureState
    stage: str = Field(default="", max_length=200)
    """What is done at the moment, for people."""
    trouble: MeasureTrouble | None = None
    machine: dict[str, Any] = {}
    """Once it is ready: :class:`edgectl.device_profiles.machine.Machine` of the device."""
    pages: int = Field(default=0, ge=0, le=MAX_PAGES)
    """Of the result, once it is done."""
    digest: Digest | None = None
    """Of all pages together."""
    page: str = Field(default="", max_length=PAGE_BYTES * 4 // 3 + 4)
    """The page that was asked for, base64."""
