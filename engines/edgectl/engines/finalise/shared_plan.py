"""Exports a compiled plan from the cache of one device, and adopts it into the cache of another. The caller
loads no runtime for it.

``python -m edgectl.engines.finalise.shared_plan BLOBS MANIFEST CACHE`` prints one JSON line ``{ok, key}``;
with ``--file`` and ``--plan`` (the JSON of a :class:`SharedPlan`) it adopts that plan.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgectl.core.bundle import Variant
from edgectl.core.files import atomic_write, digest_of, storage
from edgectl.core.plan import PLAN_FILE, PLAN_JSON, SharedPlan
from edgectl.engines.child import answer, run_child

__all__ = ["adopt", "hand_out", "missing"]

_IDENTIFY_S = 150.0
_CHECK_S = 600.0  # identify, copy, golden check, timing


def missing(blobs: Path, manifest: str, cache: Path) -> dict[str, Any] | None:
    """The key of the TensorRT plan that this machine would have to compile; None if it has it, or needs none.

    Raises what ``finalise`` raises before it compiles.
    """
    if Variant.open(blobs, manifest).config.runtime != "tensorrt":
        return None
    arguments = [str(blobs), manifest, str(cache)]
    reply = run_child(
        "edgectl.engines.finalise.shared_plan",
        arguments,
        timeout_s=_IDENTIFY_S,
        what="asking for the key of the plan",
    )
    key = reply["key"]
    return key if isinstance(key, dict) else None


def adopt(blobs: Path, manifest: str, cache: Path, file: Path, plan: SharedPlan) -> None:
    """:func:`edgectl.engines.finalise.finalise.adopt_plan` in a child process: whatever the plan does, it
    does it there."""
    arguments = [str(blobs), manifest, str(cache), "--file", str(file), "--plan", plan.model_dump_json()]
    run_child(
        "edgectl.engines.finalise.shared_plan", arguments, timeout_s=_CHECK_S, what="checking the shared plan"
    )


def hand_out(file: Path, key: Mapping[str, Any], level: int, folder: Path) -> SharedPlan:
    """Copy a plan of this machine's cache with its key into ``folder``, the JSON last. Raises
    :class:`StorageError`."""
    with storage(str(folder)):
        data = file.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
    plan = SharedPlan(key=dict(key), digest=digest_of(data), size=len(data), level=level)
    atomic_write(folder / PLAN_FILE, data)
    atomic_write(folder / PLAN_JSON, plan.model_dump_json(indent=2).encode() + b"\n")
    return plan


def _main(arguments: list[str]) -> dict[str, Any]:
    # here: whoever asks loads no runtime for it
    from edgectl.engines.finalise.finalise import adopt_plan, missing_plan

    parser = argparse.ArgumentParser(prog="edgectl.engines.finalise.shared_plan")
    parser.add_argument("blobs", type=Path)
    parser.add_argument("manifest")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--plan", type=SharedPlan.model_validate_json)
    a = parser.parse_args(arguments)
    variant = Variant.open(a.blobs, a.manifest)
    if a.file is None:
        return {"key": missing_plan(variant, a.cache)}
    adopt_plan(variant, a.cache, a.file, a.plan)
    return {}


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
