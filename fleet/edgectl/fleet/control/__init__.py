"""The controller: what devices say, what they are to run, and who asked for it."""
