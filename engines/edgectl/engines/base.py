"""What an engine is: a variant opened in a runtime and ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import EngineError

__all__ = ["Engine", "Feeds", "Outputs", "check_feeds"]

Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


class Engine(Protocol):
    """One opened engine. Used by one thread at a time; several engines may run in several threads."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime: str
    """Name and version of the runtime, e.g. ``onnxruntime 1.31.1``."""

    def run(self, feeds: Feeds) -> Outputs:
        """Run once. The outputs are the caller's: neither a later run nor what becomes of the feeds changes them.
        Raises :class:`edgectl.core.errors.EngineError`; a failed run never returns an empty result."""
        ...

    def close(self) -> None:
        """Release the runtime's memory. Safe to call twice."""
        ...


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Feeds) -> None:
    """Compare feeds with the inputs of an engine before native code sees them (-1 in a shape fits any size).

    Raises :class:`EngineError` with what was expected and what came.
    """
    if feeds.keys() != {i.name for i in inputs}:
        raise EngineError(
            f"the engine takes inputs {', '.join(i.name for i in inputs)}; got {', '.join(feeds) or 'none'}",
            hint="the task's input.tensor names the model's input",
        )
    for spec in inputs:
        array = feeds[spec.name]
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
        )
        if not fits or array.dtype != spec.dtype:
            raise EngineError(
                f"input {spec.name} takes {spec.dtype}{list(spec.shape)}; got {array.dtype}{list(array.shape)}",
                hint="the task's input (width, height, layout, dtype) must match the model",
            )
