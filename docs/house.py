"""Draw the house: floors and wings, how many files and lines they have, and who imports whom.

The floors and wings are those of the import-linter contracts in ``pyproject.toml``; the imports are read from the
source files. ``python docs/house.py`` prints a table, ``--svg FILE`` writes the picture of ``docs/architecture.md``
as well, and ``--root DIR`` reads another checkout. The exit code is 1 if an import goes upward or in a circle.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMESPACE = "edgectl"
Layers = list[list[str]]


@dataclass
class Room:
    """A wing of a component, or a module that stands alone on a floor of it."""

    name: str
    files: int = 0
    lines: int = 0
    imports: Counter[str] = field(default_factory=Counter)
    """Other room of the house (``component`` or ``component.wing``) → import statements."""


def layers(contract: dict[str, object]) -> Layers:
    """Top first; names beside each other are one layer."""
    named = contract["layers"]
    assert isinstance(named, list)
    return [
        [name.strip().removeprefix(f"{NAMESPACE}.") for name in layer.replace(":", "|").split("|")]
        for layer in named
    ]


def contracts(root: Path) -> tuple[Layers, dict[str, Layers]]:
    """The floors, and the wings of each component that has some."""
    with (root / "pyproject.toml").open("rb") as f:
        found = tomllib.load(f)["tool"]["importlinter"]["contracts"]
    floors = next(layers(c) for c in found if c["type"] == "layers" and not c.get("containers"))
    wings = {
        container.removeprefix(f"{NAMESPACE}."): layers(c)
        for c in found
        if c["type"] == "layers"
        for container in c.get("containers", ())
    }
    return floors, wings


def imported(path: Path) -> Iterator[str]:
    """Dotted names below the namespace that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{NAMESPACE}."):
            module = node.module.removeprefix(f"{NAMESPACE}.")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix(f"{NAMESPACE}.") for a in node.names if a.name.startswith(f"{NAMESPACE}.")
            )


def room_of(dotted: str, wings: dict[str, Layers]) -> str:
    """``agent.deploy.boot.restore`` → ``agent.deploy``; a component without wings is one room."""
    component, *rest = dotted.split(".")
    known = {name for layer in wings.get(component, []) for name in layer}
    return f"{component}.{rest[0]}" if rest and rest[0] in known else component


def rooms(root: Path, components: list[str], wings: dict[str, Layers]) -> dict[str, Room]:
    found: dict[str, Room] = {}
    for component in components:
        base = root / component / NAMESPACE / component
        for path in sorted(base.rglob("*.py")):
            dotted = ".".join([component, *path.relative_to(base).with_suffix("").parts])
            name = room_of(dotted, wings)
            room = found.setdefault(name, Room(name))
            room.files += 1
            room.lines += len(path.read_text().splitlines())
            room.imports.update(r for r in (room_of(d, wings) for d in imported(path)) if r != name)
    return found


def rank(name: str, floors: Layers, wings: dict[str, Layers]) -> tuple[int, int]:
    """How high a room is: floor, then wing. Higher may import lower."""
    component, _, wing = name.partition(".")
    floor = next(i for i, layer in enumerate(reversed(floors)) if component in layer)
    inside = wings.get(component, [])
    # the package itself is the front door: it names what is behind it, and stands above every wing
    level = next((i for i, layer in enumerate(reversed(inside)) if wing in layer), len(inside))
    return floor, level


def upward(found: dict[str, Room], floors: Layers, wings: dict[str, Layers]) -> list[str]:
    """Imports that do not go down. An import between neighbours of one layer counts, too: that is how circles
    begin."""
    wrong = []
    for room in found.values():
        for other, n in room.imports.items():
            if other in found and rank(other, floors, wings) >= rank(room.name, floors, wings):
                wrong.append(f"{room.name} -> {other} ({n})")
    return sorted(wrong)


def table(found: dict[str, Room], floors: Layers, wings: dict[str, Layers]) -> str:
    rows = [f"{'room':<28}{'files':>6}{'lines':>8}  imports"]
    for layer in floors:
        for component in layer:
            own = [r for r in found.values() if r.name.split(".")[0] == component]
            rows.append(f"{component:<28}{sum(r.files for r in own):>6}{sum(r.lines for r in own):>8}")
            for room in sorted(own, key=lambda r: rank(r.name, floors, wings), reverse=True):
                inside = sorted(
                    o.partition(".")[2] for o in room.imports if o.startswith(f"{component}.") and o in found
                )
                if "." in room.name:
                    rows.append(
                        f"  {room.name.partition('.')[2]:<26}{room.files:>6}{room.lines:>8}  {' '.join(inside)}"
                    )
    rows.append(
        f"{'all':<28}{sum(r.files for r in found.values()):>6}{sum(r.lines for r in found.values()):>8}"
    )
    return "\n".join(rows)


_WIDTH, _ROW, _LEFT = 1180, 34, 150


def svg(found: dict[str, Room], floors: Layers, wings: dict[str, Layers]) -> str:
    """One strip per component, top floor first; inside it its wings, top first from left to right. Wings of one
    colour side by side stand on one level."""
    out: list[str] = []
    y = 10

    def box(x: float, w: float, text: str, fill: str) -> None:
        out.append(
            f'<rect x="{x:.0f}" y="{y}" width="{w:.0f}" height="{_ROW - 6}" rx="4" fill="{fill}" stroke="#667"/>'
        )
        out.append(f'<text x="{x + w / 2:.0f}" y="{y + 18}" class="n">{escape(text)}</text>')

    for i, layer in enumerate(floors):
        for component in layer:
            own = {r.name: r for r in found.values() if r.name.split(".")[0] == component}
            out.append(f'<text x="10" y="{y + 18}" class="c">{component}</text>')
            names = [[n for n in inner if f"{component}.{n}" in own] for inner in wings.get(component, [])]
            names = [n for n in names if n] or [[""]]
            w = (_WIDTH - _LEFT - 10) / sum(map(len, names))
            x = float(_LEFT)
            for k, inner in enumerate(names):
                for n in inner:
                    box(x, w - 6, n, "#eef" if k % 2 else "#fff")
                    x += w
            y += _ROW
        if i < len(floors) - 1:
            out.append(f'<line x1="10" x2="{_WIDTH - 10}" y1="{y}" y2="{y}" stroke="#bbc"/>')
            y += 8
    style = (
        "text{font-family:sans-serif;fill:#223}.c{font-size:14px;font-weight:bold}"
        ".n{font-size:12px;text-anchor:middle}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 6}" width="{_WIDTH}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(out)}</svg>\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--svg", type=Path)
    a = parser.parse_args()
    floors, wings = contracts(a.root)
    found = rooms(a.root, [c for layer in floors for c in layer], wings)
    print(table(found, floors, wings))
    wrong = upward(found, floors, wings)
    print("\n".join([f"{len(wrong)} imports go upward or between neighbours", *wrong]))
    if a.svg is not None:
        a.svg.write_text(svg(found, floors, wings))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
