"""``edgectl profiles``: device profiles and the probe of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, plain, table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["app"]

app = Noun("profiles")


@app.command("list")
def list_profiles(out: Printer) -> None:
    """List the profiles that `edgectl build --profile` takes."""
    from edgectl.device_profiles.catalogue import load_profile, profile_names

    loaded = [load_profile(name) for name in profile_names()]

    def shown() -> Table:
        t = table("profile", "arch", "runtimes", "about")
        for p in loaded:
            row = plain(p)
            t.add_row(p.name, row["cpu"]["arch"], ", ".join(row["runtimes"]), row.get("description") or "")
        return t

    out.result(loaded, shown)


@app.command("show")
def show_profile(
    name: Annotated[str, typer.Argument(help="A profile name or the path of a TOML file.")],
    *,
    out: Printer,
) -> None:
    """Print one profile with everything it inherits."""
    from edgectl.device_profiles.catalogue import load_profile

    profile = load_profile(name)
    out.result(profile, lambda: _tree(plain(profile)))


@app.command("probe")
def probe(out: Printer) -> None:
    """Print the hardware and runtimes of this machine, and the profile that fits."""
    from edgectl.device_profiles.machine import best_profile
    from edgectl.device_profiles.machine import probe as probe_machine

    machine = probe_machine()
    value = plain(machine) | {"facts": plain(machine.facts), "profile": best_profile(machine).name}
    out.result(value, lambda: _tree(value))


def _tree(value: dict[str, object]) -> Table:
    t = table("field", "value")

    def add(prefix: str, v: object) -> None:
        if isinstance(v, dict):
            for key, inner in v.items():
                add(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(v, list):
            t.add_row(prefix, ", ".join(str(i) for i in v) or "-")
        else:
            t.add_row(prefix, "-" if v is None else str(v))

    add("", value)
    return t
