"""The front door of each component: its public names, what importing it costs, and the example of its README."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.bundle import make_bundle

ROOT = Path(__file__).resolve().parents[1]
COMPONENTS = [
    "core",
    "link",
    "device_profiles",
    "models",
    "engines",
    "pipelines",
    "builder",
    "agent",
    "fleet",
]
WITH_EXAMPLE = [c for c in COMPONENTS if c not in ("pipelines", "builder")]  # docs/python.md has theirs
AGENT_TOML = """
name = "cam-1"
state_dir = "state"
[broker]
host = "localhost"
[pipelines.yard]
kind = "surveillance"
source = "synth://yard"
slots = { detector = "gate" }
"""


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_public_name_is_there_and_comes_from_the_module_that_readers_see(component: str) -> None:
    door = importlib.import_module(f"edgectl.{component}")
    tree = ast.parse((ROOT / component / "edgectl" / component / "__init__.py").read_text())
    (typed,) = (n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name: n.module for n in typed.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(seen) == set(door.__all__)
    for name, module in seen.items():
        assert getattr(door, name) is getattr(importlib.import_module(str(module)), name)
        assert name in dir(door)
        assert importlib.util.find_spec(f"edgectl.{component}.{name}") is None, (
            "a module of that name would hide it"
        )
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        door.nonsense  # noqa: B018


@pytest.mark.parametrize("component", COMPONENTS)
def test_importing_a_component_imports_nothing_else(component: str) -> None:
    code = f"import sys, edgectl.{component}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {m for m in loaded if m.startswith("edgectl.")}
    own = {"edgectl.core", "edgectl.core.lazy", "edgectl.core.privacy", f"edgectl.{component}"}
    assert ours == own
    assert not loaded & {
        "numpy",
        "pydantic",
        "paho",
        "psutil",
        "onnxruntime",
        "cryptography",
        "tuf",
        "sqlalchemy",
        "cv2",
        "onnx",
        "importlib.metadata",
    }


@pytest.mark.parametrize("component", WITH_EXAMPLE)
def test_example_in_the_readme_runs(component: str, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / component / "README.md").read_text(), re.S)
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph(nodes, "small", [x], [y])
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    make_bundle(tmp_path / "bundle", engine=model.SerializeToString())
    (tmp_path / "agent.toml").write_text(AGENT_TOML)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or component == "link", "an example shows something"
