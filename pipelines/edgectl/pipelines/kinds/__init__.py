"""One folder per kind of pipeline, and what they share."""
