"""The picture of the house is that of the contracts, and the house has no import that goes up."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ROOT / "docs/house.py"

PYPROJECT = """
[[tool.importlinter.contracts]]
type = "layers"
layers = ["edgectl.high", "edgectl.low"]

[[tool.importlinter.contracts]]
type = "layers"
containers = ["edgectl.high"]
layers = ["roof", "left | right"]
"""


def draw(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HOUSE), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def house(root: Path, files: dict[str, str]) -> Path:
    (root / "pyproject.toml").write_text(PYPROJECT)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_nothing_goes_up_and_the_picture_is_current(tmp_path: Path) -> None:
    drawn = draw("--svg", tmp_path / "house.svg")
    assert drawn.returncode == 0, drawn.stdout
    assert (tmp_path / "house.svg").read_text() == (ROOT / "docs/pictures/house.svg").read_text()


@pytest.mark.parametrize(
    ("imports", "told"),
    [
        ({"low/edgectl/low/a.py": "from edgectl.high.roof import b"}, "low -> high.roof (1)"),
        ({"high/edgectl/high/left/a.py": "import edgectl.high.roof.b"}, "high.left -> high.roof (1)"),
        (
            {"high/edgectl/high/left/a.py": "def late():\n    from edgectl.high.right import b"},
            "high.left -> high.right (1)",
        ),
    ],
    ids=["a floor", "a wing", "neighbours, late"],
)
def test_an_import_that_goes_up_is_told(imports: dict[str, str], told: str, tmp_path: Path) -> None:
    sound = {
        "high/edgectl/high/roof/b.py": "from edgectl.low import a\nfrom edgectl.high.left import a as c",
        "high/edgectl/high/left/a.py": "",
        "high/edgectl/high/right/b.py": "",
        "low/edgectl/low/a.py": "",
    }
    assert draw("--root", house(tmp_path, sound)).returncode == 0
    wrong = draw("--root", house(tmp_path, {**sound, **imports}))
    assert wrong.returncode == 1
    assert told in wrong.stdout


def test_the_door_of_a_component_stands_above_its_wings() -> None:
    room_of = runpy.run_path(str(HOUSE))["room_of"]
    wings = {"high": [["roof"], ["left", "right"]]}
    assert [room_of(d, wings) for d in ("high", "high.left.a", "low.a")] == ["high", "high.left", "low"]
