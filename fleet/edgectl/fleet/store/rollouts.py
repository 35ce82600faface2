"""Tables of rollouts: what was asked and where it stands, a row for each member, and a log of the steps.

With a step go only what changed, and its entry in the log (:mod:`edgectl.fleet.store.steps`): a step of one device
in a rollout to 100 000 is a few hundred bytes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from edgectl.fleet.rollouts.values import ACTIVE, Member, RolloutProgress, RolloutSpec
from edgectl.fleet.store.database import upsert
from edgectl.fleet.store.schema import ROLLOUT_LOG, ROLLOUT_MEMBERS, ROLLOUTS
from edgectl.fleet.store.steps import difference, fold

__all__ = ["Rollouts", "folded"]

Both = tuple[RolloutSpec, RolloutProgress]

_STRAGGLERS = "stragglers"
"""In the column ``state``: a rollout that is done, and some device has not come back yet."""
_OPEN = (*(s.value for s in ACTIVE), _STRAGGLERS)


@dataclass(frozen=True)
class _Known:
    steps: int
    """Entries of the log when this was read or written: as long as the database has no more, it is so."""
    spec: RolloutSpec
    progress: RolloutProgress


class Rollouts:
    """Remembers those under way, so that a step neither reads nor compares what the database has anyway. One
    transaction at a time."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._written: dict[str, _Known] = {}
        """By the transaction that is under way: it may yet fail."""

    def load(self, db: Connection, *, active: bool) -> dict[str, Both]:
        """Oldest first. ``active``: only those with a device that has to be looked after."""
        query = select(ROLLOUTS.c.id).order_by(ROLLOUTS.c.created_s)
        if active:
            query = query.where(ROLLOUTS.c.state.in_(_OPEN))
        return {name: both for name in db.execute(query).scalars().all() if (both := self.find(db, name))}

    def of_device(self, db: Connection, device: str) -> dict[str, Both]:
        """Those that it is a member of, oldest first."""
        query = (
            select(ROLLOUTS.c.id)
            .join(ROLLOUT_MEMBERS, ROLLOUT_MEMBERS.c.rollout == ROLLOUTS.c.id)
            .where(ROLLOUT_MEMBERS.c.device == device)
            .order_by(ROLLOUTS.c.created_s)
        )
        return {name: both for name in db.execute(query).scalars().all() if (both := self.find(db, name))}

    def find(self, db: Connection, rollout: str) -> Both | None:
        found = self._find(db, rollout)
        return None if found is None else (found.spec, found.progress)

    def save(self, db: Connection, spec: RolloutSpec, progress: RolloutProgress) -> None:
        """One step. Whoever calls this tells whether the transaction was committed: :meth:`committed`,
        :meth:`failed`."""
        before = self._find(db, spec.id)
        step = difference(before.progress if before else None, progress)
        entries = step.entries()
        known = _Known((before.steps if before else 0) + len(entries), spec, progress)
        self._written[spec.id] = known
        if before is not None and not step and before.spec == spec:
            return
        ended = progress.state not in ACTIVE and progress.unfinished
        row = {
            "spec": spec.encode().decode(),
            "progress": progress.model_dump_json(by_alias=True, exclude={"members"}),
            "state": _STRAGGLERS if ended else progress.state.value,
            "steps": known.steps,
        }
        now_s = time.time()
        if before is None:
            db.execute(insert(ROLLOUTS).values(id=spec.id, created_s=now_s, **row))
        else:
            db.execute(ROLLOUTS.update().where(ROLLOUTS.c.id == spec.id).values(**row))
        upsert(db, ROLLOUT_MEMBERS, [_row(spec.id, n, m) for n, m in step.members.items()])
        if step.gone:
            of_it = ROLLOUT_MEMBERS.c.rollout == spec.id
            db.execute(delete(ROLLOUT_MEMBERS).where(of_it, ROLLOUT_MEMBERS.c.device.in_(step.gone)))
        if entries:
            first = known.steps - len(entries) + 1
            db.execute(
                insert(ROLLOUT_LOG),
                [
                    {"rollout": spec.id, "seq": seq, "wall_s": now_s, "change": change}
                    for seq, change in enumerate(entries, first)
                ],
            )

    def committed(self) -> None:
        for name, known in self._written.items():
            if known.progress.state in ACTIVE or known.progress.unfinished:
                self._known[name] = known
            else:
                self._known.pop(name, None)
        self._written = {}

    def failed(self) -> None:
        self._written = {}

    def _find(self, db: Connection, rollout: str) -> _Known | None:
        steps = db.execute(select(ROLLOUTS.c.steps).where(ROLLOUTS.c.id == rollout)).scalar()
        known = self._written.get(rollout) or self._known.get(rollout)
        if steps is None or (known is not None and known.steps == steps):
            return None if steps is None else known
        row = db.execute(select(ROLLOUTS).where(ROLLOUTS.c.id == rollout)).one()
        query = select(ROLLOUT_MEMBERS.c.device, ROLLOUT_MEMBERS.c.member).where(
            ROLLOUT_MEMBERS.c.rollout == rollout
        )
        members = {device: Member.model_validate_json(m) for device, m in db.execute(query)}
        progress = RolloutProgress.model_validate({**json.loads(row.progress), "members": members})
        found = _Known(steps, RolloutSpec.model_validate_json(row.spec), progress)
        if row.state in _OPEN:
            self._known[rollout] = found
        return found


def folded(db: Connection, rollout: str) -> RolloutProgress:
    """Where a rollout stands, by its log alone."""
    query = select(ROLLOUT_LOG.c.change).where(ROLLOUT_LOG.c.rollout == rollout).order_by(ROLLOUT_LOG.c.seq)
    return RolloutProgress.model_validate_json(json.dumps(fold(db.execute(query).scalars())))


def _row(rollout: str, device: str, m: Member) -> dict[str, object]:
    return {
        "rollout": rollout,
        "device": device,
        "wave": m.wave,
        "outcome": m.outcome.value,
        "member": m.encode().decode(),
    }
