"""``edgectl bundle``: look into a bundle and prove it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Group, RenderableType
from rich.table import Table

from edgectl.cli._output import Json, Output, plain, table
from edgectl.core.bundle import (
    LAYER_ENGINE,
    LAYER_GOLDEN,
    LAYER_LAYERS,
    LAYER_PACKED,
    LAYER_RANGES,
    MAX_JSON_BYTES,
    Bundle,
    Descriptor,
    LayerReport,
    Variant,
    added_blobs,
    read_bounded,
)
from edgectl.core.errors import BundleError
from edgectl.core.files import atomic_write
from edgectl.core.measured import Context, Measured, Standing

if TYPE_CHECKING:
    from edgectl.builder.pack.report import SearchReport

app = typer.Typer(name="bundle", help="Look into a bundle and prove it.", no_args_is_help=True)
_KINDS = {
    LAYER_ENGINE: "engine",
    LAYER_PACKED: "engine",
    LAYER_GOLDEN: "golden samples",
    LAYER_RANGES: "ranges",
}
_LAYERS: TypeAdapter[tuple[LayerReport, ...]] = TypeAdapter(tuple[LayerReport, ...])


@app.command("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Show every layer with its precision and reason.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report with its plots to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what is in a bundle: variants, precisions, recipes, what was measured."""
    out = Output(json)
    if html is not None:
        from edgectl.builder.pack.html import render
        from edgectl.builder.pack.inspect import inspect_bundle

        page = render(inspect_bundle(path)).encode()
        atomic_write(html, page)
        out.result({"html": html, "bytes": len(page)}, f"wrote {html}, {len(page):,} bytes")
        return
    bundle = Bundle(path)
    reports = {v.config.variant + "@" + v.config.profile: _layer_report(v) for v in bundle.variants}

    def shown() -> RenderableType:
        parts: list[RenderableType] = [
            f"{bundle.name} {bundle.version}  {bundle.digest}",
            "",
            variants_table(bundle),
            "",
        ]
        for v, added in zip(bundle.variants, added_blobs(bundle.variants), strict=True):
            report = reports[v.config.variant + "@" + v.config.profile]
            parts += [_recipe(v, report, added, first=v is bundle.variants[0]), ""]
            if layers:
                t = table("layer", "op", "precision", ">scale", ">SQNR dB", "reason")
                for row in report:
                    scale = "" if row.scale is None else f"{row.scale:.3g}"
                    t.add_row(
                        row.node,
                        row.op,
                        row.precision,
                        scale,
                        "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
                        row.reason,
                    )
                parts += [t, ""]
        parts += _why_float(bundle)
        return Group(*parts)

    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "causes": {} if (report := _report(bundle)) is None else plain(report.causes),
        "left_out": [] if report is None else list(report.left_out),
        "decided": [] if report is None else list(report.decided),
        "variants": [
            plain(v.config)
            | {
                "manifest": v.digest,
                "bytes": sum(d.size for d in v.manifest.layers),
                "added_bytes": sum(d.size for d in added),
                "layers": plain(reports[v.config.variant + "@" + v.config.profile]),
            }
            for v, added in zip(bundle.variants, added_blobs(bundle.variants), strict=True)
        ],
    }
    out.result(value, shown)


@app.command("verify")
def verify(path: Annotated[Path, typer.Argument(help="Folder of the bundle.")], json: Json = False) -> None:
    """Hash every blob of a bundle and compare it with its digest."""
    out = Output(json)
    bundle = Bundle(path)
    total = bundle.verify()
    out.result(
        {"digest": bundle.digest, "bytes": total, "variants": len(bundle.variants), "ok": True},
        f"{bundle.digest}: {len(bundle.variants)} variants, {total:,} bytes, every digest is right",
    )


def variants_table(bundle: Bundle) -> Table:
    """One row a variant, in the order of the index: the order in which a device tries them."""
    t = table(
        "profile",
        "variant",
        "runtime",
        "precision",
        "best at",
        ">bytes",
        ">adds",
        ">p50 ms",
        ">× float alone",
        ">paced",
        ">MiB",
        "accuracy",
        "needs",
        title="variants",
    )
    for v, added in zip(bundle.variants, added_blobs(bundle.variants), strict=True):
        c = v.config
        m = c.measured
        a = c.accuracy
        accuracy = (
            f"drop {a['drop']:.4f} [{a['drop_low']:.4f}, {a['drop_high']:.4f}]" if "drop_high" in a else ""
        )
        flags = " (fallback)" if c.fallback else ""
        speed_only = " SPEED ONLY" if c.speed_only else ""
        t.add_row(
            c.profile,
            c.variant + flags + speed_only,
            c.runtime,
            c.recipe.precision,
            ", ".join(c.roles) or ("undecided" if m is not None and m.standing is Standing.UNDECIDED else ""),
            f"{sum(d.size for d in v.manifest.layers):,}",
            f"{sum(d.size for d in added):,}",
            *_times(m),
            "-" if c.expected_rss_mb is None else f"{c.expected_rss_mb:.0f}",
            accuracy or "-",
            ", ".join(c.requires) or "nothing",
        )
    return t


def _times(m: Measured | None) -> tuple[str, str, str]:
    """Median alone, and × the float fallback alone and paced, from processes of their own where it was
    measured there."""
    if m is None:
        return "-", "-", "-"
    of = {c.context: c for c in m.fresh.contexts} if m.fresh is not None else {}
    alone, paced = of.get(Context.ALONE), of.get(Context.PACED)
    ratio = m.ratio_to_float if alone is None or alone.ratio is None else alone.ratio
    return (
        f"{m.p50_ms if alone is None else alone.p50_ms:.3f}",
        "-" if ratio is None else f"{ratio:.2f}",
        "-" if paced is None or paced.ratio is None else f"{paced.ratio:.2f}",
    )


def _recipe(v: Variant, report: tuple[LayerReport, ...], added: list[Descriptor], *, first: bool) -> Table:
    r, s = v.config.recipe, v.config.session
    t = table(f"{v.config.profile}/{v.config.variant}", "")
    if v.config.unpacked is not None:
        packed = next(d.size for d in v.manifest.layers if d.mediaType == LAYER_PACKED)
        t.add_row(
            "engine",
            f"travels packed in {packed:,} bytes, {v.config.unpacked.size:,} when decoded at installation",
        )
    t.add_row("recipe", f"{r.family}: {', '.join(r.passes) or 'no passes'}")
    if r.activations:
        scales = f"{r.method} over {r.samples} samples" if r.method else "no calibrated scales"
        t.add_row("quantization", f"activations {r.activations}, weights {r.weights}, {scales}")
    if r.excluded:
        t.add_row("kept in float", ", ".join(r.excluded))
    precisions = Counter(f"{row.op} {row.precision}" for row in report)
    t.add_row("layers", ", ".join(f"{n} × {what}" for what, n in sorted(precisions.items())) or "-")
    if v.config.runtime == "onnxruntime":
        t.add_row(
            "session",
            f"{s.threads} thread(s), spinning {'on' if s.spinning else 'off'}, arena {'on' if s.arena else 'off'}, optimization {s.optimization}",
        )
    elif v.config.runtime == "openvino":
        t.add_row(
            "session",
            f"{s.threads} thread(s), computes in {s.precision_hint or 'the precision that it chooses'}",
        )
    t.add_row("adds", _added(added, first=first))
    if r.plan == "on-device":
        t.add_row("plan", "compiled on the device by the finaliser, checked against the golden outputs")
    t.add_row(
        "golden",
        f"{v.config.golden.samples} samples, "
        + "; ".join(
            f"{o}: cosine ≥ {x.cosine:.5f}, |error| ≤ {x.max_abs:.3g}"
            for o, x in v.config.golden.tolerances.items()
        ),
    )
    if v.config.measured:
        m = v.config.measured
        t.add_row("measured on", f"{m.machine}, {m.runtime_version}, load {m.conditions.load:.2f}, n = {m.n}")
        if m.fresh:
            f = m.fresh
            t.add_row(
                f"{f.runs} new processes",
                f"cold start {f.cold_start_s:.3f} s, {f.rss_mb:.0f} MiB, {f.cpu_ms:.2f} ms of processor time an inference",
            )
            tail = [
                f"{what} {x:.2f} ms"
                for what, x in (("p95", f.p95_ms), (f"p95 beside {f.busy} busy", f.p95_loaded_ms))
                if x is not None
            ]
            t.add_row("", ", ".join([f"p50 {f.p50_ms:.2f} ms", *tail]))
            for c in f.contexts:
                ratio = (
                    "what the others are told against"
                    if c.ratio is None
                    else f"{c.ratio:.3f} [{c.low:.3f}, {c.high:.3f}] × the float fallback: {c.standing.value if c.standing else '-'}"
                )
                t.add_row(c.context.value, f"{c.p50_ms:.3f} ms, {ratio}")
            if m.standing is not None:
                t.add_row("in all", f"{m.standing.value}, against the fastest float engine")
            if f.busy_because:
                t.add_row(
                    "busy", f"{'; '.join(f.busy_because)}: measure again with `edgectl bench DIR --decide`"
                )
        if m.route:
            g = m.route
            said = f"from the picture to the outputs {g.ratio:.3f} [{g.low:.3f}, {g.high:.3f}] × preprocessing outside, engine p50 {g.engine_p50_ms:.2f} ms"
            t.add_row("pixels in", said)
    return t


def _report(bundle: Bundle) -> SearchReport | None:
    from edgectl.builder.pack.report import read_report

    return next((r for v in bundle.variants if (r := read_report(v)) is not None), None)


def _why_float(bundle: Bundle) -> list[RenderableType]:
    """Why no quantized engine ships first, what was left out, and what was decided later; empty if there
    is nothing to say."""
    report = _report(bundle)
    if report is None:
        return []
    lines = [
        f"{group}: {c.cause}: {c.sentence}; {c.next}" for group, why in report.causes.items() for c in why
    ]
    lines += [f"left out for want of time: {', '.join(report.left_out)}"] if report.left_out else []
    return [*lines, *(f"decided later: {d}" for d in report.decided)]


def _added(added: list[Descriptor], *, first: bool) -> str:
    """What a variant costs beside those before it, and why."""
    sizes = Counter[str]()
    for d in added:
        sizes[_KINDS.get(d.mediaType, "reports")] += d.size
    words = ", ".join(f"{kind} {size:,}" for kind, size in sizes.most_common()) or "nothing"
    return f"{words} bytes" + (
        ": one ONNX file shares no weights with another"
        if sizes["engine"]
        else "; its engine is another's, too"
    )


def _layer_report(v: Variant) -> tuple[LayerReport, ...]:
    path: Any = v.layer(LAYER_LAYERS)
    if path is None:
        return ()
    try:
        return _LAYERS.validate_json(read_bounded(path, MAX_JSON_BYTES))
    except (ValidationError, RecursionError) as e:
        raise BundleError(
            f"the layer report of {v.config.variant} is not valid", hint="build the bundle again"
        ) from e
