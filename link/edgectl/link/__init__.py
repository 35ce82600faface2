"""The one MQTT adapter: reconnect with back-off, bounded outstanding publishes, last will. It knows topics
only as strings."""
