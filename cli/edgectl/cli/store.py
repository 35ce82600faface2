"""``edgectl store``: what lies on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, table
from edgectl.core.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["app"]

app = Noun("store")


@app.command("fsck")
def fsck(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="agent.toml; its state folder is checked.")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="The state folder itself.")] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Remove what is corrupt or unneeded, and give each slot a whole engine. Not beside a running agent.",
        ),
    ] = False,
    *,
    out: Printer,
) -> None:
    """Check every blob, slot and journal on a device. Exit 6 if something that a slot needs is damaged."""
    from edgectl.agent.config import load_agent_config
    from edgectl.agent.deploy.fsck import check
    from edgectl.agent.deploy.fsck import repair as mend

    if (config is None) == (state_dir is None):
        raise UsageError("say which device: --config agent.toml or --state-dir FOLDER")
    folder = state_dir if state_dir is not None else load_agent_config(config).state_dir  # type: ignore[arg-type]
    repaired = check(folder).problems if repair else ()
    if repair:
        mend(folder)
    report = check(folder)

    def shown() -> RenderableType:
        from rich.console import Group

        slots = table("slot", "active", "previous", "factory", title="slots")
        for name, s in sorted(report.slots.items()):
            slots.add_row(name, *(i.release if i else "-" for i in (s.active, s.previous, s.factory)))
        parts: list[RenderableType] = [slots, ""]
        for title, problems in (
            ("repaired", [p for p in repaired if p not in report.problems]),
            ("problems", report.problems),
        ):
            if problems:
                t = table("kind", "name", "what", title=title)
                for p in problems:
                    t.add_row(p.kind, p.name, p.detail)
                parts += [t, ""]
        said = "every engine is whole" if report.sound else "an engine or the journal is damaged"
        return Group(*parts, f"{report.blobs} blobs, {report.bytes:,} bytes: {said}")

    out.result(
        {
            "sound": report.sound,
            "blobs": report.blobs,
            "bytes": report.bytes,
            "slots": report.slots,
            "problems": report.problems,
            "repaired": repaired,
        },
        shown,
    )
    if not report.sound:
        raise IntegrityError(
            f"{folder} is damaged",
            hint="stop the agent and run it again with --repair"
            if not repair
            else "the fleet's desired state fills the slots again",
        )
