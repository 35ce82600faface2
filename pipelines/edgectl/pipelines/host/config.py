"""Reads the configuration of one stream: YAML from a file, or values that somebody else has read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edgectl.core.errors import UsageError
from edgectl.core.schema import first_problem
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig

__all__ = ["YamlLoader", "load_config", "parse_config", "parse_yaml"]

_MAX_BYTES = 1 << 20


def parse_config(kind: str, values: Any, *, what: str = "the pipeline configuration") -> PipelineConfig:
    """Validate parsed YAML or JSON as the configuration of a kind of pipeline. Raises :class:`UsageError` with the
    first wrong field."""
    model = KINDS.get(kind).config
    try:
        return model.model_validate({} if values is None else values)
    except ValidationError as e:
        raise UsageError(f"{what} is not valid: {first_problem(e)}") from e


class YamlLoader(yaml.SafeLoader):
    """YAML 1.1 reads ``on``, ``off``, ``yes`` and ``no`` as booleans; here they are words, and only true
    and false are booleans."""

    yaml_implicit_resolvers = {
        first: [(tag, regex) for tag, regex in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


def load_config(kind: str, path: Path) -> PipelineConfig:
    """Read a YAML file. Raises :class:`UsageError` with one sentence on what is wrong and where."""
    try:
        with path.open("rb") as f:
            data = f.read(_MAX_BYTES + 1)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}") from e
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} has more than {_MAX_BYTES} bytes")
    return parse_config(kind, parse_yaml(data, what=str(path)), what=str(path))


def parse_yaml(text: str | bytes, *, what: str = "the pipeline configuration") -> Any:
    """What a YAML text says. Raises :class:`UsageError`."""
    try:
        return yaml.load(text, YamlLoader)  # noqa: S506 -- a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as e:
        # PyYAML lets through what Python says of a date that is none, or of `!!int zz`
        mark = getattr(e, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        said = str(e) if type(e) is ValueError else "it cannot be parsed"
        problem = getattr(e, "problem", None) or said
        raise UsageError(f"{what} is not valid YAML{where}: {problem}") from e
