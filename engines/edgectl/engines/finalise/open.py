"""Open the engine of a variant: the one way from a bundle to something that runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgectl.core.bundle import SessionSettings, Variant
from edgectl.core.errors import EngineError
from edgectl.engines.base import Engine
from edgectl.engines.finalise.finalise import finalise
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine
from edgectl.engines.runtimes.openvino import OpenVinoEngine

__all__ = ["engine_file", "open_engine", "open_model"]


def open_engine(variant: Variant, *, threads: int | None = None, cache: Path | None = None) -> Engine:
    """Open a variant in its runtime.

    ``threads`` overrides the measured setting. ``cache``: folder of finalised engines; None opens the ONNX
    file as it is (a TensorRT variant needs the folder, because its plan is compiled there). Raises
    :class:`EngineError`.
    """
    with tempfile.TemporaryDirectory() as folder:  # for an engine that is still packed
        path, settings = engine_file(variant, Path(folder), threads=threads, cache=cache)
        return open_model(path, settings, runtime=variant.config.runtime)


def engine_file(
    variant: Variant, folder: Path, *, threads: int | None = None, cache: Path | None = None
) -> tuple[Path, SessionSettings]:
    """What :func:`open_engine` opens, and how: for a process that opens it itself. A packed engine is
    decoded into ``folder``."""
    settings = variant.config.session
    if threads is not None:
        settings = settings.model_copy(update={"threads": threads})
    if cache is None:
        if variant.config.runtime in ("tensorrt", "tensorrt-rtx"):
            raise EngineError(
                f"variant {variant.config.variant} is compiled on the device and needs a folder for its plan",
                hint="give a cache folder, or take the CPU fallback variant",
            )
        return variant.engine(folder), settings
    final = finalise(variant, cache)
    if final.kind == "optimised":
        # ONNX Runtime optimised this very file
        settings = settings.model_copy(update={"optimization": "disabled"})
    return final.path, settings


def open_model(
    model: Path | bytes, settings: SessionSettings | None = None, *, runtime: str = "onnxruntime"
) -> Engine:
    """Open an ONNX file, or its bytes, in a CPU runtime; for ``tensorrt`` and ``tensorrt-rtx`` the file of a plan or
    engine that the finaliser made."""
    settings = settings or SessionSettings()
    if runtime in ("tensorrt", "tensorrt-rtx"):
        if not isinstance(model, Path):
            raise EngineError("a TensorRT plan is opened from its file")
        # here: only devices with TensorRT load its module
        if runtime == "tensorrt-rtx":
            from edgectl.engines.runtimes.tensorrt_rtx import RtxEngine

            return RtxEngine(model)
        from edgectl.engines.runtimes.tensorrt import TensorRtEngine

        return TensorRtEngine(model)
    if runtime == "openvino":
        return OpenVinoEngine(model, settings)
    return OnnxRuntimeEngine(model, settings)
