from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.event import listen
from support.postgres import Postgres, postgres, store_url  # noqa: F401, fixtures

from edgectl.core.errors import StorageError
from edgectl.fleet.store.database import Database, upsert
from edgectl.fleet.store.schema import EVENTS, NUMBERS

EVENT = {"wall_s": 1.0, "kind": "state", "subject": "d0", "text": "x"}


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Postgres]:
    """Is there again afterwards."""
    yield postgres
    if postgres._process.poll() is not None:
        postgres.start()


@pytest.fixture
def db(tmp_path: Path, server: Postgres) -> Iterator[Database]:
    made = Database(tmp_path, server.new_database())
    yield made
    made.close()


def _append(db: Connection) -> None:
    db.execute(insert(EVENTS).values(EVENT))


def _count(db: Connection) -> int:
    return int(db.execute(text("SELECT count(*) FROM events")).scalar_one())


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nonexistent/folder/x.db",
        "nonsense",
        "oracle+what://x/y",
        "mysql+pymysql://nobody@127.0.0.1/x",
        "postgresql://nobody@127.0.0.1:9/nothing",
        "postgresql+psycopg://nobody@127.0.0.1:9/nothing",
    ],
)
def test_url_that_nothing_can_be_opened_with_is_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(StorageError) as e:
        Database(tmp_path, url)
    assert "\n" not in e.value.message


def test_rows_take_the_place_of_those_with_their_key(tmp_path: Path, store_url: str | None) -> None:
    db = Database(tmp_path, store_url)
    db.write(lambda c: upsert(c, NUMBERS, [{"name": "a", "value": 1}, {"name": "b", "value": 1}]))
    db.write(lambda c: upsert(c, NUMBERS, [{"name": "b", "value": 2}, {"name": "c", "value": 3}]))
    db.write(lambda c: upsert(c, NUMBERS, []))
    rows = db.read(lambda c: c.execute(text("SELECT name, value FROM numbers WHERE name < 'd'")).all())
    assert sorted((r.name, r.value) for r in rows) == [("a", 1), ("b", 2), ("c", 3)]
    db.close()


def test_transaction_that_fails_leaves_nothing(tmp_path: Path, store_url: str | None) -> None:
    db = Database(tmp_path, store_url)

    def half(c: Connection) -> None:
        _append(c)
        raise ValueError("half done")

    with pytest.raises(ValueError, match="half done"):
        db.write(half)
    assert db.read(_count) == 0
    db.close()


def test_statement_that_is_wrong_is_not_waited_for(db: Database) -> None:
    with pytest.raises(StorageError, match="no_such_table"):
        db.read(lambda c: c.execute(text("SELECT 1 FROM no_such_table")))


def test_server_that_was_restarted_between_two_transactions_is_one_line_in_the_log(
    db: Database, server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    db.write(_append)
    server.restart()
    with caplog.at_level(logging.INFO):
        db.write(_append)
        db.write(_append)
    assert db.read(_count) == 3
    assert [r.message.split(" for ")[0] for r in caplog.records] == ["the database was away"]


def test_transaction_in_whose_middle_the_server_was_restarted_is_done_again_whole(
    db: Database, server: Postgres
) -> None:
    tries = 0

    def two(c: Connection) -> str:
        nonlocal tries
        tries += 1
        _append(c)
        if tries == 1:
            server.restart()
        _append(c)
        return f"try {tries}"

    assert db.write(two) == "try 2"
    assert db.read(_count) == 2


def test_server_that_comes_back_late_is_waited_for(db: Database, server: Postgres) -> None:
    server.stop()
    again = threading.Event()

    def start(*_: object) -> None:
        if not again.is_set():
            again.set()
            server.start()

    real, tries = db._engine.connect, 0

    def connect() -> Any:
        nonlocal tries
        tries += 1
        if tries == 3:
            start()
        return real()

    db._engine.connect = connect  # type: ignore[method-assign]
    db.write(_append)
    assert tries >= 3
    assert db.read(_count) == 1


@pytest.mark.parametrize("committed", [True, False])
def test_commit_that_was_not_answered_has_happened_once(db: Database, committed: bool) -> None:
    """The server may have died before it, or after."""
    unanswered: list[Connection] = []
    real = db._engine.dialect.do_commit

    def commit(connection: Any) -> None:
        if committed or unanswered:
            real(connection)
        if not unanswered:
            unanswered.append(connection)
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    db._engine.dialect.do_commit = commit  # type: ignore[method-assign]
    tries: list[int] = []

    def work(c: Connection) -> int:
        tries.append(1)
        _append(c)
        return len(tries)

    assert db.write(work) == (1 if committed else 2)
    assert len(unanswered) == 1
    assert db.read(_count) == 1


def test_server_that_stays_away_is_an_error_after_a_while_and_nothing_is_half_done(
    db: Database, server: Postgres
) -> None:
    db._patience_s = 0.2
    server.stop()
    with pytest.raises(StorageError):
        db.write(_append)
    server.start()
    assert db.read(_count) == 0


def test_server_that_stays_away_is_waited_for_once_and_told_of_once(
    db: Database, server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float | None] = []
    db._closing.wait = lambda timeout=None: bool(waits.append(timeout))  # type: ignore[method-assign]
    db._patience_s = 0.2
    server.stop()
    with pytest.raises(StorageError):
        db.write(_append)
    waited = len(waits)
    assert waited > 0
    for _ in range(3):
        with pytest.raises(StorageError):
            db.write(_append)
    assert len(waits) == waited, "nobody waits again"
    server.start()
    db.write(_append)
    assert [r.message.split(" for ")[0] for r in caplog.records] == ["the database was away"]
    assert db.read(_count) == 1


def test_commit_that_was_not_answered_is_waited_for_until_it_is_known(db: Database, server: Postgres) -> None:
    db._patience_s = 0.0
    unanswered: list[Any] = []
    real = db._engine.dialect.do_commit

    def commit(connection: Any) -> None:
        real(connection)
        if not unanswered:
            unanswered.append(connection)
            server.stop()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    db._engine.dialect.do_commit = commit  # type: ignore[method-assign]
    waits = 0

    def wait(timeout: float | None = None) -> bool:
        nonlocal waits
        waits += 1
        if waits == 3:
            server.start()
        return False

    db._closing.wait = wait  # type: ignore[method-assign]
    db.write(_append)
    assert waits >= 3
    assert db.read(_count) == 1


def test_whoever_closes_it_waits_for_no_server(db: Database, server: Postgres) -> None:
    db._patience_s = 1000.0
    server.stop()
    waiting = threading.Event()
    listen(db._engine, "do_connect", lambda *_: waiting.set())
    failed: list[StorageError] = []

    def write() -> None:
        try:
            db.write(_append)
        except StorageError as e:
            failed.append(e)

    thread = threading.Thread(target=write)
    thread.start()
    assert waiting.wait(30)
    db.close()
    thread.join(30)
    assert len(failed) == 1


def test_sqlite_file_that_another_process_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.fleet.store.database._BUSY_MS", 50)
    db = Database(tmp_path)
    other = sqlite3.connect(tmp_path / "fleet.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        db.write(_append)
    other.execute("COMMIT")
    other.close()
    db.write(_append)
    assert db.read(_count) == 1
    db.close()
