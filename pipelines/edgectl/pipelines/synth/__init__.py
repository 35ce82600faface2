"""Scenes with known ground truth: ``yard`` (people and vehicles), ``road`` (a dash camera), and spoken words
for ``kiosk``.

A scene is a pure function of (name, seed, frame number): the same arguments give the same pixels and the same
truth on every machine, in any order. Nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgectl.core.errors import SourceError
from edgectl.pipelines.synth.road import RoadScene
from edgectl.pipelines.synth.scene import Scene, SceneTruth
from edgectl.pipelines.synth.yard import YardScene

__all__ = ["SCENES", "Scene", "SceneTruth", "open_scene"]

SCENES: dict[str, type[Scene]] = {"yard": YardScene, "road": RoadScene}


def open_scene(
    name: str,
    *,
    seed: int = 0,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    own: Mapping[str, Any] | None = None,
) -> Scene:
    """A scene by name. Sizes in pixels (even, 64..4096), ``fps`` 1..240; None: the scene's own. ``own``: what
    only this scene knows.

    Raises :class:`SourceError` for an unknown name, a size out of range, or an option that the scene does not
    have.
    """
    kind = SCENES.get(name)
    if kind is None:
        raise SourceError(f"there is no synthetic scene {name!r}", hint=f"scenes: {', '.join(SCENES)}")
    if unknown := set(own or {}) - kind.options:
        raise SourceError(
            f"the synthetic scene {name!r} has no {min(unknown)}", hint="leave the parameter out"
        )
    size = {"width": width or kind.default_size[0], "height": height or kind.default_size[1]}
    scene = kind(seed=seed, fps=fps or 15.0, **size, **(own or {}))
    if not (
        64 <= scene.width <= 4096
        and 64 <= scene.height <= 4096
        and scene.width % 2 == 0
        and scene.height % 2 == 0
    ):
        raise SourceError(
            f"scene size {scene.width}x{scene.height} is out of range", hint="use even sizes from 64 to 4096"
        )
    if not 1 <= scene.fps <= 240:
        raise SourceError(f"scene fps {scene.fps:g} is out of range", hint="use 1 to 240")
    return scene
