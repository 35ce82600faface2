"""Labels that people made (ground truth), read from the layouts that datasets come in."""
