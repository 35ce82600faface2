"""Streaming audio: blocks with exact sample counts, features equal to offline ones, voice activity,
keywords."""
