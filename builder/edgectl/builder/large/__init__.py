"""Models whose weights do not fit one ONNX file: built with one engine of them in memory at a time."""
