"""``edgectl bench``: latency of a bundle's variants on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from edgectl.cli._output import Json, Output, table

__all__ = ["bench"]


def bench(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")],
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Time for measuring, all variants together.")] = 5.0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads; default: what each variant was built with.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of finalised engines; TensorRT variants need it.")] = None,
    json: Json = False,
) -> None:
    """Measure every variant of a bundle that runs here, in turn, after its golden check."""
    output = Output(json)
    from edgectl.builder.bench import bench_bundle

    with output.progress() as update:
        report = bench_bundle(path, seconds=seconds, threads=threads, cache=cache, progress=lambda what: update(what, None))

    def shown() -> Group:
        t = table("profile", "variant", "runtime", ">threads", ">p10 ms", ">p50 ms", ">p90 ms", ">p99 ms", ">× fallback",
                  "95 % interval", ">n", "")  # fmt: skip
        for r in report.rows:
            times = () if r.latency is None else (r.latency.p10_ms, r.latency.p50_ms, r.latency.p90_ms, r.latency.p99_ms)
            t.add_row(
                r.profile, r.variant, r.runtime, str(r.threads), *("-" if x is None else f"{x:.3f}" for x in times or (None,) * 4),
                "-" if r.ratio is None else f"{r.ratio.median:.3f}",
                "-" if r.ratio is None else f"{r.ratio.low:.3f} … {r.ratio.high:.3f}",
                "-" if r.latency is None else str(r.latency.n), r.skipped or "",
            )  # fmt: skip
        return Group(t, "", f"{report.machine}; load {report.load:.2f}")

    output.result(report, shown)
