"""The section of the report that says what labels that people made said."""

from __future__ import annotations

from collections.abc import Sequence

from edgectl.builder.pack.html_parts import section, table
from edgectl.builder.pack.inspect import VariantInfo
from edgectl.builder.pack.report import SearchReport
from edgectl.builder.pack.svg import Interval, ranges

__all__ = ["by_labels"]

_JUDGED = {"drop", "drop_low", "drop_high", "samples", "objects"}


def by_labels(variants: Sequence[VariantInfo], report: SearchReport | None) -> str:
    """The task's own metric by labels that people made, float's beside each variant's; empty where there were none."""
    rows, plotted = [], []
    for v in variants:
        a = v.accuracy
        names = [n for n in a if f"float_{n}" in a]
        if not names or not a.keys() >= _JUDGED:
            continue
        name = f"{v.profile}/{v.variant}"
        figures = [f"{n} {a[n]:.4f} (float {a[f'float_{n}']:.4f})" for n in names]
        interval = f"{a['drop']:.4f} [{a['drop_low']:.4f}, {a['drop_high']:.4f}]"
        counts = [f"{a['samples']:,.0f}", f"{a['objects']:,.0f}"]
        rows.append([name, str(v.recipe.get("precision", "")), "; ".join(figures), interval, *counts])
        kind = "b" if v.recipe.get("precision") == "float32" else "a"
        if a["drop_high"] > a["drop_low"]:
            plotted.append(
                Interval(
                    name, a["drop"], a["drop_low"], a["drop_high"], kind, interval, f"{name}: {interval}"
                )
            )
    told = set()
    for c in (c for group in (report.groups.values() if report else ()) for c in group if not c.preferences):
        names = [n for n in c.accuracy if f"float_{n}" in c.accuracy]
        if not names or c.drop is None or c.drop_interval is None or (c.recipe, c.runtime) in told:
            continue
        told.add((c.recipe, c.runtime))  # settings change the time, not the answer
        figures = [f"{n} {c.accuracy[n]:.4f} (float {c.accuracy[f'float_{n}']:.4f})" for n in names]
        low, high = c.drop_interval
        interval = f"{c.drop:.4f} [{low:.4f}, {high:.4f}]"
        rows.append(
            [f"{c.recipe}/{c.runtime}, does not ship", c.precision, "; ".join(figures), interval, "", ""]
        )
        plotted.append(
            Interval(f"{c.recipe}/{c.runtime}", c.drop, low, high, "c", interval, f"{c.recipe}: {interval}")
        )
    if not rows:
        return ""
    about = "Float's figure minus the variant's on the same pictures, with the 95 % interval of a paired bootstrap over them. Of several figures the larger loss counts."
    if report is not None and (said := report.labels) is not None:
        of = f" of {said.given:,}" if said.given != said.pictures else ""
        about = f"{said.layout}: {said.pictures:,}{of} labelled, {said.objects:,} to find. {about}"
    headers = ["variant", "precision", "by the labels", "drop", "#pictures", "#objects"]
    body = table(headers, rows)
    if plotted:
        body += ranges(plotted, axis="drop by the labels (95 % interval)", reference=0.0, linear=True)
    return section("By labels", about, body)
