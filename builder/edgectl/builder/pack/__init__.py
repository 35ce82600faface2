"""The bundle: written, read back, shown, and measured again."""
