"""YAML. Only ``true`` and ``false`` are booleans, and a key that stands twice is a mistake."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from edgectl.core.config_file.config_file import ConfigFile, read_bounded_text
from edgectl.core.errors import ConfigError
from edgectl.core.schema import Key

__all__ = ["YamlLoader", "parse_yaml", "read_yaml"]

_MERGE = "tag:yaml.org,2002:merge"
_MOST_MERGED = 64


class YamlLoader(yaml.SafeLoader):
    """YAML 1.1 reads ``on``, ``off``, ``yes`` and ``no`` as booleans; here they are words. Of a key that stands
    twice, PyYAML takes the last; here it is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, regex) for tag, regex in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: MappingNode) -> None:
        """Called once for each mapping, before what it merges is put into it."""
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            first = seen.setdefault((key.tag, key.value), line)
            # the very same key comes again where a mapping that was merged before is flattened anew
            if first != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value[:64]!r} stands here twice, first in line {first}", key.start_mark
                )
        super().flatten_mapping(node)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


def read_yaml(path: Path) -> ConfigFile:
    """Raises :class:`UsageError`: it cannot be read, or (:class:`ConfigError`) is no YAML."""
    return parse_yaml(read_bounded_text(path), name=str(path))


def parse_yaml(text: str, *, name: str) -> ConfigFile:
    """``name``: of the file, or what the text is. Raises :class:`ConfigError`."""
    try:
        values = yaml.load(text, YamlLoader)  # noqa: S506 -- a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as e:
        # PyYAML lets through what Python says of a date that is none, or of `!!int zz`
        mark = getattr(e, "problem_mark", None)
        said = str(e) if type(e) is ValueError else "it cannot be parsed"
        problem = getattr(e, "problem", None) or said
        where = name if mark is None else f"{name}:{mark.line + 1}"
        raise ConfigError(f"{where}: this is not valid YAML: {problem}") from e

    def line_of(key: Key) -> int | None:
        root = yaml.compose(text, YamlLoader)
        return None if root is None or not key else _line(root, key)

    return ConfigFile(name, values, line_of)


def _line(node: Node, key: Key) -> int:
    line = node.start_mark.line
    for part in key:
        if isinstance(node, MappingNode):
            # what pydantic adds to a key, such as the tag of a union, is in no file
            found = next((kv for kv in _entries(node) if _names(kv[0], part)), None)
            if found is not None:
                line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return int(line) + 1


def _entries(node: MappingNode) -> Iterator[tuple[Node, Node]]:
    """Its own first, then what it merges (``<<``)."""
    waiting = [node]
    for _ in range(_MOST_MERGED):
        if not waiting:
            return
        for key, value in waiting.pop(0).value:
            if key.tag == _MERGE:
                merged = value.value if isinstance(value, SequenceNode) else [value]
                waiting += [m for m in merged if isinstance(m, MappingNode)]
            else:
                yield key, value


def _names(key: Node, part: Hashable) -> bool:
    return isinstance(key, ScalarNode) and key.value == str(part)
