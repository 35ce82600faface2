"""A controller's database as the first release made it: its statements, and rows that it wrote."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

__all__ = ["RELEASED", "ROWS", "write_released"]

RELEASED = (
    """CREATE TABLE devices (
        name VARCHAR(64) NOT NULL, conn TEXT, reported TEXT, desired TEXT, seen_s FLOAT NOT NULL,
        PRIMARY KEY (name))""",
    """CREATE TABLE releases (
        release VARCHAR(200) NOT NULL, digest VARCHAR(80) NOT NULL, profiles TEXT NOT NULL,
        created_s FLOAT NOT NULL, PRIMARY KEY (release))""",
    """CREATE TABLE rollouts (
        id VARCHAR(64) NOT NULL, spec TEXT NOT NULL, progress TEXT NOT NULL, state VARCHAR(32) NOT NULL,
        created_s FLOAT NOT NULL, PRIMARY KEY (id))""",
    """CREATE TABLE events (
        id INTEGER NOT NULL, wall_s FLOAT NOT NULL, kind VARCHAR(32) NOT NULL, subject VARCHAR(200) NOT NULL,
        text TEXT NOT NULL, PRIMARY KEY (id))""",
    "CREATE INDEX events_by_subject ON events (subject, id)",
    "CREATE INDEX events_by_kind ON events (kind, wall_s)",
    """CREATE TABLE archive (
        id INTEGER NOT NULL, name VARCHAR(64) NOT NULL, removed_s FLOAT NOT NULL, conn TEXT, reported TEXT,
        desired TEXT, seen_s FLOAT NOT NULL, PRIMARY KEY (id))""",
    "CREATE TABLE revoked (name VARCHAR(64) NOT NULL, wall_s FLOAT NOT NULL, PRIMARY KEY (name))",
    "CREATE TABLE numbers (name VARCHAR(32) NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name))",
)
"""As SQLAlchemy wrote them for SQLite."""

_D = "sha256:" + "a" * 64
_WISH = {"release": "m@1", "digest": _D}
_MEMBERS = {
    "cam": {"wave": 0, "outcome": "admitted", "admitted_s": 7.0},
    "dam": {"wave": 1, "outcome": "waiting"},
}
ROWS: tuple[tuple[str, tuple[object, ...]], ...] = (
    (
        "devices",
        (
            "cam",
            json.dumps({"epoch": 3, "online": True, "slots": ["gate"]}),
            json.dumps({"epoch": 3, "seq": 1, "gen": 2}),
            json.dumps({"gen": 2, "slots": {"gate": _WISH}}),
            5.0,
        ),
    ),
    ("releases", ("m@1", _D, "cpu,jetson-orin", 1.0)),
    (
        "rollouts",
        (
            "gate-1",
            json.dumps({**_WISH, "slot": "gate", "id": "gate-1"}),
            json.dumps({"state": "running", "wave": 0, "members": _MEMBERS}),
            "running",
            2.0,
        ),
    ),
    ("events", (1, 2.0, "rollout", "gate-1", "m@1 to slot gate began")),
    ("events", (2, 3.0, "state", "cam/gate", "m@1 fetching")),
    ("archive", (1, "old", 9.0, None, None, json.dumps({"gen": 4}), 1.0)),
    ("revoked", ("lost", 4.0)),
    ("numbers", ("signed", 1_700_000_000_000)),
)


def write_released(path: Path, *, without: tuple[str, ...] = ()) -> None:
    """``without``: tables and indexes that builds before the release did not have yet; their rows neither."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for statement in RELEASED:
            if statement.split("(")[0].split()[2] not in without:
                db.execute(statement)
        for table, row in ROWS:
            if table not in without:
                db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
