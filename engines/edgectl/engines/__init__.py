"""Open and run an engine: one file per runtime, finalising, golden check and timing."""
