"""ONNX in, bundle out: passes, calibration, quantization, search by measurement, packaging."""
