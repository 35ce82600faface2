"""What a build tried, and what ships."""

from __future__ import annotations

from rich.console import Group, RenderableType

from edgectl.builder.build import BuildReport
from edgectl.cli._printer import table
from edgectl.cli.views.bundle import labels_line, labels_table, variants_table
from edgectl.core.bundle import Bundle

__all__ = ["build_view"]


def build_view(report: BuildReport) -> Group:
    """Candidates as they were measured, and the variants that ship."""
    parts: list[RenderableType] = []
    if report.compression.steps:
        shrunk = table(
            "step",
            ">drop",
            ">× MACs",
            ">× latency",
            "95 % interval",
            ">bytes",
            ">packed",
            ">s",
            "",
            title="compression",
        )
        for c in report.compression.steps:
            shrunk.add_row(
                c.step,
                f"{c.drop:.4f}",
                f"{c.macs_ratio:.3f}",
                f"{c.latency_ratio:.3f}",
                f"{c.latency_low:.3f} … {c.latency_high:.3f}",
                f"{c.bytes:,}",
                f"{c.packed_bytes:,}",
                f"{c.seconds:.1f}",
                c.note,
            )
        parts += [shrunk, ""]
    for family, outcomes in report.candidates.items():
        measured = table(
            "candidate",
            ">rounds",
            ">calls",
            ">p50 ms",
            ">× float",
            "95 % interval",
            ">drop",
            "",
            title=f"candidates for {family}, measured on this machine; × float: of the fastest float candidate in the last round that both were in",
        )
        for o in outcomes:
            measured.add_row(
                o.candidate.name,
                str(len(o.rounds)),
                "-" if o.measured is None else str(o.measured.n),
                "-" if o.measured is None else f"{o.measured.p50_ms:.3f}",
                "-" if o.ratio is None else f"{o.ratio.median:.3f}",
                "-" if o.ratio is None else f"{o.ratio.low:.3f} … {o.ratio.high:.3f}",
                "-" if o.accuracy is None else f"{o.accuracy.drop:.4f}",
                o.rejected or "",
            )
        parts += [measured, ""]
    bundle = Bundle(report.out)
    parts += [variants_table(bundle), ""]
    if (said := report.labels) is not None:
        parts += [labels_line(said.layout, said.pictures, said.given, said.objects, said.values), ""]
    if (by_labels := labels_table(bundle)) is not None:
        parts += [by_labels, ""]
    parts += [f"note: {n}" for n in report.notes]
    return Group(
        *parts,
        f"{report.name}@{report.version}  {report.digest}\nin {report.out}, {report.seconds:.0f} s; licence of the weights: {report.licence or 'not known, --licence tells it'}",
    )
