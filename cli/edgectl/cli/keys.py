"""``edgectl keys``: the keys that sign releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._output import Json, Output

app = typer.Typer(name="keys", help="The keys that sign releases.", no_args_is_help=True)


@app.command("init")
def init(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the keys; kept on the host, readable by you alone.")
    ] = Path("keys"),
    json: Json = False,
) -> None:
    """Make the root, targets and online keys and the first root metadata."""
    output = Output(json)
    from edgectl.fleet.trust import init_keys

    root = init_keys(out)
    output.result(
        {"keys": out, "root": root},
        f"{out}: root.pem and targets.pem stay with you (keep a copy offline);\n"
        f"online.pem, {root.name} and targets.json go to the controller if it is another machine",
    )
