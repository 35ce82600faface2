"""The front door: every name is there, and the door itself is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgectl.pipelines as door


@pytest.mark.parametrize("name", door.__all__)
def test_every_name_of_the_door_is_there(name: str) -> None:
    assert getattr(door, name) is not None
    assert name in dir(door)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = door.nothing


@pytest.mark.parametrize("module", ["edgectl.pipelines", "edgectl.pipelines.kinds", "edgectl.agent.config"])
def test_the_door_and_the_table_of_kinds_are_light(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'numpy', 'cv2', 'av', 'importlib.metadata'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = ("[]\n", "['importlib.metadata']\n") if module == "edgectl.agent.config" else ("[]\n",)
    assert found.stdout in allowed
