"""Blocks of sound: channels, clocks, levels, features."""
