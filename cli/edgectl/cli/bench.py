"""``edgectl bench``: latency of a bundle's variants on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._options import duration
from edgectl.cli._printer import Printer, plain
from edgectl.core.errors import BusyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Group

    from edgectl.engines.measure.sustained import Second

__all__ = ["bench"]


def bench(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")],
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1, max=3600, help="Time for measuring, all variants together; --sustained has its own."
        ),
    ] = 40.0,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads; default: what each variant was built with.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=10_000,
            help="Queries per second, like a camera. Default: the next one as soon as one is done.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finalised engines; TensorRT variants need it.")
    ] = None,
    decide: Annotated[
        bool,
        typer.Option(
            "--decide",
            help="Put the variant first that is fastest here, and write the bundle again. Exit 13 while the machine is busy.",
        ),
    ] = False,
    sustained: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="Run one variant for so long (90s, 30m, 2h): heat, throttling, drift, memory. Ctrl-C ends it early.",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE/VARIANT", help="With --sustained: which one. Default: the first that runs here."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="With --sustained: where to draw it.")
    ] = None,
    *,
    output: Printer,
) -> None:
    """Measure every variant of a bundle that runs on this machine, in turn with the float fallback.

    Each is measured alone, paced like a camera of 30 frames a second, and beside busy processes; and as
    one stream of queries, whose latency counts from the moment a query was scheduled (MLPerf LoadGen,
    SingleStream). Two variants within 5 % are equal.
    """
    from edgectl.builder.pack.bench import bench_bundle
    from edgectl.builder.pack.decide import decide as decide_of
    from edgectl.builder.pack.decide import rewrite
    from edgectl.core.bundle import Bundle

    if sustained is None and (variant is not None or plot is not None):
        raise UsageError("--variant and --plot belong to --sustained", hint="add --sustained 30m")
    if sustained is not None:
        if decide:
            raise UsageError(
                "--sustained runs one variant, --decide compares all", hint="leave one of them out"
            )
        _sustain(path, sustained, variant, rate, threads, cache, plot, output)
        return
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
        from edgectl.cli.views.bench import bench_view

        return bench_view(report, decision, digest)

    output.result(
        report if decision is None else {**plain(report), "decision": plain(decision), "digest": digest},
        shown,
    )
    if decision is not None and decision.undecided:
        raise BusyError(
            f"undecided: the machine is busy ({'; '.join(decision.undecided)}), and {path} stays as it is",
            hint="stop what else runs here and try again",
        )


def _sustain(
    path: Path,
    seconds: float,
    variant: str | None,
    rate: float | None,
    threads: int | None,
    cache: Path | None,
    drawn: Path | None,
    output: Printer,
) -> None:
    """A signal ends the run, and what was seen by then is the result."""
    from edgectl.builder.pack.sustained import plot, sustain_bundle
    from edgectl.cli._signals import StopRequest
    from edgectl.core.files import atomic_write, storage

    if drawn is not None and not drawn.parent.is_dir():
        raise UsageError(
            f"there is no folder {drawn.parent}", hint="make it, or name another place for --plot"
        )
    with output.progress() as update, StopRequest() as request:

        def progress(seen: Sequence[Second]) -> None:
            last = seen[-1]
            hot = "" if last.heat.temperature_c is None else f", {last.heat.temperature_c:.0f} °C"
            update(f"{last.at_s:.0f} of {seconds:.0f} s: {last.p50_ms:.3f} ms{hot}", last.at_s / seconds)

        request.arm()
        report = sustain_bundle(
            path,
            seconds=seconds,
            variant=variant,
            rate=rate,
            threads=threads,
            cache=cache,
            progress=progress,
            stop=request.event.is_set,
        )
    if drawn is not None:
        with storage(f"write {drawn}"):
            atomic_write(drawn, plot(report).encode())

    def shown() -> Group:
        from edgectl.cli.views.sustained import sustained_view

        return sustained_view(report, drawn)

    output.result(report, shown)
