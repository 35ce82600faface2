"""The dashboard: pages rendered on the server, kept current by server-sent events. It shows and asks what the controller
knows and does; nothing is decided here."""
