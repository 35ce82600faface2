"""What the agent does not do itself, as interfaces that tests can replace, and what a real device has in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgectl.agent.deploy.dependencies import WarmUp
from edgectl.agent.streams.supervisor import WORKER
from edgectl.agent.streams.worker_life import Timing
from edgectl.agent.transfer.fetch import MachineFacts
from edgectl.device_profiles.admission import MemoryRoom

__all__ = ["AgentDependencies", "default_dependencies"]


@dataclass(frozen=True)
class AgentDependencies:
    """What the agent does not do itself; the defaults are in :func:`default_dependencies`."""

    machine: MachineFacts
    warm_up: WarmUp
    improve: Callable[[Path, str, Path], bool]
    """:func:`edgectl.engines.finalise.improve.improve`."""
    worker: Sequence[str] = WORKER
    timing: Timing | None = None
    profile: str | None = None
    """The profile that fits the machine, for ``profile = "auto"``."""
    memory: Callable[[bool], MemoryRoom] = lambda gpu: MemoryRoom()
    """What is free of memory, and of the GPU's if that is asked for; the default knows nothing."""
    describe: Callable[[], dict[str, Any]] = dict
    """The machine, for a builder that measures here."""
    quiet: Callable[[float, float | None], str | None] = lambda seconds, cores: None
    """What else the processors do, looked at for so many seconds, if that is more than so many cores; the default looks
    at nothing."""


def default_dependencies() -> AgentDependencies:
    """This machine's facts, and the warm-up in a child process. Raises :class:`UsageError` if no runtime
    is installed."""
    from edgectl.device_profiles.machine import best_profile, probe
    from edgectl.engines.finalise.improve import improve
    from edgectl.engines.finalise.trial import warm_up

    machine = probe()
    machine.require_runtime()
    return AgentDependencies(
        machine=machine,
        warm_up=warm_up,
        improve=improve,
        profile=best_profile(machine).name,
        memory=partial(_room, unified=machine.jetson is not None),
        describe=lambda: machine.model_dump(mode="json"),
        quiet=_other_work,
    )


def _room(gpu: bool, *, unified: bool) -> MemoryRoom:
    from edgectl.device_profiles.memory import memory_room

    return memory_room(gpu=gpu, unified=unified)


def _other_work(seconds: float, cores: float | None) -> str | None:
    from edgectl.engines.measure.conditions import busy_with

    return busy_with(seconds, cores)
