"""TOML. The standard library reads it; where each setting stands is found here, in a text that it has read."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from edgectl.core.config_file.config_file import MAX_BYTES, ConfigFile, read_bounded_text
from edgectl.core.errors import ConfigError
from edgectl.core.schema import Key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["parse_toml", "read_toml"]

_LINE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)", re.DOTALL)
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)
_OTHER = re.compile(r"[^,\]}#\n]+")
"""A number, a boolean or a time."""


def read_toml(path: Path, *, hint: str | None = None, max_bytes: int = MAX_BYTES) -> ConfigFile:
    """Raises :class:`UsageError`: it cannot be read (``hint``: what to do then), or (:class:`ConfigError`) is no TOML."""
    return parse_toml(read_bounded_text(path, hint=hint, max_bytes=max_bytes), name=str(path))


def parse_toml(text: str, *, name: str) -> ConfigFile:
    """``name``: of the file. Raises :class:`ConfigError`."""
    try:
        values = tomllib.loads(text)
    # besides TOMLDecodeError: a number of 5000 digits, too deep
    except (ValueError, RecursionError) as e:
        if (told := _LINE.fullmatch(str(e))) is None:
            raise ConfigError(f"{name}: this is not TOML: {e}") from e
        line = told["line"] or len(text.rstrip().splitlines()) or 1
        raise ConfigError(f"{name}:{line}: this is not TOML: {told['what']}") from e

    def line_of(key: Key) -> int | None:
        places = _Places(text).found
        # what pydantic adds to a key, such as the tag of a union, is in no file
        known: Key = ()
        for part in key:
            if (*known, part) in places:
                known = (*known, part)
        return places.get(known)

    return ConfigFile(name, values, line_of)


class _Places:
    """Where in a valid text each setting stands: key → line."""

    def __init__(self, text: str) -> None:
        self.found: dict[Key, int] = {}
        self._text = text
        self._at = 0
        self._lists: dict[Key, int] = {}
        """``[[table]]`` → how many there were."""
        table: Key = ()
        while self._skip():
            if self._take("[["):
                table = self._table(self._key(), is_list=True)
                self._take("]]")
            elif self._take("["):
                table = self._table(self._key(), is_list=False)
                self._take("]")
            else:
                self._setting(table)

    def _skip(self) -> bool:
        """What says nothing. False at the end."""
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._at < len(self._text)

    def _take(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _note(self, key: Key) -> None:
        line = self._text.count("\n", 0, self._at) + 1
        for n in range(1, len(key) + 1):
            self.found.setdefault(key[:n], line)

    def _table(self, names: Key, *, is_list: bool) -> Key:
        key: Key = ()
        for i, name in enumerate(names):
            key = (*key, name)
            if key in self._lists and not (is_list and i == len(names) - 1):
                key = (*key, self._lists[key] - 1)
        if is_list:
            self._note(key)
            number = self._lists.get(key, 0)
            self._lists[key] = number + 1
            key = (*key, number)
        self._note(key)
        return key

    def _setting(self, table: Key) -> None:
        began = self._at
        key = (*table, *self._key())
        self._take("=")
        after, self._at = self._at, began
        self._note(key)
        self._at = after
        self._value(key)

    def _key(self) -> Key:
        parts: list[str] = []
        while self._skip():
            found = _BARE.match(self._text, self._at) or _STRING.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            is_bare = found.group()[0] not in "\"'"
            parts.append(found.group() if is_bare else _unquoted(found.group()))
            self._skip()
            if not self._take("."):
                break
        return tuple(parts)

    def _value(self, key: Key) -> None:
        self._skip()
        if self._take("["):
            number = 0
            while self._skip() and not self._take("]"):
                self._note((*key, number))
                self._value((*key, number))
                number += 1
                self._skip()
                self._take(",")
        elif self._take("{"):
            while self._skip() and not self._take("}"):
                self._setting(key)
                self._skip()
                self._take(",")
        else:
            found = _STRING.match(self._text, self._at) or _OTHER.match(self._text, self._at)
            assert found is not None
            self._at = found.end()


def _unquoted(text: str) -> str:
    values: dict[str, Any] = tomllib.loads(f"key = {text}")
    return str(values["key"])
