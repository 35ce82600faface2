"""Alembic's folder: ``env.py`` runs the scripts of ``versions`` on a connection that
:mod:`edgectl.fleet.store.migrate` gives it."""
