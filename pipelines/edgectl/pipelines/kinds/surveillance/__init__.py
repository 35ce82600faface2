"""Fixed cameras: objects, zones, lines, loitering, occupancy."""
