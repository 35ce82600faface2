from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import edgectl.cli.main, edgectl.cli.agent, edgectl.agent.service
from edgectl.agent.service import default_parts
default_parts()
print(",".join(m for m in ("numpy", "onnxruntime", "cv2", "av", "shapely", "lap") if m in sys.modules))
"""


def test_agent_loads_no_numpy_and_no_native_library_of_a_pipeline() -> None:
    """They belong to workers and to the child that warms an engine up: memory, and crashes, of their own."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
