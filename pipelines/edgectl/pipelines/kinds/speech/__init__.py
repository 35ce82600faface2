"""The speech pipeline: voice activity and keywords."""
