"""What the fleet measured, whatever device did; and which messages counted already, for longer than they are kept.

Messages that are there count now, with the profile that their device tells of today.

Revision: 0005
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    for column in (
        sa.Column("profile", sa.String(64), nullable=False, server_default=""),
        sa.Column("clock", sa.String(16), nullable=False, server_default="device"),
        sa.Column("counted", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("telemetry_raw", column)
    op.create_index("telemetry_raw_to_count", "telemetry_raw", ["counted", "kept_s"])
    _tell_profiles(op.get_bind())
    op.create_table(
        "telemetry_heard",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True),
        sa.Column("seqs", sa.Text, nullable=False),
        sa.Column("until_s", sa.Float, nullable=False),
    )
    op.create_index("telemetry_heard_by_time", "telemetry_heard", ["until_s"])
    op.create_table(
        "telemetry_totals",
        sa.Column("slot", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("profile", sa.String(64), primary_key=True),
        sa.Column("stage", sa.String(100), primary_key=True),
        sa.Column("preference", sa.String(32), primary_key=True),
        sa.Column("power_mode", sa.String(64), primary_key=True),
        sa.Column("throttled", sa.Integer, primary_key=True),
        sa.Column("clock", sa.String(16), primary_key=True),
        sa.Column("span_s", sa.Integer, primary_key=True),
        sa.Column("start_s", sa.BigInteger, primary_key=True),
        sa.Column("founder", sa.String(64), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("histogram", sa.LargeBinary, nullable=False),
    )
    op.create_index("telemetry_totals_by_time", "telemetry_totals", ["span_s", "start_s"])


def _tell_profiles(db: sa.Connection) -> None:
    devices = sa.table("devices", sa.column("name"), sa.column("conn"))
    raw = sa.table("telemetry_raw", sa.column("device"), sa.column("profile"))
    for row in db.execute(sa.select(devices).where(devices.c.conn.is_not(None))).all():
        profile = json.loads(row.conn).get("profile")
        if profile:
            db.execute(
                raw.update()
                .where(raw.c.device == row.name)
                .values(profile=str(profile)[:64].replace("\0", "�"))
            )
