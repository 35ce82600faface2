"""Zones and lines of one stream, drawn on its picture and handed back as YAML: checked by the models that read the
file, and written into it when somebody says so."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from edgectl.core.errors import StorageError, UsageError
from edgectl.core.files import atomic_write
from edgectl.core.schema import Config, parse_json
from edgectl.pipelines.view.shapes import Shapes, shapes_in
from edgectl.pipelines.view.yaml_edit import EditedText, edit

__all__ = ["ShapeEditor", "ShapesRequest"]

_MAX_BYTES = 256 * 1024


class ShapesRequest(Config):
    shapes: Shapes
    base: str = Field(max_length=64)
    """Of what the page began with (:meth:`ShapeEditor.now`)."""


class ShapeEditor:
    """``parse``: what a YAML text says; ``check``: raises :class:`UsageError` for values that are no configuration of
    this stream; ``loader``: what ``parse`` reads with. ``path``: the file; None: there is none, and what is drawn can only
    be copied; ``text`` is what to begin with then."""

    def __init__(
        self,
        parse: Callable[[str], Any],
        check: Callable[[Any], object],
        loader: type[yaml.SafeLoader],
        *,
        path: Path | None = None,
        text: str = "",
        apply: Callable[[str, str], str] | None = None,
    ) -> None:
        """``apply``: hands a text, and the name of its file, to the stream that runs; it returns what came of it, and
        raises :class:`EdgectlError` for what the stream does not take."""
        self._parse = parse
        self._check = check
        self._loader = loader
        self._path = None if path is None else path.resolve()
        self._text = text
        self._apply = apply
        self._lock = threading.Lock()

    def now(self) -> dict[str, Any]:
        """The zones and lines of the file as it is, and what to say with them when they come back. Raises
        :class:`UsageError`, if it is no configuration (any more)."""
        text = self._read()
        values = self._parse(text) or {}
        self._check(values)
        return {
            "shapes": shapes_in(values).model_dump(mode="json"),
            "base": _digest(text),
            "yaml": text,
            "file": None if self._path is None else self._path.name,
        }

    def check(self, request: bytes) -> dict[str, Any]:
        """The YAML with what was drawn. Raises :class:`UsageError` for what is wrong with it."""
        r = _parsed(request)
        edited = self._edited(self._read(), r.shapes)
        return {"yaml": edited.text, "comments_kept": edited.comments_kept}

    def save(self, request: bytes) -> dict[str, Any]:
        """Hand what was drawn to the stream that runs, and write it into the file; the version before lies beside it,
        with ``.bak`` behind its name. Raises :class:`UsageError` where there is no file, where somebody changed it
        meanwhile, and for what is wrong with what was drawn, :class:`EdgectlError` where the stream does not take it, and
        nothing is written then; :class:`StorageError`."""
        r = _parsed(request)
        path = self._path
        if path is None:
            raise UsageError(
                "this stream was started without a configuration file",
                hint="download the YAML, and start with --config",
            )
        with self._lock:
            text = self._read()
            if _digest(text) != r.base:
                raise UsageError(
                    f"{path.name} was changed meanwhile, and nothing was written",
                    hint="copy your YAML, load the page again, and draw on what is there now",
                )
            edited = self._edited(text, r.shapes)
            try:
                mode = path.stat().st_mode & 0o777
            except OSError as e:
                raise StorageError(f"cannot write {path}: {e.strerror}") from e
            applied = None if self._apply is None else self._apply(edited.text, str(path))
            backup = path.with_name(f"{path.name}.bak")
            atomic_write(backup, text.encode(), mode=mode)
            atomic_write(path, edited.text.encode(), mode=mode)
        return {
            **self.now(),
            "backup": backup.name,
            "comments_kept": edited.comments_kept,
            "applied": applied,
        }

    def _edited(self, text: str, shapes: Shapes) -> EditedText:
        edited = edit(text, shapes, self._parse, self._loader)
        self._check(self._parse(edited.text) or {})
        return edited

    def _read(self) -> str:
        if self._path is None:
            return self._text
        try:
            return self._path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as e:
            raise UsageError(f"cannot read {self._path}: {e}") from e


def _parsed(request: bytes) -> ShapesRequest:
    return parse_json(ShapesRequest, request, max_bytes=_MAX_BYTES, what="what was drawn", error=UsageError)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
