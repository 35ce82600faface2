"""What is in a bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from edgectl.builder.pack.inspect import read_acceptance
from edgectl.cli._printer import printable, table
from edgectl.core.acceptance import Acceptance
from edgectl.core.bundle import (
    LAYER_ENGINE,
    LAYER_GOLDEN,
    LAYER_PACKED,
    LAYER_RANGES,
    LAYER_WEIGHTS,
    Bundle,
    Descriptor,
    LayerReport,
    Variant,
    added_blobs,
)
from edgectl.core.measured import Context, Measured, Standing
from edgectl.core.memory import MIB, EngineMemory

if TYPE_CHECKING:
    from edgectl.builder.pack.report import SearchReport

__all__ = ["acceptance_table", "bundle_view", "labels_line", "labels_table", "variants_table"]

_KINDS = {
    LAYER_ENGINE: "engine",
    LAYER_PACKED: "engine",
    LAYER_WEIGHTS: "weights",
    LAYER_GOLDEN: "golden samples",
    LAYER_RANGES: "ranges",
}

_PLANS = {
    "on-device": "compiled on the device by the finaliser, checked against the golden outputs",
    "ahead": "compiled here ahead of time; another version or GPU compiles its own; checked on the device against the golden outputs",
}


def bundle_view(
    bundle: Bundle,
    layers: Sequence[tuple[LayerReport, ...]],
    report: SearchReport | None,
    *,
    each_layer: bool,
) -> Group:
    """Variants, and how each was made. ``layers``: the layer report of each variant."""
    parts: list[RenderableType] = [
        f"{bundle.name} {bundle.version}  {bundle.digest}",
        f"licence of the weights: {bundle.variants[0].config.licence or 'not known'}",
        "",
        variants_table(bundle),
        "",
    ]
    if report is not None and (said := report.labels) is not None:
        parts += [labels_line(said.layout, said.pictures, said.given, said.objects, said.values), ""]
    if (by_labels := labels_table(bundle)) is not None:
        parts += [by_labels, ""]
    for v, rows, added in zip(bundle.variants, layers, added_blobs(bundle.variants), strict=True):
        parts += [_recipe(v, rows, added, first=v is bundle.variants[0]), ""]
        if each_layer:
            parts += [_layers(rows), ""]
    return Group(*parts, *_why_float(report))


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
        ">adds MiB",
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
            ", ".join(c.preferences)
            or ("undecided" if m is not None and m.standing is Standing.UNDECIDED else ""),
            f"{sum(d.size for d in v.manifest.layers):,}",
            f"{sum(d.size for d in added):,}",
            *_times(m),
            _adds_mib(c.memory),
            accuracy or "-",
            ", ".join(c.requires) or "nothing",
        )
    return t


def labels_line(layout: str, pictures: int, given: int, objects: int, values: Mapping[str, float]) -> str:
    """What judged, and how good float is."""
    of = f" of {given}" if given != pictures else ""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    return f"judged by labels ({layout}): {pictures}{of} labelled, {objects} to find; float reaches {figures}"


_JUDGED = {"drop", "drop_low", "drop_high", "samples", "objects"}


def labels_table(bundle: Bundle) -> Table | None:
    """What labels say of each variant and of float; None where nobody labelled anything."""
    judged = [v.config for v in bundle.variants if v.config.accuracy.keys() >= _JUDGED]
    if not judged:
        return None
    names = [n for n in judged[0].accuracy if f"float_{n}" in judged[0].accuracy]
    headers = [h for n in names for h in (f">{n}", ">float")]
    t = table(
        *("profile", "variant", *headers, ">drop", "95 % interval", ">pictures", ">objects"),
        title="by the labels",
    )
    for c in judged:
        a = c.accuracy
        figures = [f"{a.get(f'{of}{n}', float('nan')):.4f}" for n in names for of in ("", "float_")]
        interval = f"{a['drop_low']:.4f} … {a['drop_high']:.4f}" if c.recipe.precision != "float32" else ""
        counts = (f"{a['samples']:.0f}", f"{a['objects']:.0f}")
        t.add_row(c.profile, c.variant, *figures, f"{a['drop']:.4f}", interval, *counts)
    return t


def acceptance_table(rows: Sequence[tuple[str, Acceptance]]) -> Table:
    """What NVIDIA's compiler says to each variant, with its warnings below."""
    compiler = rows[0][1].compiler if rows else ""
    t = table(
        "variant",
        "verdict",
        "SM",
        ">layers",
        ">engine bytes",
        ">weight bytes",
        ">activation bytes",
        title=compiler,
    )
    for name, a in rows:
        where = f" at {a.node}" if a.node else ""
        verdict = ["accepted" if a.accepted else f"refused{where}: {a.sentence}"]
        verdict += [f"warning: {warning}" for warning in a.warnings]
        sizes = [f"{n:,}" for n in (a.layers, a.engine_bytes, a.weight_bytes, a.activation_bytes)]
        t.add_row(name, printable("\n".join(verdict)), ", ".join(a.sm), *sizes)
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


def _adds_mib(memory: EngineMemory | None) -> str:
    """What the engine adds to a process at its peak, or to the GPU."""
    if memory is None:
        return "-"
    peak = "-" if memory.peak_bytes is None else f"{memory.peak_bytes / MIB:.0f}"
    return peak if memory.device_bytes is None else f"{peak} + GPU {memory.device_bytes / MIB:.0f}"


def _layers(rows: Sequence[LayerReport]) -> Table:
    t = table("layer", "op", "precision", ">scale", ">SQNR dB", "reason")
    for row in rows:
        t.add_row(
            row.node,
            row.op,
            row.precision,
            "" if row.scale is None else f"{row.scale:.3g}",
            "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
            row.reason,
        )
    return t


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
    t.add_row("memory", "not known" if v.config.memory is None else v.config.memory.told())
    t.add_row("adds", _added(added, first=first))
    if r.plan != "none":
        t.add_row("plan", _PLANS[r.plan])
        verdict = read_acceptance(v)
        told = "not asked: edgectl bundle accept" if verdict is None else verdict.told()
        t.add_row("NVIDIA's compiler", printable(told))
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
                    "the others are compared with this"
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


def _why_float(report: SearchReport | None) -> list[RenderableType]:
    """Why no quantized engine ships first, what was left out, and what was decided later; empty if there
    is nothing to say."""
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
