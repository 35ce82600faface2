"""``edgectl bundle``: look into a bundle and prove it, also to NVIDIA's compiler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, plain
from edgectl.core.errors import BundleError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from edgectl.core.bundle import LayerReport, Variant

__all__ = ["app"]

app = Noun("bundle")

BundleFolder = Annotated[Path, typer.Argument(help="Folder of the bundle.")]


@app.command("inspect")
def inspect(
    path: BundleFolder,
    layers: Annotated[
        bool, typer.Option("--layers", help="Show every layer with its precision and reason.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report with its plots to this file.")
    ] = None,
    *,
    out: Printer,
) -> None:
    """Show what is in a bundle: variants, precisions, recipes, what was measured."""
    if html is not None:
        from edgectl.builder.pack.html import render
        from edgectl.builder.pack.inspect import inspect_bundle
        from edgectl.core.files import atomic_write

        page = render(inspect_bundle(path)).encode()
        atomic_write(html, page)
        out.result({"html": html, "bytes": len(page)}, f"wrote {html}, {len(page):,} bytes")
        return
    from edgectl.builder.pack.report import read_report
    from edgectl.core.bundle import Bundle, added_blobs

    bundle = Bundle(path)
    rows = [_layer_report(v) for v in bundle.variants]
    report = next((r for v in bundle.variants if (r := read_report(v)) is not None), None)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "causes": {} if report is None else plain(report.causes),
        "labels": None if report is None else plain(report.labels),
        "left_out": [] if report is None else list(report.left_out),
        "decided": [] if report is None else list(report.decided),
        "variants": [
            plain(v.config)
            | {
                "manifest": v.digest,
                "bytes": sum(d.size for d in v.manifest.layers),
                "added_bytes": sum(d.size for d in added),
                "layers": plain(row),
            }
            for v, row, added in zip(bundle.variants, rows, added_blobs(bundle.variants), strict=True)
        ],
    }

    def shown() -> Group:
        from edgectl.cli.views.bundle import bundle_view

        return bundle_view(bundle, rows, report, each_layer=layers)

    out.result(value, shown)


@app.command("verify")
def verify(path: BundleFolder, *, out: Printer) -> None:
    """Hash every blob of a bundle and compare it with its digest."""
    from edgectl.core.bundle import Bundle

    bundle = Bundle(path)
    total = bundle.verify()
    out.result(
        {"digest": bundle.digest, "bytes": total, "variants": len(bundle.variants), "ok": True},
        f"{bundle.digest}: {len(bundle.variants)} variants, {total:,} bytes, every digest is right",
    )


@app.command("accept")
def accept(
    path: BundleFolder,
    sm: Annotated[
        list[str] | None, typer.Option(help="Compute capability to compile for; repeat it. [default: 8.6]")
    ] = None,
    *,
    out: Printer,
) -> None:
    """Have NVIDIA's own compiler try every graph that a device compiles with TensorRT.

    It needs no GPU, but the extra [rtx] (TensorRT-RTX). It proves that the compiler's parser and builder take the graph, and
    says how large the engine is; not that it ran, nor how fast. Exits with 1 if one is refused.
    """
    import tempfile

    from edgectl.core.bundle import Bundle
    from edgectl.engines.finalise.rtx import ACCEPTANCE_SM, need_compiler
    from edgectl.engines.finalise.rtx import accept as ask

    need_compiler()
    bundle = Bundle(path)
    bound = [v for v in bundle.variants if v.config.runtime == "tensorrt"]
    if not bound:
        raise BundleError(
            f"{path} has nothing that a device compiles with TensorRT",
            hint="build it for such a profile: --profile jetson-orin or desktop-gpu",
        )
    rows = []
    with tempfile.TemporaryDirectory() as folder, out.progress() as tell:
        for i, v in enumerate(bound):
            name = f"{v.config.profile}/{v.config.variant}"
            tell(name, i / len(bound))
            rows.append((name, ask(v.engine(Path(folder)), tuple(sm or (ACCEPTANCE_SM,)))))

    def shown() -> Table:
        from edgectl.cli.views.bundle import acceptance_table

        return acceptance_table(rows)

    refused = sum(not verdict.accepted for _, verdict in rows)
    out.result({"refused": refused, "variants": {name: plain(v) for name, v in rows}}, shown)
    if refused:
        raise typer.Exit(1)


@app.command("extract")
def extract(
    path: BundleFolder,
    folder: Annotated[Path, typer.Option("--out", "-o", help="New folder for the files.")],
    variant: Annotated[
        str | None, typer.Option("--variant", help="VARIANT or PROFILE/VARIANT; default: the only one.")
    ] = None,
    triton: Annotated[
        bool, typer.Option("--triton", help="Also a model repository for NVIDIA's Triton server.")
    ] = False,
    *,
    out: Printer,
) -> None:
    """Write a variant as plain files for other tools, with the commands that run it there as edgectl does.

    trtexec, tensorrt_rtx, onnxruntime_perf_test or benchmark_app, by its runtime.
    """
    from edgectl.builder.pack.extract import choose
    from edgectl.builder.pack.extract import extract as write
    from edgectl.core.bundle import Bundle

    done = write(choose(Bundle(path), variant), folder, triton=triton)
    lines = [f"{done.variant} in {done.out}: {', '.join(done.files)}", ""]
    lines += [line for what, command in done.commands for line in (f"# {what}", command)]
    out.result(
        {
            "variant": done.variant,
            "out": done.out,
            "files": list(done.files),
            "commands": [{"what": what, "command": command} for what, command in done.commands],
        },
        "\n".join(lines),
    )


def _layer_report(v: Variant) -> tuple[LayerReport, ...]:
    from pydantic import TypeAdapter, ValidationError

    from edgectl.core.bundle import LAYER_LAYERS, MAX_JSON_BYTES, LayerReport, read_bounded

    path = v.layer(LAYER_LAYERS)
    if path is None:
        return ()
    try:
        return TypeAdapter(tuple[LayerReport, ...]).validate_json(read_bounded(path, MAX_JSON_BYTES))
    except (ValidationError, RecursionError) as e:
        raise BundleError(
            f"the layer report of {v.config.variant} is not valid", hint="build the bundle again"
        ) from e
