"""The broker: embedded, configured, and what has yet to be published to it."""
