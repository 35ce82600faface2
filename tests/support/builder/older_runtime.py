"""The last ONNX Runtime for Python 3.10, which knows less than the one for 3.11."""

from __future__ import annotations

import onnxruntime

__all__ = ["OLDER_RUNTIME"]

OLDER_RUNTIME = tuple(int(n) for n in onnxruntime.__version__.split(".")[:2]) < (1, 24)
