"""edgectl reports to the broker that you name and to nobody else. Two libraries it runs on would report to
their makers.

* ONNX Runtime's official Linux builds since 1.29 send session events (model file name, graph and weight hashes,
  producer) to Microsoft unless ``ORT_DISABLE_TELEMETRY`` is set, and keep a device id and a queue in the home
  directory.
* ``openvino_telemetry`` sends events to Google Analytics when OpenVINO is imported, from a forked child that may
  outlive a worker. OpenVINO has a stub for machines without that package.

Both are switched off before either library can be imported, here and in every child process.
"""

from __future__ import annotations

import os
import sys

__all__ = ["opt_out"]


def opt_out() -> None:
    """Switch third-party telemetry off. A user who wants ONNX Runtime's sets ``ORT_DISABLE_TELEMETRY=0``
    himself."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if "openvino" not in sys.modules:
        # None makes `import openvino_telemetry` raise ImportError, which OpenVINO expects and answers with
        # its stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
