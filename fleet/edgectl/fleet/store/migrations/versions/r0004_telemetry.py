"""What devices measured: messages as they came, and histograms of hours and days that they are merged into.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "telemetry_raw",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("kept_s", sa.Float, nullable=False),
        sa.Column("wall_s", sa.Float, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_index("telemetry_raw_by_time", "telemetry_raw", ["kept_s"])
    op.create_table(
        "telemetry_merged",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("slot", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(80), primary_key=True),
        sa.Column("stage", sa.String(200), primary_key=True),
        sa.Column("span_s", sa.Integer, primary_key=True),
        sa.Column("start_s", sa.BigInteger, primary_key=True),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("histogram", sa.LargeBinary, nullable=False),
    )
    op.create_index("telemetry_merged_by_time", "telemetry_merged", ["span_s", "start_s"])
