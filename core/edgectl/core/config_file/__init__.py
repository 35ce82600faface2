"""Configuration files as people write them, TOML and YAML: what they say, and in which line.

::

    file = read_yaml(Path("cameras.yaml"))
    config = file.validate(SurveillanceConfig)
    # ConfigError: cameras.yaml:12: rules.0.line: a line needs two different ends

Left out: which settings there are.
"""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "ConfigFile",
    "YamlLoader",
    "parse_toml",
    "parse_yaml",
    "read_bounded_text",
    "read_toml",
    "read_yaml",
    "written_at",
]

if TYPE_CHECKING:
    from edgectl.core.config_file.config_file import ConfigFile, read_bounded_text, written_at
    from edgectl.core.config_file.toml_text import parse_toml, read_toml
    from edgectl.core.config_file.yaml_text import YamlLoader, parse_yaml, read_yaml
else:
    # the agent reads TOML alone
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.core.config_file.config_file": ("ConfigFile", "read_bounded_text", "written_at"),
            "edgectl.core.config_file.toml_text": ("parse_toml", "read_toml"),
            "edgectl.core.config_file.yaml_text": ("YamlLoader", "parse_yaml", "read_yaml"),
        },
    )
