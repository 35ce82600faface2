"""Signed metadata on the device, and the time they are judged by."""
