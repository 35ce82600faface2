"""Graphs of low precision: calibration, kernel families, placement, quantization and its remedies."""
