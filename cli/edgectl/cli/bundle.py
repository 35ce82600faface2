"""``edgectl bundle``: look into a bundle and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, plain
from edgectl.core.errors import BundleError

if TYPE_CHECKING:
    from rich.console import Group

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
