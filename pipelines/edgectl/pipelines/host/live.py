"""What the live page needs to know of a stream that runs in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from edgectl.core.config_file import YamlLoader
from edgectl.pipelines.host.config import parse_config, yaml_values
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig
from edgectl.pipelines.view.editor import ShapeEditor

__all__ = ["has_pictures", "shape_editor"]


def has_pictures(kind: str) -> bool:
    """Whether a kind of pipeline has pictures."""
    return issubclass(KINDS.get(kind).config, VideoConfig)


def shape_editor(
    kind: str,
    config: PipelineConfig,
    path: Path | None = None,
    apply: Callable[[str, str], str] | None = None,
) -> ShapeEditor | None:
    """Draws zones and lines into the file that ``config`` was read from, or into ``config`` itself where there is
    none. ``apply``: see :class:`ShapeEditor`. None for a kind that has no pictures."""
    if not has_pictures(kind):
        return None
    values = config.model_dump(mode="json", exclude_unset=True)
    text = (
        yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True) if values else ""
    )
    return ShapeEditor(
        yaml_values, lambda values: parse_config(kind, values), YamlLoader, path=path, text=text, apply=apply
    )
