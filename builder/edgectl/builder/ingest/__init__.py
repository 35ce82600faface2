"""What a build starts from: the ONNX file read and repaired, the form that every step works on, and samples."""
