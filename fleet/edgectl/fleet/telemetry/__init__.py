"""What can be said of many measurements, and how others are told. Pure."""
