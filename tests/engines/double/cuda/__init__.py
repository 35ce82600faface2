"""A double of cuda-python; there only if ``$TRT_DOUBLE`` asks for it (``cuda_python``)."""
