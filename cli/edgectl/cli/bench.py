"""``edgectl bench``: how fast a bundle is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgectl.cli._output import Json, Output, table

__all__ = ["bench"]


def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for each variant.")] = 5.0,
    json: Json = False,
) -> None:
    """Measure every variant that runs here, interleaved: latency from the scheduled issue time, percentiles only from enough samples."""
    out = Output(json)
    from edgectl.builder.bench import bench_bundle
    from edgectl.core.bundle import Bundle

    with out.progress() as update:
        results = bench_bundle(Bundle(bundle), seconds=seconds, progress=update)

    def shown() -> Table:
        t = table("profile", "variant", "runtime", ">n", ">p50 ms", ">p90 ms", ">p95 ms", ">p99 ms", ">× float", "")
        for r in results:
            cells = ["-" if v is None else f"{v:.3f}" for v in (r.p50_ms, r.p90_ms, r.p95_ms, r.p99_ms, r.ratio_to_float)]
            t.add_row(r.profile, r.variant, r.runtime, f"{r.n:,}", *cells, r.skipped or "")
        return t

    out.result(results, shown)
