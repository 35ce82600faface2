"""Candidates of a build are measured here, where this device allows it and has nothing else to do."""
