"""What the gates of a rollout decided, as people read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.text import Text

from edgectl.cli._printer import table
from edgectl.fleet.rollouts.gates import GATES, GateDecision, GateVerdict

__all__ = ["decisions_view"]


def decisions_view(decisions: Sequence[GateDecision], again: Sequence[GateVerdict]) -> RenderableType:
    """``again``: the verdict of each, worked out from its numbers."""
    if not decisions:
        return "no gate has looked at anything yet: no device runs the release, or none ran another before"
    t = table("gate", "devices", "verdict", ">won", ">needed", "again", ">number", "what")
    for d, v in zip(decisions, again, strict=True):
        t.add_row(
            d.gate,
            d.stratum,
            d.verdict.value,
            "-" if d.bets == "once" else _times(d.log_wealth),
            "-" if d.bets == "once" else _times(-math.log(d.alpha)),
            "same" if v is d.verdict else v.value,
            str(len(d.devices) + d.rest.devices),
            d.reason,
        )
    lines: list[RenderableType] = [t, "", _devices(decisions)]
    lines += [Text(f"! {why}", "yellow") for why in sorted({why for d in decisions for why in d.lacking})]
    return Group(*lines)


def _devices(decisions: Sequence[GateDecision]) -> RenderableType:
    """Those that say most."""
    t = table(
        "gate", "device", ">blocks before", ">middle", ">blocks after", ">middle", "may be", "compared with"
    )
    for d in decisions:
        gate = GATES[d.kind]
        why = "a wider tolerance" if d.bets == "once" else "the scene"
        for b in d.devices:
            was, now = (median(x) if x else math.nan for x in (b.before, b.after))
            figure = gate.apart if b.controls else gate.shown
            allowed = gate.shown(d.allowed) if d.bets == "mean" else gate.apart(d.allowed)
            t.add_row(
                d.gate,
                b.device,
                str(len(b.before)),
                figure(was) if b.before else "-",
                str(len(b.after)),
                figure(now) if b.after else "-",
                allowed + (f"; for {why} {gate.apart(b.slack)} more" if b.slack else ""),
                ", ".join(c.device for c in b.controls)
                or ("the bound" if d.bets == "mean" else "itself, before"),
            )
    return t


def _times(log: float) -> str:
    """Of what was staked."""
    return f"{math.exp(log):.3g}" if log < 14 else f"10^{log / math.log(10):.0f}"
