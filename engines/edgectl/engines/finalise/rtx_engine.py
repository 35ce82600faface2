"""The TensorRT-RTX engine of this device: the one that came in the bundle where it was made by this very version for this
GPU, else one that is compiled here from the graph beside it. Either is checked against the golden outputs, in a child
process, before it counts.

On disk, beside the engine: its runtime cache, ``<engine>.runtime-cache``.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edgectl.core.bundle import LAYER_RTX, Variant
from edgectl.core.errors import EngineError, GoldenError
from edgectl.core.files import storage
from edgectl.engines.child import run_child
from edgectl.engines.finalise.entry import CacheEntry, alone
from edgectl.engines.finalise.rtx import CURRENT, accept

__all__ = ["rtx_engine"]

log = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 300.0
_COMPILE_TIMEOUT_S = 600.0


def rtx_engine(
    variant: Variant, model: Path, cache: Path, timeout_s: float | None
) -> tuple[CacheEntry, dict[str, Any], bool]:
    """Its entry in the cache, the record of it, and whether it was made now. Raises :class:`EngineError`,
    :class:`GoldenError` and :class:`StorageError`; the cache then holds what it held before."""
    entry = CacheEntry.of(variant, model, cache, _identity(), "rtx")
    with alone(cache, model):
        if (known := entry.read()) is not None:
            return entry, known, False
        entry.invalidate()
        with storage(str(cache)):
            work = tempfile.TemporaryDirectory(dir=cache, prefix=entry.scratch)
        with work as folder:
            engine = Path(folder) / "model.rtx"
            p50_ms = _shipped(variant, entry, engine)
            if p50_ms is None:
                p50_ms = _compiled(variant, entry, engine, timeout_s or _COMPILE_TIMEOUT_S)
            kept = entry.commit(engine, f"{entry.stem}.rtx", p50_ms=p50_ms)
            with storage(str(cache)):
                engine.with_suffix(".runtime-cache").replace(kept.with_suffix(".runtime-cache"))
        found = entry.read()
        assert found is not None
        return entry, found, True


def _shipped(variant: Variant, entry: CacheEntry, engine: Path) -> float | None:
    """Put the bundle's engine there; its latency in ms. None where it is for another version or GPU, or does not do here."""
    ahead, layer = variant.config.ahead, variant.layer(LAYER_RTX)
    ours = f"TensorRT-RTX {entry.key['tensorrt-rtx']}"
    if ahead is None or layer is None or ahead.compiler != ours or entry.key["sm"] not in ahead.sm:
        return None
    with storage(str(engine)):
        shutil.copyfile(variant.need(LAYER_RTX), engine)
    try:
        return _checked(variant, engine)
    except (EngineError, GoldenError) as e:
        log.warning("the engine of the bundle does not do here, so one is compiled: %s", e.message)
        return None


def _compiled(variant: Variant, entry: CacheEntry, engine: Path, timeout_s: float) -> float:
    verdict = accept(entry.model, (CURRENT,), engine=engine, timeout_s=timeout_s)
    if not verdict.accepted:
        raise EngineError(f"the graph is {verdict.told()}", hint="take the fallback variant")
    return _checked(variant, engine)


def _checked(variant: Variant, engine: Path) -> float:
    reply = run_child(
        "edgectl.engines.finalise.rtx_check",
        [str(variant.blobs), variant.digest, str(engine)],
        timeout_s=_CHECK_TIMEOUT_S,
        what="checking the TensorRT-RTX engine",
    )
    return float(reply["p50_ms"])


def _identity() -> dict[str, Any]:
    """What an engine and its runtime cache depend on beside the model."""
    found = run_child(
        "edgectl.engines.finalise.rtx_check",
        ["--identify"],
        timeout_s=120.0,
        what="looking at the TensorRT-RTX of this device",
    )
    return {name: found[name] for name in ("tensorrt-rtx", "device", "sm", "multiprocessors", "driver")}
