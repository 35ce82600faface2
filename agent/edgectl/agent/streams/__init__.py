"""What runs on the device: worker processes, their supervisor, and their telemetry."""
