"""From a variant to the engine that this device runs: compile, optimise, check against golden samples."""
