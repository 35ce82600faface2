"""The TensorRT-RTX modules against the signatures of the vendor's installed binding."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from engines.runtimes.test_tensorrt_types import check

from edgectl.engines.finalise.rtx import has_compiler

MODULES = [
    "engines/edgectl/engines/runtimes/tensorrt_rtx.py",
    "engines/edgectl/engines/finalise/rtx_compile.py",
    "engines/edgectl/engines/finalise/rtx_check.py",
]

UNTOLD = re.compile(r"\[(no-untyped-call|unused-ignore)\]$")
"""Some methods have no types in the binding; and what the module is without it is Any."""


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Written by mypy's stubgen, which looks at the binding itself."""
    program = "import sys; from mypy.stubgen import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "--inspect-mode", "-m", "tensorrt_rtx_bindings.tensorrt_rtx"]
    subprocess.run([*command, "-o", str(tmp_path / "made")], check=True, capture_output=True, timeout=300)
    package = tmp_path / "stubs" / "tensorrt_rtx"
    package.mkdir(parents=True)
    made = (tmp_path / "made" / "tensorrt_rtx_bindings" / "tensorrt_rtx.pyi").read_text()
    (package / "__init__.pyi").write_text(f"{_repaired(made)}\n__version__: str\n")
    return tmp_path / "stubs"


def _repaired(stubs: str) -> str:
    """The binding writes defaults before parameters that have none, which is no Python."""
    # a constant of that name hides the type
    lines = [line for line in stubs.splitlines() if not line.startswith("bool: ")]
    for i, line in enumerate(lines):
        try:
            ast.parse(line.strip())
        except SyntaxError:
            if line.strip().startswith("def ") and line.endswith("..."):
                lines[i] = re.sub(r"\((self)?.*\) ->", r"(self, *args, **kwargs) ->", line)
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="the vendor's binding is for x86-64 alone")
def test_the_modules_type_check(stubs: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    ok = check(stubs, MODULES, tmp_path / "cache")
    assert "__init__.pyi" in ok.stdout or ok.returncode == 0, ok.stdout
    assert [
        line for line in ok.stdout.splitlines() if line.startswith("engines/") and not UNTOLD.search(line)
    ] == []
    # The check must be able to fail: a name that the binding does not have is found.
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt_rtx as trt\n\n\ndef f(c: trt.IRuntimeConfig) -> None:\n    c.create_runtime_cash()\n"
    )
    assert "create_runtime_cash" in check(stubs, [str(wrong)], tmp_path / "cache").stdout
