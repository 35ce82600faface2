"""Which engine each part of a worker runs, keeps warm, and was asked to take. Values; nothing here does IO.

A switch is a question and an answer: :meth:`PartEngines.switch` asks, the worker answers with ``Swapped`` or
``SwapFailed``. An answer to a question that was not asked breaks the protocol. The way back to an engine that
the worker still keeps warm needs no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from edgectl.core.errors import ProtocolError
from edgectl.core.wire import Failure
from edgectl.pipelines.host.protocol import EngineRef, Revert, Swap, SwapFailed, Swapped

__all__ = ["PartEngines"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class PartEngines:
    """Each mapping is from a part (``detector``) to an engine."""

    serving: Mapping[str, EngineRef] = field(default_factory=dict)
    """As the worker has confirmed; empty while it is not ready."""
    standby: Mapping[str, EngineRef] = field(default_factory=dict)
    """The engine before, which the worker still keeps warm."""
    asked: Mapping[str, EngineRef] = field(default_factory=dict)
    """The engine of a swap that is not answered yet."""
    refused: Mapping[str, Failure] = field(default_factory=dict)
    """Why the last swap failed, until somebody has read it."""

    def switch(self, stream: str, part: str, ref: EngineRef) -> tuple[PartEngines, Swap | Revert]:
        """Go over to ``ref``: back to the warm one, or on to another one. Returns what to send."""
        if self.standby.get(part) == ref:
            back = replace(self, serving={**self.serving, part: ref}, standby=_without(self.standby, part))
            return back, Revert(stream=stream, part=part)
        return self.swap(stream, part, ref)

    def swap(self, stream: str, part: str, ref: EngineRef, edition: int = 0) -> tuple[PartEngines, Swap]:
        """Take ``ref``, even where it is the one that serves; a later ``edition`` is opened anew."""
        asked = replace(self, asked={**self.asked, part: ref}, refused=_without(self.refused, part))
        return asked, Swap(stream=stream, part=part, engine=ref, edition=edition)

    def answered(self, message: Swapped | SwapFailed) -> PartEngines:
        """Raises :class:`ProtocolError` if that was not asked."""
        part = message.part
        asked = self.asked.get(part)
        if asked is None or asked.manifest != message.manifest:
            raise ProtocolError(f"the worker answers for an engine of {part} that it was not asked to swap")
        done = replace(self, asked=_without(self.asked, part))
        if isinstance(message, SwapFailed):
            return replace(done, refused={**self.refused, part: message.error})
        standby = self.standby
        if part in self.serving:
            standby = {**standby, part: self.serving[part]}
        return replace(done, serving={**self.serving, part: asked}, standby=standby)

    def took(self, engines: Mapping[str, EngineRef]) -> PartEngines:
        """These took over with another configuration; those before are kept warm."""
        before = {part: self.serving[part] for part in engines if part in self.serving}
        return replace(self, serving={**self.serving, **engines}, standby={**self.standby, **before})

    def committed(self, part: str) -> PartEngines:
        """The engine before may be unloaded."""
        return replace(self, standby=_without(self.standby, part))

    def heard(self, part: str) -> tuple[PartEngines, Failure | None]:
        """Why the last swap was refused; said once."""
        return replace(self, refused=_without(self.refused, part)), self.refused.get(part)

    def contradicted(self, named: Mapping[str, str]) -> list[str]:
        """Parts that, as the worker's statistics name them (part → bundle digest), run another engine."""
        return [part for part, ref in self.serving.items() if named.get(part, ref.bundle) != ref.bundle]


def _without(of_parts: Mapping[str, _T], part: str) -> dict[str, _T]:
    return {p: value for p, value in of_parts.items() if p != part}
