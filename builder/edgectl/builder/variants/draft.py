"""One variant as it was chosen, before golden outputs are recorded and it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgectl.builder.ingest.source_precision import AS_RECEIVED
from edgectl.builder.int8.escalate import float_report
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.int8.previous_release import PREFIX
from edgectl.builder.int8.quantize import Quantized
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.core.acceptance import Acceptance
from edgectl.core.bundle import (
    AheadOfTime,
    LayerReport,
    Precision,
    Preference,
    Recipe,
    Runtime,
    SessionSettings,
)
from edgectl.core.measured import Measured
from edgectl.core.memory import EngineMemory
from edgectl.core.task import ImageInput

__all__ = ["VariantDraft", "float_layers", "recipe_as_received", "recipe_of"]


@dataclass(frozen=True)
class VariantDraft:
    """What makes one variant."""

    profile: str
    variant: str
    runtime: Runtime
    requires: tuple[str, ...]
    model: bytes = field(repr=False)
    recipe: Recipe
    precision: Precision
    session: SessionSettings
    layers: tuple[LayerReport, ...] = ()
    accuracy: Accuracy | None = None
    measured: Measured | None = None
    fallback: bool = False
    golden: bytes | None = field(default=None, repr=False)
    """The graph whose outputs are golden, where the engine file alone does not say how it computes
    (implicit quantization)."""
    engine_layers: tuple[tuple[str, bytes | Path], ...] = field(default=(), repr=False)
    """More layers of the bundle that the engine is made of: (media type, bytes or a file that has them)."""
    file: Path | None = None
    """:attr:`model` as a file, with the file of its weights beside it; None: all weights are inside."""
    preferences: tuple[Preference, ...] = ()
    """What it is best at."""
    picture: ImageInput | None = None
    """Preprocessing is inside the graph: what the device fills in instead of the task's input."""
    batch: int = 1
    """Most pictures that one call takes."""
    ahead: AheadOfTime | None = None
    """Of an engine among :attr:`engine_layers` that was compiled here."""
    acceptance: Acceptance | None = None
    """What NVIDIA's compiler said of it; None where it was not asked."""
    batch_memory: EngineMemory | None = None
    """What the engine adds to a process with calls of :attr:`batch` pictures; None where it takes one."""

    @property
    def memory(self) -> EngineMemory | None:
        """What the engine adds to a process that opens it: measured here, or by NVIDIA's compiler where it runs only on
        the device. None where neither is known."""
        if self.runtime in ("tensorrt", "tensorrt-rtx"):
            a = self.acceptance
            if a is None or not a.accepted or not a.engine_bytes:
                return None
            return EngineMemory(source="compiler", device_bytes=a.engine_bytes + a.activation_bytes)
        fresh = self.measured.fresh if self.measured is not None else None
        one = fresh.memory if fresh is not None else None
        if self.batch_memory is None or one is None:
            return self.batch_memory or one
        return self.batch_memory.model_copy(update={"one_picture_bytes": one.resident_bytes})


def recipe_as_received(model: QuantizedModel) -> Recipe:
    """Of the model itself, with what the passes did to it."""
    family = "float" if model.source.precision == "float32" else AS_RECEIVED
    return Recipe(family=family, passes=model.source.passes, precision=model.source.precision)


def recipe_of(model: QuantizedModel, family: str, name: str, quantized: Quantized) -> Recipe:
    """``family``: the one that was asked for; a candidate of another runtime's form shares its basis."""
    spec = quantized.family
    basis = model.basis_of(family, name, quantized)
    codes = ("follow",) if quantized.carried_over else ("reconstruct",) if quantized.rebuilt else ()
    return Recipe(
        family=spec.name,
        passes=(*model.source.passes, *basis.passes, f"quantize:{name.removeprefix(PREFIX)}", *codes),
        precision="int8",
        activations=spec.activation,
        weights={127: "int8", 63: "int8 (7 bit)", 7: "int4"}[spec.weight_max],
        excluded=tuple(sorted(quantized.placement.reasons)),
        method=quantized.ranges,
        **(
            {}
            if quantized.ranges is None
            else {"calibration": basis.table.digest, "samples": basis.table.samples}
        ),
    )


def float_layers(model: QuantizedModel, family: str | None) -> tuple[LayerReport, ...]:
    """Why each layer is float. Nothing for a model that came quantized: its layers are its maker's."""
    if model.source.precision != "float32":
        return ()
    if model.table is None:
        return float_report(model.source.graph, None, model.max_drop, "float: see the notes of the build")
    return float_report(model.source.graph, model.families.get(family or ""), model.max_drop, "")
