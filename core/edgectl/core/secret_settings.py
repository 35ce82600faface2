"""Which settings of a configuration hold credentials, or may: what a line of text alone does not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from edgectl.core.schema import Key
from edgectl.core.uri import has_credentials

__all__ = ["secret_settings"]


def secret_settings(config: BaseModel) -> Iterator[Key]:
    """Keys of the settings that are set and of which a model says that they are not to be shown (``repr=False``), and of
    those with a text that is not shown as it is written."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if not field.repr:
            empty = value in (None, "", {}, (), [])
            if name in config.model_fields_set and not empty and not _only_names_a_host(value):
                yield (name,)
        else:
            yield from _within((name,), value)


def _only_names_a_host(value: Any) -> bool:
    """``mqtt://nas:1883``: an address without a user, a path or a query has no room for a secret."""
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
        named = parts.hostname and parts.username is None and parts.password is None
    except ValueError:
        return False
    return bool(parts.scheme and named) and parts.path in ("", "/") and not (parts.query or parts.fragment)


def _within(key: Key, value: Any) -> Iterator[Key]:
    if isinstance(value, BaseModel):
        for inner in secret_settings(value):
            yield (*key, *inner)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _within((*key, str(name)), inner)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _within((*key, i), inner)
    elif isinstance(value, str) and has_credentials(value):
        yield key
