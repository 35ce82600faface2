"""A build step declares its contract; the base class enforces it.

``requires`` looks at the model before, ``run`` changes it, ``ensures`` looks after, and whatever changed must
compute what the float reference computed. A failure names the pass and the ones that ran before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.graph import GraphIndex, np_dtype, reads
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.finalise.golden import measure
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

__all__ = ["NOUGHT", "FloatReference", "Pass", "rounding_of", "run_passes", "typed_feeds"]

_COSINE = 0.99999
# units of float32 rounding that a chain of reassociated sums may be off by
_ROUNDINGS = 16
NOUGHT = 1e-5
"""An absolute error that nobody can tell from rounding."""
_NEWER = "run it in ONNX Runtime to see more; exporting it again with opset 17 to 22 often helps"
# of the reference's largest value: reassociated float sums, not other arithmetic
_RELATIVE = 1e-3


class Pass(ABC):
    """One change of the graph. ``hint``: what a user can do if the graph computes something else
    afterwards."""

    name: str
    hint: str | None = None

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
class FloatReference:
    """Inputs and what the model, as it came, computes on them in float."""

    feeds: Feeds
    outputs: Outputs
    source: tuple[bytes, Feeds] | None = field(default=None, repr=False)
    """The model that was run and what it was run on; None: nothing tells how exact its outputs are."""
    cosine: float = _COSINE
    relative: float = _RELATIVE

    @classmethod
    def record(cls, model: bytes, feeds: Feeds) -> FloatReference:
        """Run the model as it came, without graph optimisation. Raises :class:`ModelError` if no runtime
        runs it."""
        return cls(feeds, _run(model, feeds, "the model, as it is,", hint=_NEWER), (model, feeds))

    def check(self, model: ModelProto) -> None:
        """Raise :class:`ModelError` if ``model`` computes something else. Feeds and outputs are compared
        whatever their float type."""
        self.compare(_run(model.SerializeToString(), typed_feeds(self.feeds, model), "the changed model"))

    def compare(self, got: Outputs) -> None:
        """Raise :class:`ModelError` where ``got`` is something else than what was recorded."""
        if got.keys() != self.outputs.keys():
            raise ModelError(f"outputs changed from {', '.join(self.outputs)} to {', '.join(got)}")
        for name, want in self.outputs.items():
            if got[name].shape != want.shape:
                raise ModelError(
                    f"output {name} changed its shape from {list(want.shape)} to {list(got[name].shape)}"
                )
            a, b = want.astype(np.float64).ravel(), got[name].astype(np.float64).ravel()
            same = np.isfinite(a)
            error = measure(a[same], b[same])
            bound = self.relative * float(np.abs(a[same]).max(initial=0.0)) + NOUGHT
            turned = error.cosine < self.cosine and error.max_abs > self._rounding.get(name, 0.0)
            if not np.array_equal(a[~same], b[~same], equal_nan=True) or turned or error.max_abs > bound:
                raise ModelError(
                    f"output {name} is no longer what it was: cosine {error.cosine:.6f}, error {error.max_abs:.3g}"
                )

    @cached_property
    def _rounding(self) -> dict[str, float]:
        """Per output, what float rounding alone may change: an output near zero is a difference of larger
        numbers, and has no direction."""
        return {} if self.source is None else rounding_of(*self.source)


@dataclass
class PassLog:
    """Names of the passes that ran, and of those that changed something."""

    ran: list[str] = field(default_factory=list)
    modified: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a user should know about it."""


def run_passes(
    model: ModelProto, passes: Sequence[Pass], reference: FloatReference | None, log: PassLog | None = None
) -> tuple[ModelProto, PassLog]:
    """Run passes in order, each within its contract, and go on with ``log``. ``reference`` None: nothing says
    what they should compute.

    Raises :class:`ModelError` naming the pass and its predecessors.
    """
    log = log or PassLog()
    for p in passes:
        try:
            p.requires(model)
            model, modified = p.run(model)
            p.ensures(model)
            if modified and reference is not None:
                reference.check(model)
        except EdgectlError as e:
            after = f" (after {', '.join(log.ran)})" if log.ran else ""
            raise ModelError(f"pass {p.name}{after}: {e.message}", hint=e.hint or p.hint) from e
        log.ran.append(p.name)
        if modified:
            log.modified.append(p.name)
    return model, log


def typed_feeds(feeds: Feeds, model: ModelProto) -> Feeds:
    """The feeds in the float types that the inputs of ``model`` have."""
    kinds = {i.name: np_dtype(i) for i in model.graph.input if i.name in feeds}
    return {
        n: x.astype(kinds[n]) if n in kinds and x.dtype.kind == kinds[n].kind == "f" else x
        for n, x in feeds.items()
    }


def rounding_of(model: bytes, feeds: Feeds) -> dict[str, float]:
    """Output → a few units of rounding of the largest float value that it was worked out from."""
    watched = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    index = GraphIndex(watched)
    inner = [o for n in index.nodes for o in n.output if index.is_float(o) and o not in index.outputs]
    watched.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in inner)
    try:
        values = {**feeds, **_run(watched.SerializeToString(), feeds, "the model")}
    except ModelError:
        # then only the bound on the error says what is the same
        return {}
    seen = {t: np.abs(v[np.isfinite(v)]).max(initial=0.0) for t, v in values.items() if v.dtype.kind == "f"}
    largest = {t: float(np.max(seen.get(t, 0.0))) for t in (*index.inputs, *index.initializers)}
    for n in index.nodes:
        behind = max((largest.get(i, 0.0) for i in reads(n)), default=0.0)
        largest |= {o: max(behind, float(seen.get(o, 0.0))) for o in n.output}
    return {
        o: min(NOUGHT, _ROUNDINGS * float(np.finfo(np.float32).eps) * largest.get(o, 0.0))
        for o in index.outputs
    }


def _run(model: bytes, feeds: Feeds, what: str, hint: str | None = None) -> Outputs:
    try:
        engine = OnnxRuntimeEngine(model, SessionSettings(optimization="disabled"))
        return engine.run(feeds)
    except EdgectlError as e:
        raise ModelError(f"{what} does not run: {e.message}", hint=e.hint or hint) from e
