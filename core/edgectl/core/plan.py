"""A compiled TensorRT plan that one device hands to others: its key, and what signed targets say of it.

The key is what the finaliser files the plan under (:mod:`edgectl.engines.finalise.finalise`): the exact
TensorRT build, the device, its driver, the model, the golden outputs. A target ``plans/<sha256 of the key>``
has the length and sha256 of the plan; its custom field is a :class:`PlanStatement`. Two keys that differ
anywhere are two paths, so a plan can only be found by a device that is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from edgectl.core.files import digest_of, hex_of
from edgectl.core.schema import Digest, Message

__all__ = [
    "MEDIA_PLAN",
    "PLANS",
    "PLAN_FILE",
    "PLAN_JSON",
    "PlanKey",
    "PlanStatement",
    "SharedPlan",
    "key_hex",
    "plan_path",
]

PLAN_FILE, PLAN_JSON = "engine.plan", "plan.json"
"""What a folder has that a plan is handed over in."""
MEDIA_PLAN = "application/vnd.edgectl.tensorrt.plan"

PLANS = "plans/"
"""Prefix of the targets of plans."""

_Text = Annotated[str, Field(max_length=512)]
PlanKey = Annotated[
    dict[Annotated[str, Field(max_length=64)], _Text | int | None], Field(min_length=1, max_length=32)
]
"""What a plan depends on, by name, readable."""


class SharedPlan(Message):
    """Which plan it is: ``plan.json`` of a folder that ``edgectl finalise --export`` writes and ``edgectl
    release share-plan`` reads."""

    key: PlanKey
    digest: Digest
    size: int = Field(ge=1)
    level: int = Field(ge=0, le=5)
    """TensorRT builder optimisation level."""


class PlanStatement(Message):
    """The custom field of a plan's target."""

    key: PlanKey
    level: int = Field(ge=0, le=5)
    release: str = Field(max_length=200)
    """With which the plan is withdrawn."""


def key_hex(key: Mapping[str, object]) -> str:
    """sha256 of the key as JSON with sorted names, 64 hex digits."""
    return hex_of(digest_of(json.dumps(key, sort_keys=True).encode()))


def plan_path(key: Mapping[str, object]) -> str:
    """The TUF target of the plan with this very key."""
    return f"{PLANS}{key_hex(key)}"
