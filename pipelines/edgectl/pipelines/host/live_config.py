"""Configuration files of streams that run: read again, and applied between two frames."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from edgectl.core.config_file import parse_yaml, read_bounded_text
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.base import Pipeline
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.kinds.config_change import Reconfigured
from edgectl.pipelines.kinds.difference import NewStartNeeded

__all__ = ["LiveConfig", "digest_of_text"]


class LiveConfig:
    """Of one stream. Usable from any thread."""

    def __init__(
        self, kind: str, path: Path | None, adjust: Callable[[PipelineConfig], PipelineConfig] = lambda c: c
    ) -> None:
        """``adjust``: what else the stream was started with, such as ``--mqtt``."""
        self._kind = kind
        self._path = path
        self._adjust = adjust
        self._pipeline: Pipeline | None = None
        self._lock = threading.Lock()

    def runs(self, pipeline: Pipeline) -> None:
        """From now on there is something to apply it to."""
        self._pipeline = pipeline

    def read(self) -> PipelineConfig:
        """What the file says now. Raises :class:`EdgectlError`."""
        if self._path is None:
            raise UsageError("it was started without a configuration file", hint="start it with --config")
        file = parse_yaml(read_bounded_text(self._path), name=str(self._path))
        return self._adjust(file.validate(KINDS.get(self._kind).config))

    def reload(self) -> str:
        """Read the file again and apply it. Returns what came of it, in one sentence; raises :class:`EdgectlError` with
        what is wrong, and nothing has changed then."""
        if self._path is None:
            raise UsageError("it was started without a configuration file", hint="start it with --config")
        # of two that are asked at once the later one has read the later text
        with self._lock:
            return self._apply(read_bounded_text(self._path), str(self._path))

    def apply(self, text: str, name: str) -> str:
        """``name``: of the file that says ``text``."""
        with self._lock:
            return self._apply(text, name)

    def _apply(self, text: str, name: str) -> str:
        file = parse_yaml(text, name=name)
        config = self._adjust(file.validate(KINDS.get(self._kind).config))
        told = {"name": Path(name).name, "digest": digest_of_text(text)}
        if self._pipeline is None:
            raise NewStartNeeded("the stream does not run yet")
        try:
            return _said(self._pipeline.configure(config, told))
        except UsageError as e:
            raise file.locate(e) if not isinstance(e, NewStartNeeded) else e from e

    def draw(self, text: str, name: str) -> str:
        """The same for what was drawn on the live page, which is written down after it: where it can only hold from the
        next start on, that is what came of it."""
        try:
            return self.apply(text, name)
        except NewStartNeeded as e:
            return f"It holds from the next start on: {e.message}."
        except EdgectlError as e:
            if e.code != "engine":
                raise
            return f"It holds from the next start on: {e.message}."


def digest_of_text(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _said(done: Reconfigured) -> str:
    if not done.changed:
        return "nothing has changed"
    some = ", ".join(done.changed[:8]) + (" …" if len(done.changed) > 8 else "")
    return f"{some}: in force" if done.in_force else f"{some}: in force from the camera's next frame on"
