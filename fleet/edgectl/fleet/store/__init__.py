"""What the controller remembers, in SQLite or PostgreSQL: see :mod:`edgectl.fleet.store.inventory`."""
