"""What every pipeline is, video or audio: the interface that the worker and ``edgectl run`` drive."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from edgectl.core.bundle import Variant
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.core.histogram import Histogram
from edgectl.core.wire import StreamStats
from edgectl.engines.base import Engine
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.kinds.config_change import Reconfigured
from edgectl.pipelines.sinks.base import Record, Sink
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EnginePool
from edgectl.pipelines.video.shadow import Shadowing

__all__ = [
    "EngineFactory",
    "Pipeline",
    "PipelineArgs",
    "make_pipeline",
    "open_variant",
]


_MAX_SECONDS = 1e9

EngineFactory = Callable[[Variant], Engine]
"""Opens an engine; raises :class:`EngineError`."""


@dataclass(frozen=True)
class PipelineArgs:
    """Everything a pipeline is made of."""

    stream: str
    source: str
    """Source URI."""
    engines: dict[str, PartVariant]
    """Part (``detector``, ``vad``, ``keyword``) → engine."""
    config: PipelineConfig
    emit: Callable[[Record], None]
    """Called with every event record, from the sink thread."""
    open_engine: EngineFactory
    out: Path | None = None
    """Folder for events, snapshots, track logs and annotated video; None: none are written."""
    patient: bool = False
    """Wait for a camera that is away at the start, instead of failing."""
    seconds: float | None = None
    """End the stream after so many seconds of the source: capture time, which for a camera is the time on
    the clock."""
    sinks: tuple[Sink, ...] = ()
    """Fed beside those that the configuration names, and closed with them, where the kind has pictures."""
    pool: EnginePool = field(default_factory=EnginePool)
    """Where its engines are opened: those of streams with the same pool are opened once. A pool of its own
    unless another is given."""


class Pipeline(Protocol):
    """One stream. Methods may be called from any thread, one at a time; they raise :class:`EdgectlError`."""

    outputs: tuple[Path, ...]
    """Files that this pipeline writes."""
    expected: int | None
    """Frames (or blocks of audio) that the source will give, known from :meth:`start` on; None where it
    cannot be told."""

    def start(self) -> None:
        """Open engines and source, infer once to warm up, start the threads. On an error nothing is left
        running."""
        ...

    def interrupt(self) -> None:
        """Make a :meth:`start` that waits for its source give up soon. From another thread; what runs already is
        ended by :meth:`stop`."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """True once the stream has come to its end or failed."""
        ...

    @property
    def error(self) -> EdgectlError | None:
        """Why the stream failed, after :meth:`wait` said True; None for a good end."""
        ...

    def swap(self, part: str, slot: PartVariant) -> float:
        """Open and warm up another engine, switch between two frames, keep the old one warm.

        Returns the longest time between two processed frames around the swap, in ms. On an error the old
        engine goes on.
        """
        ...

    def shadow(
        self,
        part: str,
        slot: PartVariant,
        percent: float,
        frames: int,
        done: Callable[[Shadowing | EdgectlError], None],
    ) -> None:
        """Open another engine and run it beside the one of ``part`` on some of the next frames; ``done`` is
        called on another thread.

        Raises :class:`UsageError` where this pipeline cannot compare engines.
        """
        ...

    def commit(self, part: str) -> None:
        """Close the engine that the last swap of ``part`` replaced."""
        ...

    def revert(self, part: str) -> None:
        """Go back to the engine that the last swap of ``part`` replaced; nothing to do without one."""
        ...

    def configure(
        self,
        config: PipelineConfig,
        told: Mapping[str, Any],
        *,
        check: bool = False,
        engines: Mapping[str, PartVariant] = MappingProxyType({}),
    ) -> Reconfigured:
        """Go on with another configuration between two frames; tracks, counts and files go on. ``told``: what the
        event ``configuration`` says of it (``digest``, ``name``). ``check``: only prepare it, and say what would change.
        ``engines``: part → the engine that takes over with it, between the same two frames; those before stay warm
        until :meth:`commit`. Nothing of it goes back by itself then.

        Raises :class:`~edgectl.pipelines.kinds.difference.NewStartNeeded` for settings that a running stream cannot
        take, and :class:`EdgectlError` for what is wrong with it; nothing has changed then.
        """
        ...

    def stats(self) -> StreamStats:
        """The window since the last call."""
        ...

    def totals(self) -> dict[str, Histogram]:
        """Stage histograms since the start."""
        ...

    def stuck(self) -> tuple[str, ...]:
        """What waits for a call that does not come back: ``source``, ``engine``, ``engine:<part>`` of a second stage,
        without which the stream goes on, ``sink:<name>``. From any thread, at any time, also while another method
        waits."""
        ...

    def stop(self) -> None:
        """Stop, write what is queued, join every thread, close every engine. Safe to call twice, and again
        after it was interrupted.

        Raises :class:`EngineError` if a native call does not come back. Whatever does not wait for it is closed
        by then.
        """
        ...


def make_pipeline(kind: str, args: PipelineArgs) -> Pipeline:
    """A pipeline that is not started yet. Imports only what this kind needs. Raises :class:`UsageError`
    for a missing or an unknown part, for the configuration of another kind, and for ``seconds`` that are none."""
    type_ = KINDS.get(kind)
    if args.seconds is not None and not 0 < args.seconds <= _MAX_SECONDS:
        raise UsageError(
            f"seconds is {args.seconds}, it must be more than 0 and at most {_MAX_SECONDS:,.0f}",
            hint="leave it out to run until the source ends",
        )
    if not isinstance(args.config, type_.config):
        raise UsageError(
            f"this is a {type(args.config).__name__}, a {kind} pipeline takes a {type_.config.__name__}",
            hint=f"parse_config({kind!r}, …) makes one",
        )
    _check_parts(kind, type_.parts, args.config.further_parts(), args.engines)
    with KINDS.using(kind):
        return type_.make(args)


def _check_parts(kind: str, own: Collection[str], further: Collection[str], given: Collection[str]) -> None:
    """``own``: the kind's, at least one of which has an engine; ``further``: of the configuration, all of which have."""
    if not set(own) & set(given):
        raise UsageError(
            f"a {kind} pipeline needs an engine for the part {' or '.join(own)}, it got {', '.join(given) or 'none'}"
        )
    if taken := set(own) & set(further):
        raise UsageError(
            f"the configuration names the part {min(taken)!r}, which a {kind} pipeline has for itself",
            hint="give the part of the second stage another name",
        )
    if missing := [part for part in further if part not in given]:
        raise UsageError(
            f"the configuration names the part {missing[0]!r}, and there is no engine for it",
            hint=f"give it a bundle: --bundle {missing[0]}=FOLDER; on a device a slot: slots.{missing[0]}",
        )
    if unknown := set(given) - set(own) - set(further):
        raise UsageError(
            f"a {kind} pipeline has no part {min(unknown)!r}",
            hint=f"its parts: {', '.join([*own, *further])}; second_stage and scene in the configuration name further ones",
        )


def open_variant(variant: Variant, *, cache: Path | None = None) -> Engine:
    """The default engine factory: the variant's own runtime and session settings, finalised where there is
    a ``cache`` folder."""
    engine: Engine = importlib.import_module("edgectl.engines.finalise.open").open_engine(
        variant, cache=cache
    )
    return engine
