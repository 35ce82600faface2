"""Members of rollouts get rows of their own, and each step of a rollout is appended to a log: before, all of it
was one document that was written anew with every step. What there is becomes the first entry of the log.

Revision: 0003
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

_OF_ONE_ENTRY = 1000
"""Members."""


def upgrade() -> None:
    members = op.create_table(
        "rollout_members",
        sa.Column("rollout", sa.String(200), primary_key=True),
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("member", sa.Text, nullable=False),
    )
    op.create_index("rollout_members_by_device", "rollout_members", ["device"])
    log = op.create_table(
        "rollout_log",
        sa.Column("rollout", sa.String(200), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("wall_s", sa.Float, nullable=False),
        sa.Column("change", sa.Text, nullable=False),
    )
    op.add_column("rollouts", sa.Column("steps", sa.Integer, nullable=False, server_default="0"))
    _take_apart(op.get_bind(), members, log)


def _take_apart(db: sa.Connection, members: sa.Table, log: sa.Table) -> None:
    rollouts = sa.table(
        "rollouts", sa.column("id"), sa.column("progress"), sa.column("created_s"), sa.column("steps")
    )
    for rollout in db.execute(sa.select(rollouts.c.id)).scalars().all():
        row = db.execute(sa.select(rollouts).where(rollouts.c.id == rollout)).one()
        fields: dict[str, Any] = json.loads(row.progress)
        of: dict[str, dict[str, Any]] = fields.pop("members", {})
        if of:
            db.execute(
                members.insert(),
                [
                    {
                        "rollout": rollout,
                        "device": device,
                        "wave": m["wave"],
                        "outcome": m.get("outcome", "waiting"),
                        "member": json.dumps(m),
                    }
                    for device, m in of.items()
                ],
            )
        changes: list[dict[str, Any]] = []
        left = iter(of.items())
        while (some := dict(islice(left, _OF_ONE_ENTRY))) or not changes:
            changes.append({"fields": fields if not changes else {}, "members": some})
        db.execute(
            log.insert(),
            [
                {"rollout": rollout, "seq": i, "wall_s": row.created_s, "change": json.dumps(change)}
                for i, change in enumerate(changes, 1)
            ],
        )
        db.execute(
            rollouts.update()
            .where(rollouts.c.id == rollout)
            .values(progress=json.dumps(fields), steps=len(changes))
        )
