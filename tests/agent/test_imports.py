from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from typer.main import get_command
from edgectl.cli.main import app
get_command(app).get_command(None, "agent")
import edgectl.agent.service
from edgectl.agent.dependencies import default_dependencies
default_dependencies()
print(*sorted(sys.modules))
"""
NATIVE = {"numpy", "onnxruntime", "cv2", "av", "shapely", "lap"}
OF_OTHERS = {"rich", "onnx", "httpx", "starlette", "uvicorn", "sqlalchemy"}


def test_agent_loads_no_native_library_of_a_pipeline_and_no_other_command() -> None:
    """The first belong to workers and to the child that warms an engine up: memory, and crashes, of their
    own. The others would only take memory."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "edgectl.agent.service" in loaded
    assert not loaded & (NATIVE | OF_OTHERS)
    commands = {m for m in loaded if m.startswith("edgectl.cli.") and not m.startswith("edgectl.cli._")}
    assert commands == {"edgectl.cli.main", "edgectl.cli.agent"}
