"""Bundles from the broker into the store, and from this device to others of its site."""
