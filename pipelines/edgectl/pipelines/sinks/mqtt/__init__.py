"""Sinks that speak to an MQTT broker: one connection each (:mod:`.connection`), and what they say over it."""
