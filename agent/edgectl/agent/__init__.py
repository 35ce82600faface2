"""The device service: link, deployment state machine, store, transfer, finaliser, supervisor, telemetry."""
