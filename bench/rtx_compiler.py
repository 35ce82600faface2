"""What NVIDIA's own compiler says to a graph, without a GPU: TensorRT-RTX builds for SM 8.6 on the CPU (``pip
install tensorrt-rtx-cu12``).

It proves that the parser and the builder take the graph, its types and its Q/DQ placement, and nothing else:
not that it ran, nor how fast.

    python bench/rtx_compiler.py FILE.onnx ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

__all__ = ["available", "refusal"]


def available() -> bool:
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        return False
    return True


def refusal(model: bytes) -> str:
    """Why the compiler does not build an engine of the ONNX file for SM 8.6; empty if it does."""
    import tensorrt_rtx as trt

    said: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
                said.append(message)

    builder = trt.Builder(Log())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse(model):
        return (
            "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            or "the parser gives no reason"
        )
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    return "" if plan is not None else "; ".join(said) or "the builder gives no reason"


def main() -> int:
    refused = 0
    for name in sys.argv[1:]:
        why = refusal(Path(name).read_bytes())
        refused += bool(why)
        print(f"{name}: {why or 'accepted for SM 8.6'}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
