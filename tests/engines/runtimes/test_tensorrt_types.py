"""The TensorRT modules against the vendor's own signatures of three generations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = ["engines/edgectl/engines/runtimes/tensorrt.py", "engines/edgectl/engines/finalise/trt_compile.py"]


def check(stubs: Path, files: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(cache), *files],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["8.6", "10.3", "11.4"])
def test_the_modules_type_check(shared: Path, tmp_path: Path, generation: str) -> None:
    pytest.importorskip("mypy")
    stubs = shared / "tensorrt-api" / generation
    if not stubs.is_dir():
        pytest.skip(f"the vendor's signatures are not at {stubs}")
    ok = check(stubs, MODULES, tmp_path)
    assert ok.returncode == 0, ok.stdout
    # The check must be able to fail: a name that this generation does not have is found.
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import tensorrt as trt\n\nprint(trt.BuilderFlag.NO_SUCH_FLAG)\n")
    assert "NO_SUCH_FLAG" in check(stubs, [str(wrong)], tmp_path).stdout
