"""The tables, as the newest migration leaves them (``docs/store.md`` says what is in them).

A test compares them with what the migrations make: whoever changes a table here writes a migration.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = [
    "ALERTS",
    "ALERT_NOTICES",
    "ARCHIVE",
    "DEVICES",
    "EVENTS",
    "GROUPS",
    "META",
    "NUMBERS",
    "RELEASES",
    "REVISION",
    "REVOKED",
    "ROLLOUTS",
    "ROLLOUT_LOG",
    "ROLLOUT_MEMBERS",
    "TELEMETRY_HEARD",
    "TELEMETRY_MERGED",
    "TELEMETRY_RAW",
    "TELEMETRY_TOTALS",
    "tables_in",
]

REVISION = "0007"
"""Of the newest migration. A database that has it is opened without Alembic."""

META = MetaData()
_ROW_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up a column of type INTEGER only; it has 64 bits."""

DEVICES = Table(
    "devices",
    META,
    Column("name", String(64), primary_key=True),
    Column("conn", Text),
    Column("reported", Text),
    Column("desired", Text),
    Column("seen_s", Float, nullable=False),
)
GROUPS = Table(
    "groups", META, Column("name", String(64), primary_key=True), Column("terms", Text, nullable=False)
)
RELEASES = Table(
    "releases",
    META,
    Column("release", String(200), primary_key=True),
    Column("digest", String(80), nullable=False),
    Column("profiles", Text, nullable=False),
    Column("created_s", Float, nullable=False),
)
ROLLOUTS = Table(
    "rollouts",
    META,
    Column("id", String(200).with_variant(String(64), "sqlite"), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("state", String(32), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("steps", Integer, nullable=False, server_default="0"),
)
ROLLOUT_MEMBERS = Table(
    "rollout_members",
    META,
    Column("rollout", String(200), primary_key=True),
    Column("device", String(64), primary_key=True),
    Column("wave", Integer, nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("member", Text, nullable=False),
    Index("rollout_members_by_device", "device"),
)
ROLLOUT_LOG = Table(
    "rollout_log",
    META,
    Column("rollout", String(200), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("wall_s", Float, nullable=False),
    Column("change", Text, nullable=False),
)
EVENTS = Table(
    "events",
    META,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("wall_s", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("text", Text, nullable=False),
    Index("events_by_subject", "subject", "id"),
    Index("events_by_kind", "kind", "wall_s"),
)
ARCHIVE = Table(
    "archive",
    META,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("name", String(64), nullable=False),
    Column("removed_s", Float, nullable=False),
    Column("conn", Text),
    Column("reported", Text),
    Column("desired", Text),
    Column("seen_s", Float, nullable=False),
)
REVOKED = Table(
    "revoked", META, Column("name", String(64), primary_key=True), Column("wall_s", Float, nullable=False)
)
NUMBERS = Table(
    "numbers",
    META,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

ALERTS = Table(
    "alerts",
    META,
    Column("rule", String(32), primary_key=True),
    Column("site", String(64), primary_key=True),
    Column("alert", Text, nullable=False),
)
ALERT_NOTICES = Table(
    "alert_notices",
    META,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    Column("wall_s", Float, nullable=False),
    Column("notice", Text, nullable=False),
    sqlite_autoincrement=True,  # whoever got a number never gets it again
)
TELEMETRY_RAW = Table(
    "telemetry_raw",
    META,
    Column("device", String(64), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kept_s", Float, nullable=False),
    Column("wall_s", Float, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("profile", String(64), nullable=False, server_default=""),
    Column("clock", String(16), nullable=False, server_default="device"),
    Column("counted", Integer, nullable=False, server_default="0"),
    Index("telemetry_raw_by_time", "kept_s"),
    Index("telemetry_raw_to_count", "counted", "kept_s"),
)
TELEMETRY_HEARD = Table(
    "telemetry_heard",
    META,
    Column("device", String(64), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("seqs", Text, nullable=False),
    Column("until_s", Float, nullable=False),
    Index("telemetry_heard_by_time", "until_s"),
)
TELEMETRY_MERGED = Table(
    "telemetry_merged",
    META,
    Column("device", String(64), primary_key=True),
    Column("slot", String(64), primary_key=True),
    Column("digest", String(80), primary_key=True),
    Column("stage", String(200), primary_key=True),
    Column("span_s", Integer, primary_key=True, autoincrement=False),
    Column("start_s", BigInteger, primary_key=True, autoincrement=False),
    Column("bytes", Integer, nullable=False),
    Column("histogram", LargeBinary, nullable=False),
    Index("telemetry_merged_by_time", "span_s", "start_s"),
)
TELEMETRY_TOTALS = Table(
    "telemetry_totals",
    META,
    Column("slot", String(64), primary_key=True),
    Column("digest", String(80), primary_key=True),
    Column("profile", String(64), primary_key=True),
    Column("stage", String(100), primary_key=True),
    Column("preference", String(32), primary_key=True),
    Column("power_mode", String(64), primary_key=True),
    Column("throttled", Integer, primary_key=True, autoincrement=False),
    Column("clock", String(16), primary_key=True),
    Column("span_s", Integer, primary_key=True, autoincrement=False),
    Column("start_s", BigInteger, primary_key=True, autoincrement=False),
    Column("founder", String(64), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("histogram", LargeBinary, nullable=False),
    Index("telemetry_totals_by_time", "span_s", "start_s"),
)


def tables_in(db: Connection) -> MetaData:
    """Tables of ours as they are there, in whatever schema; a database may have others, which are not ours."""
    found = MetaData()
    found.reflect(db, only=lambda name, _: name in META.tables)
    return found
