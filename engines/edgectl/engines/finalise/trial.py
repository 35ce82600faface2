"""Warm an engine up in a child process before it is activated: open, golden check, timed runs, memory.

A crash, a hang or a wrong result costs the child, never the caller. ``python -m
edgectl.engines.finalise.trial BLOBS MANIFEST`` prints one JSON line ``{ok, p50_ms, p90_ms, rss_mb, …}``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgectl.core.bundle import Variant
from edgectl.core.errors import EdgectlError
from edgectl.core.memory import EngineMemory
from edgectl.engines.child import answer, run_child
from edgectl.engines.resident import MemoryGrowth, give_back, memory_in, peak_rss_mb

__all__ = ["PATIENCE_S", "WarmReport", "warm_up"]


PATIENCE_S = 1800.0
"""That of an agent: a plan may have to be compiled, and a small board takes seconds for a call."""


@dataclass(frozen=True)
class WarmReport:
    """What became of a warm-up. ``ok`` is False with ``error`` (one sentence) and ``code`` set, never an
    exception."""

    ok: bool
    p50_ms: float | None = None
    p90_ms: float | None = None
    """None where ``runs`` were too few for it."""
    rss_mb: float | None = None
    """Largest resident memory of the child, interpreter and runtime included."""
    memory: EngineMemory | None = None
    """What the engine added to the child, on this very machine; None where the kernel does not tell."""
    runtime: str | None = None
    worst_cosine: float | None = None
    golden: float | None = None
    """:attr:`~edgectl.engines.finalise.golden.GoldenResult.score`, and"""
    golden_least: float | None = None
    """the score of an engine that just meets the tolerance."""
    error: str | None = None
    code: str | None = None


def warm_up(
    blobs: Path,
    manifest: str,
    *,
    runs: int = 64,
    timeout_s: float = PATIENCE_S,
    cache: Path | None = None,
    threads: int | None = None,
) -> WarmReport:
    """Open the variant ``manifest`` (digest) from ``blobs`` in a child, check it against golden, time
    ``runs`` inferences.

    ``cache``: folder of finalised engines, as for ``open_engine``; a TensorRT compile happens inside
    ``timeout_s``.
    """
    arguments = [str(blobs), manifest, "--runs", str(runs)]
    if cache is not None:
        arguments += ["--cache", str(cache)]
    if threads is not None:
        arguments += ["--threads", str(threads)]
    try:
        reply = run_child(
            "edgectl.engines.finalise.trial", arguments, timeout_s=timeout_s, what="warming the engine up"
        )
    except EdgectlError as e:
        return WarmReport(ok=False, error=e.message, code=e.code)
    grown = memory_in(reply)
    figures = {k: reply.get(k) for k in WarmReport.__dataclass_fields__ if k != "memory"}
    return WarmReport(**figures, memory=grown[0] if grown else None)  # type: ignore[arg-type]


def _main(arguments: list[str]) -> dict[str, Any]:
    # here: whoever asks for a warm-up loads no runtime for it
    import numpy as np

    from edgectl.engines.finalise.golden import check_golden, read_golden
    from edgectl.engines.finalise.open import engine_file, open_model
    from edgectl.engines.timing import bench

    parser = argparse.ArgumentParser(prog="edgectl.engines.finalise.trial")
    parser.add_argument("blobs", type=Path)
    parser.add_argument("manifest")
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--threads", type=int)
    a = parser.parse_args(arguments)
    variant = Variant.open(a.blobs, a.manifest)
    with tempfile.TemporaryDirectory() as folder:
        # before anything is measured: a worker opens what this leaves in the cache, and compiles nothing
        path, settings = engine_file(variant, Path(folder), threads=a.threads, cache=a.cache)
        give_back()
        grown, gpu_before = MemoryGrowth(), _gpu_free(variant)
        engine = open_model(path, settings, runtime=variant.config.runtime)
    golden = check_golden(engine, variant)
    times = bench(engine, [feeds for feeds, _ in read_golden(variant)], seconds=0.0, min_runs=a.runs)
    gpu_after = _gpu_free(variant)
    # others come and go on the GPU meanwhile: what was not seen to grow is not known
    taken = None if gpu_before is None or gpu_after is None else (max(0, gpu_before - gpu_after) or None)
    return {
        **grown.figures(),
        "device_bytes": taken,
        "p50_ms": float(np.median(times)) if len(times) else None,
        "p90_ms": float(np.percentile(times, 90)) if len(times) >= 64 else None,
        "rss_mb": peak_rss_mb(),
        "runtime": engine.runtime,
        "worst_cosine": min(e.cosine for e in golden.outputs.values()),
        "golden": golden.score,
        "golden_least": golden.least,
    }


def _gpu_free(variant: Variant) -> int | None:
    """Bytes of the GPU that nobody has taken, for an engine that runs on one whose memory is its own."""
    from edgectl.device_profiles.memory import gpu_bound

    c = variant.config
    on_gpu = c.runtime in ("tensorrt", "tensorrt-rtx") or c.session.provider == "cuda"
    bound = gpu_bound() if on_gpu else None
    return None if bound is None else bound.free


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
