"""One database, of either kind: opened, migrated, and used by one transaction at a time.

A transaction that is ``durable`` is on the disk when it returns, with all before it; another one survives the end
of the process, and may be lost with the power. SQLite writes ahead (WAL).

A PostgreSQL that goes away is waited for (:data:`PATIENCE_S`), and what was under way is done again. Whether a
commit that was not answered has happened is not guessed: each transaction leaves a number of its own (the row
``transaction`` of the numbers), and is done again only where that is not found.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from edgectl.core.errors import StorageError
from edgectl.core.files import keep_private
from edgectl.fleet.store.migrate import upgrade
from edgectl.fleet.store.schema import NUMBERS

__all__ = ["PATIENCE_S", "Database", "open_engine", "size_of", "snapshot", "sqlite_file", "upsert", "words"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_TRANSACTION = "transaction"
_BUSY_MS = 10_000
"""How long another process may hold the file, e.g. one that restores a backup."""
PATIENCE_S = 30.0
"""How long a server that was there is waited for, once: a crash of it takes a few seconds. After that, what needs it
fails at once until it is back."""
_FOR_EVER_S = float("inf")
_AGAIN_S = (0.05, 1.0)
"""Between two tries: at first, and at most."""
_LIBPQ = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}
"""A server that vanishes without a word is away, too."""
_COMES_UP = ("57P01", "57P02", "57P03")
"""SQLSTATE of a server that goes down, has crashed, or does not take connections yet."""


class Database:
    """Thread-safe."""

    def __init__(self, state_dir: Path, url: str | None = None) -> None:
        """Open it, made or migrated where it has to be. ``url``: of SQLAlchemy; None: ``fleet.db`` in
        ``state_dir``, readable by its owner only. Raises :class:`StorageError`."""
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._patience_s = 0.0  # one that never was there is not waited for
        self._away_s: float | None = None
        """Since when, in monotonic seconds."""
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            if url is None:
                keep_private(sqlite_file(state_dir))
            self._engine = open_engine(url or f"sqlite:///{sqlite_file(state_dir)}")
        except OSError as e:
            raise StorageError(f"the fleet database cannot be opened: {e}") from e
        try:
            self._run(upgrade, None, durable=True)
        except BaseException:
            self._engine.dispose()
            raise
        self._patience_s = PATIENCE_S

    def close(self) -> None:
        """Whoever waits for a server that is away waits no longer."""
        self._closing.set()
        with self._lock:
            self._engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` finds, in one transaction. Raises :class:`StorageError`."""
        return self._run(work, None, durable=False)

    def write(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Have ``work`` done in one transaction, whole or not at all. It may be called again, where the server
        went away in the middle. Raises :class:`StorageError`."""
        number = None if self._engine.dialect.name == "sqlite" else secrets.randbits(62)
        return self._run(work, number, durable=durable)

    def _run(self, work: Callable[[Connection], T], number: int | None, *, durable: bool) -> T:
        """``number``: that the transaction leaves, where its commit may go unanswered."""
        with self._lock:
            done: list[T] = []
            began_s, again_s = time.monotonic(), _AGAIN_S[0]
            # It was waited for already: until it is back, nobody else waits.
            patience_s = 0.0 if self._away_s is not None else self._patience_s
            while True:
                try:
                    if not (done and self._has(number)):
                        done.clear()
                        with self._engine.connect() as db, db.execution_options(durable=durable).begin():
                            result = work(db)
                            if number is not None:
                                upsert(db, NUMBERS, [{"name": _TRANSACTION, "value": number}])
                            done.append(result)
                    self._is_back()
                    return done[0]
                except SQLAlchemyError as e:
                    away = _is_away(e)
                    if away and self._away_s is None:
                        self._away_s = began_s
                    # Of a commit that was not answered it has to be known whether it happened.
                    left_s = _FOR_EVER_S if done else began_s + patience_s - time.monotonic()
                    if not away or left_s <= 0 or self._closing.wait(min(again_s, left_s)):
                        raise StorageError(f"the fleet database cannot be used: {words(e)}") from e
                    again_s = min(2 * again_s, _AGAIN_S[1])

    def _is_back(self) -> None:
        if self._away_s is not None:
            log.warning("the database was away for %.1f s; nothing is lost", time.monotonic() - self._away_s)
            self._away_s = None

    def _has(self, number: int | None) -> bool:
        """Whether the transaction with this number was committed: it is the last that was."""
        if number is None:
            return False
        with self._engine.connect() as db:
            kept = db.execute(select(NUMBERS.c.value).where(NUMBERS.c.name == _TRANSACTION)).scalar()
        return kept == number


def size_of(db: Connection) -> int:
    """Bytes that a database takes, its write-ahead log aside."""
    if db.dialect.name == "postgresql":
        return int(db.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
    pages, page = (db.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size"))
    return int(pages) * int(page)


def sqlite_file(state_dir: Path) -> Path:
    return state_dir / "fleet.db"


@contextlib.contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Read the database as it is now, however much is written meanwhile; nobody waits for that."""
    with engine.connect() as db:
        if db.dialect.name == "postgresql":
            db = db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with db.begin():
            yield db


def open_engine(url: str) -> Engine:
    """Raises :class:`StorageError` for a URL that nothing can be opened with."""
    try:
        where = make_url(url)
        if where.drivername == "postgresql":
            where = where.set(drivername="postgresql+psycopg")
        is_postgresql = where.get_backend_name() == "postgresql"
        engine = create_engine(where, connect_args=_LIBPQ if is_postgresql else {})
    except (ArgumentError, NoSuchModuleError, ImportError) as e:
        raise StorageError(
            f"`database` in controller.toml names nothing that can be opened: {e}",
            hint="postgresql+psycopg://USER@HOST/NAME, or none for SQLite in the state folder",
        ) from e
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "begin", _begin_postgresql)
    return engine


def _is_away(e: SQLAlchemyError) -> bool:
    """The connection is gone, or there is none to be had: the server may come back."""
    if not isinstance(e, OperationalError) or isinstance(e.orig, sqlite3.Error):
        return False
    return e.connection_invalidated or getattr(e.orig, "sqlstate", "") in (None, *_COMES_UP)


def words(e: SQLAlchemyError) -> str:
    """What the database said, without the statement."""
    return " ".join(str(e.orig if isinstance(e, DBAPIError) else e).split())


def upsert(db: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, each in the place of the one with its primary key."""
    if not rows:
        return
    make = sqlite.insert if db.dialect.name == "sqlite" else postgresql.insert
    statement = make(table)
    key = [c.name for c in table.primary_key]
    others = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in key}
    db.execute(statement.on_conflict_do_update(index_elements=key, set_=others), rows)


def _configure_sqlite(connection: Any, _record: object) -> None:
    # We begin transactions ourselves: sqlite3 does so for what writes rows only, and not for what makes tables.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(db: Connection) -> None:
    level = "FULL" if db.get_execution_options().get("durable", True) else "NORMAL"
    db.exec_driver_sql(f"PRAGMA synchronous = {level}")
    db.exec_driver_sql("BEGIN")


def _begin_postgresql(db: Connection) -> None:
    if not db.get_execution_options().get("durable", True):
        db.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
