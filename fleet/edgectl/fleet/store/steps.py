"""What a step of a rollout changes, as it is written down, and what many of them add up to. Pure.

An entry is JSON: ``{"fields": {…}, "members": {device: {…} or null}}``, what changed only; null: it is no member any
more. A step that changes more than :data:`MEMBERS` members is several entries. The fields are whatever
:class:`RolloutProgress` has: a first entry holds all of them, so that a later default changes no old rollout.

A canary that committed, in a rollout that goes on to its first wave::

    {"fields": {"wave": 1}, "members": {"cam-7": {"wave": 0, "outcome": "committed", "admitted_s": 1.8e9}}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgectl.fleet.rollouts.values import Member, RolloutProgress

__all__ = ["MEMBERS", "Step", "difference", "fold"]

MEMBERS = 1000
"""Of one entry: none becomes too long to be read in one piece."""


@dataclass(frozen=True)
class Step:
    fields: dict[str, Any]
    """Of the progress, without its members, as JSON has them."""
    members: dict[str, Member]
    """New ones, and those that changed."""
    gone: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fields or self.members or self.gone)

    def entries(self) -> list[str]:
        """For the log; none where nothing changed."""
        members = [f"{json.dumps(n)}:{m.encode().decode()}" for n, m in self.members.items()]
        members += [f"{json.dumps(n)}:null" for n in self.gone]
        parts = [members[i : i + MEMBERS] for i in range(0, len(members), MEMBERS)] or [[]]
        fields = [json.dumps(self.fields), *["{}"] * (len(parts) - 1)]
        return [
            f'{{"fields":{some},"members":{{{",".join(part)}}}}}'
            for some, part in zip(fields, parts, strict=True)
            if self
        ]


def difference(old: RolloutProgress | None, new: RolloutProgress) -> Step:
    """What leads from ``old`` to ``new``. None: there was nothing."""
    before = {} if old is None else _fields(old)
    members = {} if old is None else old.members
    return Step(
        fields={k: v for k, v in _fields(new).items() if k not in before or before[k] != v},
        members={n: m for n, m in new.members.items() if (was := members.get(n)) is not m and was != m},
        gone=tuple(n for n in members if n not in new.members),
    )


def fold(entries: Iterable[str]) -> dict[str, Any]:
    """The progress, as JSON has it, that the log of a rollout adds up to."""
    fields: dict[str, Any] = {}
    members: dict[str, Any] = {}
    for entry in entries:
        change = json.loads(entry)
        fields.update(change["fields"])
        members.update(change["members"])
    return {**fields, "members": {n: m for n, m in members.items() if m is not None}}


def _fields(progress: RolloutProgress) -> dict[str, Any]:
    return progress.model_dump(mode="json", by_alias=True, exclude={"members"})
