"""Engines that NVIDIA's compiler makes here, ahead of time, for desktop GPUs: one for each compute capability, beside the
graph that TensorRT takes. None of them ran here."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgectl.builder.budget import PACK
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.bundle import LAYER_RTX, AheadOfTime
from edgectl.core.errors import EngineError
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.finalise.rtx import accept, has_compiler

__all__ = ["rtx_drafts"]


def rtx_drafts(typed: VariantDraft, p: DeviceProfile, monitor: BuildMonitor) -> list[VariantDraft]:
    """``typed``: a graph that says every precision itself. A note says what could not be made."""
    if "tensorrt-rtx" not in p.runtimes or p.rtx is None:
        return []
    if not has_compiler():
        monitor.note(
            f"{p.name}: no engine was compiled ahead of time: NVIDIA's compiler is not installed (pip install 'edgectl[rtx]')"
        )
        return []
    drafts = []
    with tempfile.TemporaryDirectory() as folder:
        graph, engine = Path(folder) / "model.onnx", Path(folder) / "engine"
        graph.write_bytes(typed.model)
        for sm in p.rtx.sm:
            variant = f"{typed.variant.replace('tensorrt', 'tensorrt-rtx', 1)}-sm{sm.replace('.', '')}"
            if monitor.budget.over(PACK, f"{p.name}: {variant}"):
                continue
            monitor.tell("accept", 0.15, f"{variant}: NVIDIA's compiler")
            try:
                verdict = accept(graph, (sm,), engine=engine)
            except EngineError as e:
                monitor.note(f"{p.name}: {variant} is left out: {e.message}")
                continue
            if not verdict.accepted:
                monitor.note(f"{p.name}: {variant} is left out: {verdict.told()}")
                continue
            drafts.append(
                replace(
                    typed,
                    variant=variant,
                    runtime="tensorrt-rtx",
                    requires=(f"arch:{p.cpu.arch}", f"sm:{sm}"),
                    recipe=typed.recipe.model_copy(update={"plan": "ahead"}),
                    engine_layers=((LAYER_RTX, engine.read_bytes()),),
                    ahead=AheadOfTime(compiler=verdict.compiler, sm=verdict.sm),
                    acceptance=verdict,
                )
            )
    if drafts:
        monitor.note(
            f"{p.name}: {len(drafts)} engines were compiled ahead of time by {drafts[0].ahead.compiler}; none of them ran here"  # type: ignore[union-attr]
        )
    return drafts
