"""One variant as it was chosen, before golden outputs are recorded and it is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.core.bundle import LayerReport, Precision, Recipe, Role, Runtime, SessionSettings
from edgectl.core.measured import Measured
from edgectl.core.task import ImageInput

__all__ = ["VariantDraft"]


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
    parts: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    """More layers that the engine is made of: (media type, bytes)."""
    roles: tuple[Role, ...] = ()
    picture: ImageInput | None = None
    """Preprocessing is inside the graph: what the device fills in instead of the task's input."""
