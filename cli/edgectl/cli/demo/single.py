"""One pipeline of the demo alone: build its engine, run it on its scene, compare with the ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgectl.builder.build import BuildProgress
from edgectl.cli._printer import Printer, plain
from edgectl.cli.demo.builds import MODELS, build_reference
from edgectl.cli.demo.devices import DEVICES
from edgectl.cli.demo.whole import prepare
from edgectl.cli.views.run import describe, summary_view
from edgectl.core.bundle import Bundle
from edgectl.device_profiles.machine import probe
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.run import run_stream

__all__ = ["run_single"]


def run_single(kind: str, folder: Path, seconds: float, out: Printer) -> None:
    """Build, run for ``seconds`` of the scene as fast as it goes, print events and the summary."""
    prepare(folder)
    device = next(d for d in DEVICES if d.kind == kind)
    model = next(m for m in MODELS if m.slot == device.slot)
    with out.progress() as bar:

        def show(p: BuildProgress) -> None:
            bar(p.message, p.share)

        report = build_reference(
            model.name, model.release, "1.0.0", folder / "bundle", minutes=0.4, progress=show
        )
    events: list[dict[str, Any]] = []

    def heard(event: dict[str, Any]) -> None:
        events.append(event)
        if not out.as_json and not (event["type"] == "tracked_object" and event.get("phase") == "update"):
            out.stdout.print(describe(event))

    machine = probe()
    machine.require_runtime()
    stream, camera = next(iter(device.cameras.items()))
    source = camera + ("&" if "?" in camera else "?") + f"paced=0&seconds={seconds:g}"
    result = run_stream(
        kind,
        [Bundle(report.out)],
        source,
        parse_config(kind, device.config),
        out=folder / "run",
        on_event=heard,
        facts=machine.facts,
        runtimes=tuple(machine.runtimes),
        stream=stream,
    )
    out.result(plain(result) | {"bundle": report.digest, "records": events}, lambda: summary_view(result))
