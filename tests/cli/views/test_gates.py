from __future__ import annotations

import io
import random

from rich.console import Console
from support.gate_blocks import FakeBlocks, release, still

from edgectl.cli.views.gates import decisions_view
from edgectl.fleet.rollouts.gates import GateVerdict, recompute
from edgectl.fleet.rollouts.gates.errors import ErrorTerms
from edgectl.fleet.rollouts.gates.latency import LatencyTerms


def text(*args: object) -> str:
    console = Console(width=250, file=io.StringIO())
    console.print(decisions_view(*args))  # type: ignore[arg-type]
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_each_gate_is_shown_with_what_it_won_what_it_needed_and_whom_it_looked_at() -> None:
    blocks, chance = FakeBlocks(), random.Random(1)
    for name in ("d", "new"):
        blocks.before(name, lambda _: still(chance), 400 if name == "d" else 3)
        blocks.after(name, lambda _: still(chance, 30.0), 5)
    decisions = release(blocks, [LatencyTerms(), ErrorTerms()], ["d", "new"])
    shown = text(decisions, [recompute(d) for d in decisions])
    row = next(line for line in shown.splitlines() if "latency p99" in line)
    assert row.split()[:4] == ["latency", "p99", "orin", "worse"]
    assert "400" in row.split()
    assert "same" in row.split()
    assert "ms after" in row
    assert "! new: 3 of 30 blocks of the engine before" in shown
    device = [line for line in shown.splitlines() if line.split()[:3] == ["latency", "p99", "d"]][-1]
    assert device.split()[3] == "128"
    assert "itself, before" in device
    assert "the bound" in shown
    assert "1 times" in device, "that much may be"


def test_record_that_does_not_give_its_verdict_again_is_seen_at_once() -> None:
    blocks, chance = FakeBlocks(), random.Random(1)
    blocks.before("d", lambda _: still(chance))
    blocks.after("d", lambda _: still(chance), 5)
    (d,) = release(blocks, [LatencyTerms()])
    forged = d.model_copy(update={"verdict": GateVerdict.WORSE})
    row = next(line for line in text([forged], [recompute(forged)]).splitlines() if "orin" in line)
    assert "same" not in row
    assert "open" in row


def test_rollout_at_which_no_gate_has_looked_says_why() -> None:
    assert "no device runs the release" in text([], [])
