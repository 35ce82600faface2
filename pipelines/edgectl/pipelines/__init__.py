"""Sources, preprocessing, decoding, tracking, rules and sinks: what runs on every frame and every stretch
of audio."""
