"""Build the plan of a TensorRT variant again at the best level, in a child process: the caller loads no
runtime for it.

``python -m edgectl.engines.finalise.improve BLOBS MANIFEST CACHE`` prints one JSON line ``{ok, better}``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from edgectl.core.bundle import Variant
from edgectl.device_profiles.catalogue import load_profile, profile_names
from edgectl.engines.child import answer, run_child

__all__ = ["BEST_LEVEL", "improve"]

BEST_LEVEL = 5
# golden check and timing of both plans, beside the compile itself
_CHECKS_S = 900.0
_DEFAULT_MINUTES = 20


def improve(blobs: Path, manifest: str, cache: Path) -> bool:
    """Whether there is a faster plan in the cache now; False for another runtime and for a plan that is the
    best already.

    Raises :class:`EngineError` and what else ``finalise`` raises; the plan in use is then still there.
    """
    config = Variant.open(blobs, manifest).config
    if config.runtime != "tensorrt":
        return False
    spec = load_profile(config.profile).tensorrt if config.profile in profile_names() else None
    minutes = spec.build_minutes if spec else _DEFAULT_MINUTES
    reply = run_child(
        "edgectl.engines.finalise.improve",
        [str(blobs), manifest, str(cache)],
        timeout_s=minutes * 60 + _CHECKS_S,
        what="building a better TensorRT plan",
    )
    return bool(reply["better"])


def _main(arguments: list[str]) -> dict[str, Any]:
    from edgectl.engines.finalise.finalise import finalise

    parser = argparse.ArgumentParser(prog="edgectl.engines.finalise.improve")
    parser.add_argument("blobs", type=Path)
    parser.add_argument("manifest")
    parser.add_argument("cache", type=Path)
    a = parser.parse_args(arguments)
    variant = Variant.open(a.blobs, a.manifest)
    before = finalise(variant, a.cache)
    better = before.level != BEST_LEVEL and finalise(variant, a.cache, level=BEST_LEVEL).path != before.path
    return {"better": better}


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
