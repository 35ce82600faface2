"""The tables of the first release, which had no migrations. A database of it is taken over as it is, and so
is one of an older build, which lacks some of them: what is there already stays.

Revision: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("name", sa.String(64), primary_key=True),
        *_said(),
        if_not_exists=True,
    )
    op.create_table(
        "releases",
        sa.Column("release", sa.String(200), primary_key=True),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("profiles", sa.Text, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("wall_s", sa.Float, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_index("events_by_subject", "events", ["subject", "id"], if_not_exists=True)
    op.create_index("events_by_kind", "events", ["kind", "wall_s"], if_not_exists=True)
    op.create_table(
        "archive",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("removed_s", sa.Float, nullable=False),
        *_said(),
        if_not_exists=True,
    )
    op.create_table(
        "revoked",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("wall_s", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "numbers",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )


def _said() -> list[sa.Column[str] | sa.Column[float]]:
    """What a device said last, and what is wanted of it."""
    return [
        sa.Column("conn", sa.Text),
        sa.Column("reported", sa.Text),
        sa.Column("desired", sa.Text),
        sa.Column("seen_s", sa.Float, nullable=False),
    ]
