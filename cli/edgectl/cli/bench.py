"""``edgectl bench``: latency of a bundle's variants on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from edgectl.cli._output import Json, Output, plain, table
from edgectl.core.errors import BusyError, UsageError

__all__ = ["bench"]


def bench(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")],
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Time for measuring, all variants together.")
    ] = 40.0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads; default: what each variant was built with.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=10_000,
            help="Queries per second, like a camera; default: each when the last one is done.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finalised engines; TensorRT variants need it.")
    ] = None,
    decide: Annotated[
        bool,
        typer.Option(
            "--decide",
            help="If the machine is quiet, put the variant first that is the fastest here, and write the bundle anew.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Measure every variant of a bundle that runs here: in turn against the fallback, in each context of a
    device, and each as one stream of queries.

    Contexts: alone back to back, paced by a camera of 30 frames a second, and beside processes that compute;
    in processes of their own, as the build measures. Within 5 % two variants are equal. Latency counts from
    the moment at which a query was scheduled (MLPerf LoadGen, SingleStream).
    """
    output = Output(json)
    from edgectl.builder.pack.bench import bench_bundle
    from edgectl.builder.pack.decide import decide as decide_of
    from edgectl.builder.pack.decide import rewrite
    from edgectl.core.bundle import Bundle

    if decide and threads is not None:
        raise UsageError("--decide measures what ships", hint="leave --threads out")

    with output.progress() as update:
        report = bench_bundle(
            path,
            seconds=seconds,
            threads=threads,
            rate=rate,
            cache=cache,
            progress=lambda what: update(what, None),
        )

    decision = digest = None
    if decide:
        decision = decide_of([v.config for v in Bundle(path).variants], report)
        digest = Bundle(path).digest if decision.undecided else rewrite(path, decision, report)

    def shown() -> Group:
        compared = table("profile", "variant", "context", ">p50 ms", ">× fallback", "95 % interval", "")
        for r in report.rows:
            for c in r.contexts:
                last = c is r.contexts[-1]
                compared.add_row(
                    r.profile,
                    r.variant,
                    c.context.value,
                    f"{c.p50_ms:.3f}",
                    "-" if c.ratio is None else f"{c.ratio:.3f}",
                    "-" if c.low is None else f"{c.low:.3f} … {c.high:.3f}",
                    ("" if c.standing is None else c.standing.value)
                    + (f"; in all: {r.standing.value}" if last and r.standing else ""),
                )
        t = table(
            "profile",
            "variant",
            "runtime",
            ">threads",
            ">p50 ms",
            ">p90 ms",
            ">p99 ms",
            ">p90 ≤",
            ">p99 ≤",
            ">n",
            "",
        )
        for r in report.rows:
            one = r.latency
            times = (
                (one.p50_ms, one.p90_ms, one.p99_ms, r.p90_at_most_ms, r.p99_at_most_ms)
                if one is not None
                else (None,) * 5
            )
            t.add_row(
                r.profile,
                r.variant,
                r.runtime,
                str(r.threads),
                *("-" if x is None else f"{x:.3f}" for x in times),
                "-" if one is None else str(one.n),
                r.skipped or "",
            )
        issued = (
            "each query when the last one was done"
            if report.rate is None
            else f"{report.rate:g} queries a second"
        )
        late = max((r.timer_late_p90_ms or 0.0 for r in report.rows), default=0.0)
        floor = f"; this machine's timer was up to {late:.2f} ms late (p90)" if late else ""
        said = f"{issued}; ≤: with 99 % confidence; {report.machine}; load {report.load:.2f}{floor}"
        parts: list[RenderableType] = [t, "", compared, "", said]
        if report.busy_because:
            parts.append(
                f"the machine was busy: {'; '.join(report.busy_because)}; what is not clear by far is undecided"
            )
        if decision is not None and not decision.undecided:
            parts += [
                "",
                *(
                    decision.sentences
                    or ("no profile has both a float and a quantized engine that ran here",)
                ),
            ]
            parts.append(f"{'written anew' if decision.changed else 'as it was'}: {digest}")
        return Group(*parts)

    output.result(
        report if decision is None else {**plain(report), "decision": plain(decision), "digest": digest},
        shown,
    )
    if decision is not None and decision.undecided:
        raise BusyError(
            f"undecided: the machine is busy ({'; '.join(decision.undecided)}), and {path} stays as it is",
            hint="stop what else runs here and try again",
        )
