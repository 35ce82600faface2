"""What a plain tool makes of a model: ONNX Runtime's own quantizer with its defaults."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgectl.engines.base import Feeds

__all__ = ["per_tensor"]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def per_tensor(model: onnx.ModelProto, feeds: list[Feeds], folder: Path) -> onnx.ModelProto:
    """What a plain tool makes: min/max ranges and one scale for each weight."""
    source, out = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    quantize_static(
        source,
        out,
        Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=False,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(out)
