"""What runs pipelines: the worker process, its protocol, and `edgectl run`."""
