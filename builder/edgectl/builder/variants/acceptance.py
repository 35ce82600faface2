"""NVIDIA's own compiler as the judge of the graphs that devices compile with TensorRT, where it is installed. It needs no
GPU."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgectl.builder.budget import PACK
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.errors import EngineError
from edgectl.engines.finalise.rtx import accept, has_compiler

__all__ = ["accepted"]


def accepted(draft: VariantDraft, monitor: BuildMonitor, *, again: bool = False) -> VariantDraft | None:
    """With what the compiler said of it; None, with a note, for a graph that it refuses. As it is where the compiler is not
    installed, or has said nothing of it.

    ``again``: it has taken the same layers in another form. Then it is asked only while there is time.
    """
    if not has_compiler():
        return draft
    if again and monitor.budget.over(PACK, f"what NVIDIA's compiler says of {draft.variant}"):
        return draft
    name = f"{draft.profile}: {draft.variant}"
    monitor.tell("accept", 0.15, f"{draft.variant}: NVIDIA's compiler")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(draft.model)
        try:
            verdict = accept(path)
        except EngineError as e:
            monitor.note(f"{name}: not known whether NVIDIA's compiler accepts it: {e.message}")
            return draft
    if not verdict.accepted:
        monitor.note(f"{name} is left out: {verdict.told()}")
        return None
    return replace(draft, acceptance=verdict)
