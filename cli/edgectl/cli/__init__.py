"""The command line: one file per noun, one output sink."""
