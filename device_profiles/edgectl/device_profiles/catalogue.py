"""The profiles that ship with edgectl, and profiles in a user's own TOML file.

Each is one TOML file; ``inherits`` names another one, whose tables are merged below it (tables merge,
everything else replaces). ``models`` and ``description`` belong to one file alone and are not inherited.
"""

from __future__ import annotations

import difflib
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgectl.core.errors import ProfileError
from edgectl.core.schema import first_problem
from edgectl.device_profiles.schema import DeviceProfile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
    table = _resolve(name, ())
    try:
        return DeviceProfile.model_validate(table)
    except ValidationError as e:
        raise ProfileError(f"profile {name} is not valid: {first_problem(e)}") from e


def _resolve(name: str, below: tuple[str, ...]) -> dict[str, Any]:
    if name in below:
        raise ProfileError(f"profiles inherit in a circle: {' → '.join((*below, name))}")
    table = _read(name)
    parent = table.get("inherits")
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise ProfileError(f"profile {name} is not valid: inherits must be the name of a profile")
    base = _resolve(parent, (*below, name))
    return _merge({k: v for k, v in base.items() if k not in _NOT_INHERITED}, table)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _read(name: str) -> dict[str, Any]:
    if "/" in name or name.endswith(".toml"):
        own = Path(name)
        try:
            with own.open("rb") as f:
                data = f.read(_MAX_BYTES + 1)
        except OSError as e:
            raise ProfileError(f"cannot read profile {name}: {e.strerror or e}") from e
        return {"name": own.stem, **_parse(name, data)}
    if name not in profile_names():
        near = difflib.get_close_matches(name, profile_names(), n=3, cutoff=0.4)
        raise ProfileError(
            f"there is no device profile {name!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(profile_names())}",
        )
    file = resources.files("edgectl.device_profiles") / "data" / f"{name}.toml"
    return {"name": name, **_parse(name, file.read_bytes())}


def _parse(name: str, data: bytes) -> dict[str, Any]:
    if len(data) > _MAX_BYTES:
        raise ProfileError(f"profile {name} has more than {_MAX_BYTES} bytes")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as e:
        raise ProfileError(f"profile {name} is not TOML: {e}") from e
