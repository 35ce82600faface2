"""The profiles that ship with edgectl, and profiles in a user's own TOML file.

Each is one TOML file; ``inherits`` names another one, whose tables are merged below it (tables merge,
everything else replaces). ``models`` and ``description`` belong to one file alone and are not inherited.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgectl.core.config_file import ConfigFile, parse_toml
from edgectl.core.errors import ConfigError, ProfileError
from edgectl.core.nearest import did_you_mean
from edgectl.device_profiles.schema import DeviceProfile

__all__ = ["load_profile", "profile_names"]

_NOT_INHERITED = ("name", "description", "inherits", "models")
_MAX_BYTES = 64 * 1024


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that ship with edgectl, sorted."""
    data = resources.files("edgectl.device_profiles") / "data"
    return tuple(sorted(f.name.removesuffix(".toml") for f in data.iterdir() if f.name.endswith(".toml")))


def load_profile(name: str) -> DeviceProfile:
    """A profile by name, or by the path of a TOML file (anything with a ``/`` or ending in ``.toml``).

    Raises :class:`ProfileError`: unknown name (with the nearest ones), cycle of ``inherits``, invalid field.
    """
    file = _read(name)
    table = _resolve(file, name, ())
    try:
        return DeviceProfile.model_validate(table)
    except ValidationError as e:
        raise ProfileError(file.error(e).message) from e


def _resolve(file: ConfigFile, name: str, below: tuple[str, ...]) -> dict[str, Any]:
    table: dict[str, Any] = file.values
    parent = table.get("inherits")
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise ProfileError(f"{file.place(('inherits',))}: inherits: it must be the name of a profile")
    if parent in (*below, name):
        raise ProfileError(f"profiles inherit in a circle: {' → '.join((*below, name, parent))}")
    base = _resolve(_read(parent), parent, (*below, name))
    return _merge({k: v for k, v in base.items() if k not in _NOT_INHERITED}, table)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read(name: str) -> ConfigFile:
    if "/" in name or name.endswith(".toml"):
        own = Path(name)
        try:
            with own.open("rb") as f:
                data = f.read(_MAX_BYTES + 1)
        except OSError as e:
            raise ProfileError(f"cannot read profile {name}: {e.strerror or e}") from e
        return _parse(name, own.stem, data)
    if name not in profile_names():
        raise ProfileError(f"there is no device profile {name!r}", hint=did_you_mean(name, profile_names()))
    file = resources.files("edgectl.device_profiles") / "data" / f"{name}.toml"
    return _parse(f"profile {name}", name, file.read_bytes())


def _parse(what: str, name: str, data: bytes) -> ConfigFile:
    """``name``: of a profile that does not say how it is called."""
    if len(data) > _MAX_BYTES:
        raise ProfileError(f"{what} has more than {_MAX_BYTES} bytes")
    try:
        file = parse_toml(data.decode(), name=what)
    except UnicodeDecodeError as e:
        raise ProfileError(f"{what} is not UTF-8 text") from e
    except ConfigError as e:
        raise ProfileError(e.message) from e
    return replace(file, values={"name": name, **file.values})
