"""Which variants a profile gets: candidates measured on this machine, and what is only checked numerically."""
