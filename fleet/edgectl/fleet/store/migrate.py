"""Brings a database to the newest schema. The scripts are in ``migrations/versions`` and travel with the
distribution; nobody runs Alembic by hand."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, select

from edgectl.core.errors import StorageError
from edgectl.fleet.store.schema import REVISION

__all__ = ["revision_of", "upgrade"]

_FOLDER = Path(__file__).parent / "migrations"


def revision_of(db: Connection) -> str | None:
    """The schema of a database; None: it is empty, or of the first release, which had no number."""
    from alembic.runtime.migration import MigrationContext

    found = MigrationContext.configure(db).get_current_revision()
    return None if found is None else str(found)


def upgrade(db: Connection, revision: str = REVISION) -> None:
    """Migrate, in the transaction of ``db``: it is done whole or not at all.

    Raises :class:`StorageError` for a database that a newer edgectl has written.
    """
    if revision == REVISION and _is_newest(db):
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = db
    try:
        command.upgrade(config, revision)
    except CommandError as e:
        raise StorageError(
            f"the fleet database has schema {revision_of(db)}, which this edgectl does not know",
            hint="a newer edgectl wrote it: install that one, or restore a backup from before",
        ) from e


def _is_newest(db: Connection) -> bool:
    """Without Alembic, whose import takes as long as all else that opens a database."""
    from sqlalchemy import column, table

    if not inspect(db).has_table("alembic_version"):
        return False
    return list(
        db.execute(select(column("version_num")).select_from(table("alembic_version"))).scalars()
    ) == [REVISION]
