"""Compression of the float graph before it is quantized: one file a method, each judged against the model
as it came."""
