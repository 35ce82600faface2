"""A configuration file that was read, and how its mistakes are told: file, line, key, what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edgectl.core.errors import ConfigError, UsageError
from edgectl.core.schema import Key, key_of, mistake_in

__all__ = ["MAX_BYTES", "ConfigFile", "read_bounded_text", "written_at"]

MAX_BYTES = 1 << 20

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class ConfigFile:
    name: str
    """As the user gave it."""
    values: Any
    """What it says: mappings, lists, numbers, texts."""
    line_of: Callable[[Key], int | None]
    """Line, from 1, of a setting; of what it stands in, where it is missing. None: of the whole file."""

    def validate(self, model: type[M]) -> M:
        """What it says as a configuration; an empty file is the default one. Raises :class:`ConfigError`."""
        try:
            return model.model_validate({} if self.values is None else self.values)
        except ValidationError as e:
            raise self.error(e) from e

    def error(self, e: ValidationError) -> ConfigError:
        """One of its mistakes. Where it lies in what another file said (``inherits``), no line is named."""
        mistake = mistake_in(e)
        return ConfigError(f"{self.place(mistake.key)}: {mistake.text}", key=mistake.key)

    def place(self, key: Key) -> str:
        """``cameras.yaml:12``."""
        line = self.line_of(key)
        return self.name if line is None else f"{self.name}:{line}"

    def locate(self, e: UsageError) -> UsageError:
        """The same error with file and line, where it was found later than the file was read (``key`` says where)."""
        if not e.key or isinstance(e, ConfigError):
            return e
        return ConfigError(f"{self.place(e.key)}: {key_of(e.key)}: {e.message}", hint=e.hint, key=e.key)


def read_bounded_text(path: Path, *, hint: str | None = None, max_bytes: int = MAX_BYTES) -> str:
    """UTF-8 text. Raises :class:`UsageError` for what cannot be read, and for more than ``max_bytes``."""
    try:
        with path.open("rb") as f:
            data = f.read(max_bytes + 1)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}", hint=hint) from e
    if len(data) > max_bytes:
        raise UsageError(f"{path} has more than {max_bytes} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: this is not UTF-8 text") from e


def written_at(values: Any, key: Key) -> Any:
    """What stands at ``key``. Raises LookupError or TypeError, where nothing does."""
    for part in key:
        values = values[part]
    return values
