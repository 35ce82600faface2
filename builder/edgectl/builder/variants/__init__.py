"""Which variants a profile gets: measured on this machine, or only checked numerically for another one."""
