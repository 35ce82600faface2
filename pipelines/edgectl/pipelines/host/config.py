"""Reads the configuration of one stream: YAML from a file, or values that somebody else has read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgectl.core.config_file import ConfigFile, parse_yaml, read_yaml
from edgectl.core.errors import ConfigError
from edgectl.core.schema import mistake_in
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig

__all__ = ["load_config", "parse_config", "read_config", "yaml_values"]


def parse_config(kind: str, values: Any, *, what: str = "the pipeline configuration") -> PipelineConfig:
    """Validate parsed YAML or JSON as the configuration of a kind of pipeline. Raises :class:`ConfigError` with the
    first wrong setting, :class:`UsageError` for a kind that is not there."""
    model = KINDS.get(kind).config
    try:
        return model.model_validate({} if values is None else values)
    except ValidationError as e:
        mistake = mistake_in(e)
        raise ConfigError(f"{what} is not valid: {mistake.text}", key=mistake.key) from e


def load_config(kind: str, path: Path) -> PipelineConfig:
    """Read a YAML file. Raises :class:`UsageError` with one sentence: the file, the line, what is wrong there."""
    return read_config(kind, path)[0]


def read_config(kind: str, path: Path) -> tuple[PipelineConfig, ConfigFile]:
    """The same, with the file, which can say where a setting stands that turns out to be wrong later."""
    file = read_yaml(path)
    return file.validate(KINDS.get(kind).config), file


def yaml_values(text: str) -> Any:
    """What a YAML text says. Raises :class:`ConfigError`."""
    return parse_yaml(text, name="the YAML").values
