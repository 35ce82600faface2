"""Models of other frameworks, converted to ONNX by the framework's own tools in a confined child process."""
