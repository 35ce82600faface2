"""A build step declares its contract; the base class enforces it.

``requires`` looks at the model before, ``run`` changes it, ``ensures`` looks after, and whatever changed must compute what
the float reference computed. A failure names the pass and the ones that ran before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.golden import measure
from edgectl.engines.onnxruntime import OnnxRuntimeEngine

__all__ = ["Pass", "Reference", "run_passes"]

_COSINE = 0.99999
_RELATIVE = 1e-3  # of the reference's largest value: reassociated float sums, not other arithmetic


class Pass(ABC):
    """One change of the graph."""

    name: str

    @abstractmethod
    def requires(self, model: ModelProto) -> None:
        """Raise :class:`ModelError` if this pass cannot work on ``model``."""

    @abstractmethod
    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        """The changed model (never the same object), and whether anything changed."""

    @abstractmethod
    def ensures(self, model: ModelProto) -> None:
        """Raise :class:`ModelError` if the result is not what this pass promises."""


@dataclass(frozen=True)
class Reference:
    """Inputs and what the model, as it came, computes on them in float."""

    feeds: Feeds
    outputs: Outputs

    @classmethod
    def record(cls, model: bytes, feeds: Feeds) -> Reference:
        """Run the model as it came, without graph optimisation. Raises :class:`ModelError` if no runtime runs it."""
        return cls(feeds, _run(model, feeds, "the model, as it is,"))

    def check(self, model: ModelProto) -> None:
        """Raise :class:`ModelError` if ``model`` computes something else."""
        got = _run(model.SerializeToString(), self.feeds, "the changed model")
        if got.keys() != self.outputs.keys():
            raise ModelError(f"outputs changed from {', '.join(self.outputs)} to {', '.join(got)}")
        for name, want in self.outputs.items():
            if got[name].shape != want.shape:
                raise ModelError(f"output {name} changed its shape from {list(want.shape)} to {list(got[name].shape)}")
            a, b = want.astype(np.float64).ravel(), got[name].astype(np.float64).ravel()
            same = np.isfinite(a)
            error = measure(a[same], b[same])
            bound = _RELATIVE * float(np.abs(a[same]).max(initial=0.0)) + 1e-5
            if not np.array_equal(a[~same], b[~same], equal_nan=True) or error.cosine < _COSINE or error.max_abs > bound:
                raise ModelError(f"output {name} is no longer what it was: cosine {error.cosine:.6f}, error {error.max_abs:.3g}")


@dataclass
class PassLog:
    """Names of the passes that ran, and of those that changed something."""

    ran: list[str] = field(default_factory=list)
    modified: list[str] = field(default_factory=list)


def run_passes(model: ModelProto, passes: Sequence[Pass], reference: Reference) -> tuple[ModelProto, PassLog]:
    """Run passes in order, each within its contract. Raises :class:`ModelError` naming the pass and its predecessors."""
    log = PassLog()
    for p in passes:
        try:
            p.requires(model)
            model, modified = p.run(model)
            p.ensures(model)
            if modified:
                reference.check(model)
        except EdgectlError as e:
            after = f" (after {', '.join(log.ran)})" if log.ran else ""
            raise ModelError(f"pass {p.name}{after}: {e.message}", hint=e.hint) from e
        log.ran.append(p.name)
        if modified:
            log.modified.append(p.name)
    return model, log


def _run(model: bytes, feeds: Feeds, what: str) -> Outputs:
    try:
        engine = OnnxRuntimeEngine(model, SessionSettings(optimization="disabled"))
        return engine.run(feeds)
    except EdgectlError as e:
        raise ModelError(f"{what} does not run: {e.message}", hint=e.hint) from e
