"""What an engine is: a variant opened in a runtime and ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from edgectl.core.bundle import TensorSpec

__all__ = ["Engine", "Feeds", "Outputs"]

Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


class Engine(Protocol):
    """One opened engine. Used by one thread at a time; several engines may run in several threads."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime: str
    """Name and version of the runtime, e.g. ``onnxruntime 1.31.1``."""

    def run(self, feeds: Feeds) -> Outputs:
        """Run once. Raises :class:`edgectl.core.errors.EngineError`; a failed run never returns an empty result."""
        ...

    def close(self) -> None:
        """Release the runtime's memory. Safe to call twice."""
        ...
