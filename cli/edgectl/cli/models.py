"""``edgectl models``: models by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["app"]

app = Noun("models")


@app.command("list")
def list_models(out: Printer) -> None:
    """List the reference models that come with edgectl and the public ones of the catalogue."""
    from edgectl.models import entries, references

    own = references()
    public = [e.model_dump() for e in entries()]

    def shown() -> Table:
        t = table("model", "task", ">bytes", "licence", "about")
        for r in own:
            accuracy = ", ".join(_measured(k, v) for k, v in r.card.items() if k in ("ap50", "top1"))
            t.add_row(
                r.name,
                "its own TOML",
                f"{r.model.stat().st_size:,}",
                "Apache-2.0",
                f"comes with edgectl; on synthetic data: {accuracy}",
            )
        for e in public:
            t.add_row(e["name"], e["task"], f"{e['size']:,}", e["licence"], e["about"])
        return t

    out.result({"reference": own, "public": public}, shown)


@app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="A name of `edgectl models list`.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to put the file in.")] = Path(),
    local: Annotated[
        Path | None, typer.Option("--from", help="Take it from this local folder instead of the network.")
    ] = None,
    *,
    out: Printer,
) -> None:
    """Fetch a model, checked against the digest of the catalogue."""
    from edgectl.models import pull

    with out.progress() as update:
        path = pull(
            name, to, local=local, progress=lambda done, total: update(f"downloading {name}", done / total)
        )
    out.result({"name": name, "path": path}, str(path))


def _measured(metric: str, value: Any) -> str:
    """``top1 0.95``, or ``ap50 person 0.97, vehicle 0.99`` where the card has it for each label."""
    values = value.items() if isinstance(value, dict) else [("", value)]
    return f"{metric} " + ", ".join(f"{label} {v}".strip() for label, v in values)
