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
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, max=10_000, help="Queries per second, like a camera; default: each when the last one is done."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of finalised engines; TensorRT variants need it.")] = None,
    json: Json = False,
) -> None:
    """Measure every variant of a bundle that runs here: in turn against the fallback, and each as one stream of queries.

    Latency counts from the moment at which a query was scheduled (MLPerf LoadGen, SingleStream).
    """
    output = Output(json)
    from edgectl.builder.bench import bench_bundle

    with output.progress() as update:
        report = bench_bundle(
            path, seconds=seconds, threads=threads, rate=rate, cache=cache, progress=lambda what: update(what, None)
        )

    def shown() -> Group:
        t = table("profile", "variant", "runtime", ">threads", ">p50 ms", ">p90 ms", ">p99 ms", ">p90 ≤", ">p99 ≤", ">n",
                  ">× fallback", "95 % interval", "")  # fmt: skip
        for r in report.rows:
            one = r.latency
            times = (one.p50_ms, one.p90_ms, one.p99_ms, r.p90_at_most_ms, r.p99_at_most_ms) if one is not None else (None,) * 5
            t.add_row(
                r.profile, r.variant, r.runtime, str(r.threads), *("-" if x is None else f"{x:.3f}" for x in times),
                "-" if one is None else str(one.n), "-" if r.ratio is None else f"{r.ratio.median:.3f}",
                "-" if r.ratio is None else f"{r.ratio.low:.3f} … {r.ratio.high:.3f}", r.skipped or "",
            )  # fmt: skip
        issued = "each query when the last one was done" if report.rate is None else f"{report.rate:g} queries a second"
        late = max((r.timer_late_p90_ms or 0.0 for r in report.rows), default=0.0)
        floor = f"; this machine's timer was up to {late:.2f} ms late (p90)" if late else ""
        said = f"{issued}; ≤: with 99 % confidence; {report.machine}; load {report.load:.2f}{floor}"
        return Group(t, "", said)

    output.result(report, shown)
