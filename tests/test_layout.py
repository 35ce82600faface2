"""The house: one namespace, no stray package, every component typed, nothing in the tree that names a
machine or a package host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = [
    "core",
    "link",
    "device_profiles",
    "engines",
    "builder",
    "pipelines",
    "agent",
    "fleet",
    "cli",
    "models",
]


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_is_a_typed_part_of_the_namespace(component: str) -> None:
    package = ROOT / component / "edgectl" / component
    assert (package / "__init__.py").is_file()
    assert (package / "py.typed").is_file()
    assert not (ROOT / component / "edgectl" / "__init__.py").exists(), (
        "this file would hide every other component"
    )


def test_every_component_is_built_checked_and_importable() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for component in COMPONENTS:
        assert f'"{component}/edgectl"' in text.split("[tool.pytest")[0], f"{component} is not in the wheel"


def test_no_tracked_file_names_a_machine_or_a_package_host() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"index-url|(?<![\w.$}])/(?:work|root|farm)/")
    found = []
    for name in listing.stdout.decode().split("\0"):
        path = ROOT / name
        if (
            name
            and path != Path(__file__).resolve()
            and path.suffix in {".py", ".md", ".toml", ".yaml", ".service", ".sh", ""}
            and path.is_file()
        ):
            found += [
                f"{name}: {m.group()}" for m in pattern.finditer(path.read_text("utf-8", errors="replace"))
            ]
    assert found == []
