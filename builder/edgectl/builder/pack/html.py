"""A bundle as one HTML page: what competed, what each layer lost, accuracy against latency, recipe and
origin.

The page fetches nothing and runs no script; plots are SVG drawn by :mod:`edgectl.builder.pack.svg`. Whatever comes
from the bundle is escaped. It follows the reader's dark or light setting and prints on white.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from edgectl.builder.pack.html_labels import by_labels
from edgectl.builder.pack.html_parts import number, section, table
from edgectl.builder.pack.inspect import BundleInfo, VariantInfo
from edgectl.builder.pack.origin import conversion_rows
from edgectl.builder.pack.report import CandidateReport, SearchReport
from edgectl.builder.pack.svg import Bar, Dot, Interval, bars, ranges, scatter
from edgectl.core.memory import MIB, EngineMemory

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; --ink:#1b1f24; --dim:#656d76; --line:#d5dae0; --page:#fff; --soft:#f4f6f8;
  --a:#0b63b5; --b:#b35900; --c:#8a929b; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ed; --dim:#98a1ab; --line:#353c45; --page:#14181d; --soft:#1c2229;
  --a:#69b1ff; --b:#ffa657; --c:#7a838d; } }
@media print { :root { --ink:#000; --dim:#444; --line:#bbb; --page:#fff; --soft:#fff; --a:#0b63b5; --b:#b35900; --c:#777; }
  section { break-inside: avoid-page; } details > * { display: block; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .4rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); } .num { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .8rem; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 600; } th.num { text-align: right; }
svg { width: 100%; height: auto; display: block; font: 12px system-ui, "Liberation Sans", sans-serif; }
svg text { fill: var(--ink); } svg .dim { fill: var(--dim); } svg .grid { stroke: var(--line); } svg .axis { stroke: var(--dim); }
svg .a { fill: var(--a); stroke: var(--a); } svg .b { fill: var(--b); stroke: var(--b); } svg .c { fill: var(--c); stroke: var(--c); }
.key::before { content: "●"; margin-right: .3em; } .key { margin-right: 1.2em; white-space: nowrap; }
.key.a { color: var(--a); } .key.b { color: var(--b); } .key.c { color: var(--c); }
"""
_KEY = '<p><span class="key a">int8</span><span class="key b">float32</span><span class="key c">rejected, with the reason</span></p>'


def render(info: BundleInfo) -> str:
    """The whole page. Pure: what it shows is what ``info`` holds."""
    parts = [
        f"<header><h1>{escape(info.name)} {escape(info.version)}</h1>",
        f'<p class="dim">task {escape(info.task)} · {len(info.variants)} variants · {info.total_bytes:,} bytes'
        f" · licence of the weights: {escape(info.licence or 'not known')}</p>",
        f"<p><code>{escape(info.digest)}</code></p></header>",
        section(
            "Variants",
            "In the order in which a device tries them. Adds: bytes that no variant above has; equal files are stored once. "
            "MiB: what the engine adds to the memory of a process that opens it, at most.",
            _variants(info.variants),
        ),
        by_labels(info.variants, info.report),
        _causes(info.report),
        _acceptance(info.variants),
        _fresh(info.variants),
    ]
    for name, candidates in (info.report.groups if info.report else {}).items():
        parts.append(_latency(name, candidates))
        parts.append(_trade(name, candidates))
        parts.append(_rounds(candidates))
    if info.report is None:
        parts.append(section("Latency", "", "<p>Nothing in this bundle was measured where it was built.</p>"))
    elif info.report.compression:
        parts.append(_compression(info.report.compression))
    parts += [_errors(v) for v in _distinct(info.variants) if v.layers]
    parts += [_recipe(v) for v in info.variants]
    parts.append(_origin(info))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(info.name)} {escape(info.version)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _variants(variants: Sequence[VariantInfo]) -> str:
    rows = []
    for v in variants:
        m = v.measured or {}
        flags = [w for w, on in (("fallback", v.fallback), ("SPEED ONLY", v.speed_only)) if on]
        rows.append(
            [
                v.profile,
                v.variant + (f" ({', '.join(flags)})" if flags else ""),
                v.runtime,
                v.recipe.get("precision", ""),
                ", ".join(v.preferences),
                f"{v.engine_bytes:,}",
                f"{v.added_bytes:,}",
                number(m.get("p50_ms", "")),
                number(m.get("ratio_to_float", "")),
                number(v.accuracy.get("drop", "")),
                _adds_mib(v.memory),
                ", ".join(map(_either, v.requires)) or "nothing",
            ]
        )
    return table(
        [
            "profile",
            "variant",
            "runtime",
            "precision",
            "best at",
            "#engine bytes",
            "#adds",
            "#p50 ms",
            "#× float",
            "#drop",
            "#MiB",
            "needs",
        ],
        rows,
    )


def _adds_mib(memory: EngineMemory | None) -> str:
    """Of the process at its peak, or of the GPU."""
    if memory is None or (memory.peak_bytes is None and memory.device_bytes is None):
        return "-"
    if memory.peak_bytes is None:
        return f"GPU {(memory.device_bytes or 0) / MIB:.1f}"
    return f"{memory.peak_bytes / MIB:.1f}"


def _acceptance(variants: Sequence[VariantInfo]) -> str:
    """What NVIDIA's compiler said; empty if it was not asked."""
    rows, sentences = [], []
    for v in variants:
        if (a := v.acceptance) is None:
            continue
        name = f"{v.profile}/{v.variant}"
        sizes = [f"{n:,}" for n in (a.layers, a.engine_bytes, a.weight_bytes, a.activation_bytes)]
        rows.append([name, "accepted" if a.accepted else f"refused: {a.sentence}", ", ".join(a.sm), *sizes])
        sentences += [[name, warning] for warning in a.warnings]
    if not rows:
        return ""
    asked = {v.acceptance.compiler for v in variants if v.acceptance is not None}
    about = (
        "Its parser and builder take these graphs, types and Q/DQ placement included, and make an engine of this size. "
        "That says nothing of how fast it runs, nor how another TensorRT fuses it."
    )
    headers = ["variant", "verdict", "SM", "#layers", "#engine bytes", "#weight bytes", "#activation bytes"]
    body = table(headers, rows) + (table(["variant", "warning"], sentences) if sentences else "")
    return section(f"NVIDIA's compiler: {', '.join(sorted(asked))}", about, body)


def _fresh(variants: Sequence[VariantInfo]) -> str:
    """What the variants did in new processes, in turn; empty if none was measured so."""
    rows, contexts = [], []
    for v in variants:
        f = (v.measured or {}).get("fresh")
        if f is None:
            continue
        name = f"{v.profile}/{v.variant}"
        rows.append(
            [
                name,
                f"{f['cold_start_s']:.3f}",
                f"{f['rss_mb']:.0f}",
                f"{f['cpu_ms']:.3f}",
                number(f["p50_ms"]),
                number(f.get("p95_ms", "-")),
                number(f.get("p95_loaded_ms", "-")),
                str(f["n"]),
            ]
        )
        for c in f.get("contexts", ()):
            ratio = (
                f"{c['ratio']:.3f} [{c['low']:.3f}, {c['high']:.3f}]"
                if "ratio" in c
                else "is the float fallback"
            )
            contexts.append(
                [name, str(c["context"]), number(c["p50_ms"]), ratio, str(c.get("standing", "-"))]
            )
    if not rows:
        return ""
    first = next(v.measured["fresh"] for v in variants if v.measured and "fresh" in v.measured)
    busy = "; ".join(first.get("busy_because", ()))
    about = (
        f"{first['runs']} new processes, in turn. Cold start: open and first inference. CPU: processor "
        f"time of all threads an inference, with one every {first['gap_ms']:g} ms. Loaded: beside {first['busy']} process(es) "
        "that only compute. Alone: back to back; paced: one inference a frame of a camera; medians of blocks, × the float fallback. Within 5 % or "
        "within their spread two engines are equal." + (f" The machine was busy: {busy}." if busy else "")
    )
    headers = [
        "variant",
        "#cold start s",
        "#memory MiB",
        "#CPU ms",
        "#p50 ms",
        "#p95 ms",
        "#p95 ms loaded",
        "#n",
    ]
    body = table(["variant", "context", "#p50 ms", "× float", ""], contexts) if contexts else ""
    return section("In processes of their own", about, table(headers, rows) + body)


def _either(requirement: str) -> str:
    """``sm:8.6|sm:8.9`` as people read it: ``sm:8.6 or 8.9``."""
    first, *others = requirement.split("|")
    kind = first.partition(":")[0]
    return " or ".join([first, *(o.removeprefix(f"{kind}:") for o in others)])


def _causes(report: SearchReport | None) -> str:
    """Why no quantized engine ships first, what was left out, and what was decided later; empty if there
    is nothing to say."""
    if report is None or not (report.causes or report.left_out or report.decided):
        return ""
    rows = [
        ["" if i else group, c.cause, c.sentence, c.figure, c.next]
        for group, why in report.causes.items()
        for i, c in enumerate(why)
    ]
    if report.left_out and not any(c.cause == "out-of-time" for why in report.causes.values() for c in why):
        left_out = f"left out: {', '.join(report.left_out)}"
        rows.append(["", "out-of-time", left_out, "", "more --minutes"])
    rows += [["", "decided later", d, "", ""] for d in report.decided]
    return section(
        "Why this one",
        "Why float comes first, and what was left out.",
        table(["group", "cause", "", "figure", "next step"], rows),
    )


def _latency(group: str, candidates: Sequence[CandidateReport]) -> str:
    """Each candidate's latency ratio to float with its interval, best first; those that never ran follow
    as a list."""
    measured = sorted(
        (c for c in candidates if c.ratio and c.measured), key=lambda c: c.ratio[0] if c.ratio else 0.0
    )
    rows = [
        Interval(
            c.name,
            c.ratio[0],
            c.ratio[1],
            c.ratio[2],
            _kind(c),
            f"{c.measured.p50_ms:.3f} ms"
            + (
                f" · {', '.join(c.preferences)}"
                if c.preferences
                else f" · {c.rejected}"
                if c.rejected
                else ""
            ),
            f"{c.name}: p50 {c.measured.p50_ms:.3f} ms, ratio {c.ratio[0]:.3f} [{c.ratio[1]:.3f}, {c.ratio[2]:.3f}], "
            f"n = {c.measured.n}{', ' + c.rejected if c.rejected else ''}",
        )
        for c in measured
        if c.ratio and c.measured
    ]
    if not rows:
        return ""
    machine = measured[0].measured.machine if measured[0].measured else ""
    never = [c for c in candidates if c.measured is None]
    body = _KEY + ranges(
        rows,
        axis="latency, × the fastest float candidate (median of paired ratios, 95 % interval)",
        reference=1.0,
    )
    if never:
        body += table(["not measured", "reason"], [[c.name, c.rejected or ""] for c in never])
    return section(
        f"Latency per candidate: {group}",
        f"Measured on {machine}, in turn, among all candidates. Left is faster; who is faster than float is decided in processes of their own.",
        body,
    )


def _trade(group: str, candidates: Sequence[CandidateReport]) -> str:
    dots = [
        Dot(
            c.measured.p50_ms,
            c.drop,
            _kind(c),
            f"{c.name} ({', '.join(c.preferences)})" if c.preferences else "",
            f"{c.name}: {c.measured.p50_ms:.3f} ms, drop {c.drop:.4f}",
        )
        for c in candidates
        if c.measured and c.drop is not None
    ]
    if len(dots) < 2:
        return ""
    plot = scatter(dots, x="p50 latency, ms (logarithmic)", y="accuracy drop against float")
    return section(
        f"Accuracy against latency: {group}",
        "Lower left is better. What ships is named, with what it is best at.",
        _KEY + plot,
    )


def _rounds(candidates: Sequence[CandidateReport]) -> str:
    """Every round of every candidate, with the state of the machine, folded away."""
    rows = [
        [
            c.name,
            str(r.round + 1),
            str(r.n),
            number(r.p50_ms),
            f"{r.conditions.load:.2f}",
            "-" if r.conditions.temperature_c is None else f"{r.conditions.temperature_c:.0f}",
            r.conditions.governor or r.conditions.power_mode or "-",
        ]
        for c in candidates
        for r in c.rounds
    ]
    if not rows:
        return ""
    shown = table(["candidate", "#round", "#calls", "#p50 ms", "#load", "#°C", "governor"], rows)
    return f"<details><summary>{len(rows)} measurements and the state of the machine at each</summary>{shown}</details>"


def _compression(steps: Sequence[Mapping[str, str | float]]) -> str:
    """What each step did, cost and gained: the rows of
    :class:`edgectl.builder.compress.run.CompressionStep`."""

    def figure(step: Mapping[str, str | float], key: str, form: str) -> str:
        value = step.get(key)
        return "-" if not isinstance(value, int | float) else format(value, form)

    rows = [
        [
            str(s.get("step", "")),
            figure(s, "drop", ".4f"),
            figure(s, "macs_ratio", ".3f"),
            f"{figure(s, 'latency_ratio', '.3f')} [{figure(s, 'latency_low', '.3f')}, {figure(s, 'latency_high', '.3f')}]",
            figure(s, "bytes", ",.0f"),
            figure(s, "packed_bytes", ",.0f"),
            figure(s, "seconds", ".1f"),
            str(s.get("note", "")),
        ]
        for s in steps
    ]
    headers = ["step", "#drop", "#× MACs", "× latency", "#bytes", "#packed", "#s", ""]
    return section(
        "Compression",
        "What each step did, cost and gained, against the model as it came.",
        table(headers, rows),
    )


def _kind(c: CandidateReport) -> str:
    return "c" if c.rejected else "b" if c.precision == "float32" else "a"


def _errors(v: VariantInfo) -> str:
    """SQNR of each layer in graph order: what quantizing this layer alone leaves of the signal in the
    worst output. Where that was not measured (float, a graph that held the budget at once) only why layers
    are not int8."""
    rows = [
        Bar(
            r.node,
            r.sqnr_db,
            "a" if r.precision == "int8" else "b",
            f"{r.op} {r.precision}" + (f": {r.reason}" if r.reason else ""),
        )
        for r in v.layers
        if r.sqnr_db is not None or (r.reason and r.precision != "int8")
    ]
    if all(r.sqnr_db is None for r in v.layers):
        reasons = Counter(r.reason for r in v.layers if r.reason and r.precision != "int8")
        shown = table(
            ["#layers", "not int8 because"], [[str(n), reason] for reason, n in reasons.most_common()]
        )
        about = "What each layer alone would cost was not measured."
        return section(f"Layers kept in float: {v.profile}/{v.variant}", about, shown) if reasons else ""
    counts = ", ".join(
        f"{n} × {what}" for what, n in sorted(Counter(f"{r.op} {r.precision}" for r in v.layers).items())
    )
    body = '<p><span class="key a">runs in int8</span><span class="key b">kept in float, with the reason</span></p>'
    return section(
        f"Error per layer: {v.profile}/{v.variant}",
        f"SQNR in dB when this layer alone is quantized; short bars hurt. {counts}.",
        body + bars(rows, axis="SQNR, dB"),
    )


def _distinct(variants: Iterable[VariantInfo]) -> list[VariantInfo]:
    """Variants with the same layers are drawn once."""
    return list({v.layers: v for v in reversed(list(variants))}.values())[::-1]


def _recipe(v: VariantInfo) -> str:
    r, s = v.recipe, v.session
    rows = [
        ["family", r.get("family", "")],
        ["passes", ", ".join(r.get("passes", ())) or "none"],
        ["quantization", _quantization(r)],
        ["kept in float", ", ".join(r.get("excluded", ())) or "nothing"],
        ["session", ", ".join(f"{k} {value}" for k, value in s.items())],
        [
            "golden",
            f"{v.golden['samples']} samples; "
            + "; ".join(
                f"{n}: cosine ≥ {t['cosine']:.5f}, |error| ≤ {t['max_abs']:.3g}"
                for n, t in v.golden["tolerances"].items()
            ),
        ],
        ["accuracy", ", ".join(f"{k} {value:.4f}" for k, value in v.accuracy.items()) or "not judged"],
        ["measured", _measurement(v.measured) if v.measured else "not where it was built"],
        ["memory", "not known" if v.memory is None else v.memory.told()],
        ["engine", f"{v.engine_bytes:,} bytes of {v.total_bytes:,}"],
        ["manifest", v.digest],
    ]
    return section(f"Recipe: {v.profile}/{v.variant}", "", table(["", ""], rows))


def _quantization(r: Mapping[str, Any]) -> str:
    if not r.get("activations"):
        return "none"
    scales = f"{r['method']}, {r['samples']} samples" if r.get("method") else "no calibrated scales"
    return f"activations {r['activations']}, weights {r['weights']}, {scales}"


def _measurement(m: dict[str, Any]) -> str:
    conditions = ", ".join(f"{k} {x}" for k, x in m["conditions"].items())
    return ", ".join(f"{k} {x}" for k, x in m.items() if not isinstance(x, dict)) + f"; {conditions}"


def _origin(info: BundleInfo) -> str:
    first = info.variants[0]
    rows = conversion_rows(first.provenance)
    converted = table(["", ""], rows) if rows else ""
    libraries = table(["library", "version"], [list(pair) for pair in first.libraries])
    statements = "".join(
        f"<details><summary>{escape(v.profile)}/{escape(v.variant)}: in-toto statement</summary>"
        f"<pre>{escape(json.dumps(v.provenance, indent=1, ensure_ascii=False))}</pre></details>"
        for v in info.variants
        if v.provenance
    )
    return section("Provenance", "What it was made of and by what.", converted + libraries + statements)
