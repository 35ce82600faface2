"""Open an engine that its runtime may die of: first in a child process, so that a crash is an error like any other.

OpenVINO 2026.4 dies by SIGSEGV while it compiles some quantized graphs (torchvision's DenseNet). ONNX Runtime
is not tried that way: it has checked a graph before it optimises it.

    with guarded_openings():                       # one child for all of them
        engine = open_guarded(data, settings, runtime="openvino")
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EdgectlError, EngineError
from edgectl.core.files import digest_of, file_digest
from edgectl.engines.base import Engine
from edgectl.engines.child import Conversation, converse
from edgectl.engines.finalise.open import open_model

__all__ = ["guarded_openings", "open_guarded"]

_GUARDED = ("openvino",)
_TIMEOUT_S = 300.0
_MODULE = "edgectl.engines.finalise.guarded"
_KILLED = "take another runtime, or give it more memory"
"""What the kernel ends by SIGKILL took more memory than there was."""
_BROKE = "take another runtime, and report it to its makers with the model"


@dataclass(frozen=True)
class _Refused:
    """Words alone: an exception would keep the frames that it passed alive, and their models."""

    message: str
    hint: str


class _Openings:
    def __init__(self) -> None:
        self._child: Conversation | None = None
        self._known: dict[tuple[str, str, str | None], _Refused | None] = {}
        """What was opened before, and what it was refused for."""

    def check(self, model: Path | bytes, settings: SessionSettings, runtime: str) -> None:
        """Raises :class:`EngineError`."""
        digest = digest_of(model) if isinstance(model, bytes) else file_digest(model)
        key = (digest, runtime, settings.precision_hint)
        if key not in self._known:
            self._known[key] = self._tried(model, settings, runtime)
        if (why := self._known[key]) is not None:
            raise EngineError(why.message, hint=why.hint)

    def _tried(self, model: Path | bytes, settings: SessionSettings, runtime: str) -> _Refused | None:
        with contextlib.ExitStack() as stack:
            if isinstance(model, bytes):
                file = stack.enter_context(
                    tempfile.NamedTemporaryFile(prefix="edgectl-guarded-", suffix=".onnx")
                )
                file.write(model)
                file.flush()
                model = Path(file.name)
            if self._child is None:
                self._child = Conversation(_MODULE, [], what=f"opening it in {runtime}")
            try:
                self._child.ask(
                    {"model": str(model), "runtime": runtime, "settings": settings.model_dump(mode="json")},
                    timeout_s=_TIMEOUT_S,
                )
            except EngineError as e:
                killed = self._child.died_by is signal.SIGKILL
                self.close()
                return _Refused(e.message, _KILLED if killed else _BROKE)
        return None

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


_scope: ContextVar[_Openings | None] = ContextVar("openings", default=None)


@contextlib.contextmanager
def guarded_openings() -> Iterator[None]:
    """While it lasts, :func:`open_guarded` asks one and the same child, and no graph twice. The child takes memory: leave
    before anything is measured that counts it."""
    openings = _Openings()
    token = _scope.set(openings)
    try:
        yield
    finally:
        _scope.reset(token)
        openings.close()


def open_guarded(model: Path | bytes, settings: SessionSettings, *, runtime: str) -> Engine:
    """As :func:`~edgectl.engines.finalise.open.open_model`. Raises :class:`EngineError` where the runtime dies of the
    graph, too, when it opens it or at the first call."""
    if runtime in _GUARDED:
        with contextlib.ExitStack() as stack:
            if (openings := _scope.get()) is None:
                openings = _Openings()
                stack.callback(openings.close)
            openings.check(model, settings, runtime)
    return open_model(model, settings, runtime=runtime)


def _handle(question: dict[str, Any]) -> dict[str, Any]:
    """Open it and call it once with zeros. What it says against that, it says to the parent, too."""
    with contextlib.suppress(EdgectlError):
        engine = open_model(
            Path(question["model"]),
            SessionSettings.model_validate(question["settings"]),
            runtime=question["runtime"],
        )
        try:
            engine.run(
                {s.name: np.zeros([max(1, d) for d in s.shape], np.dtype(s.dtype)) for s in engine.inputs}
            )
        finally:
            engine.close()
    return {}


if __name__ == "__main__":
    sys.exit(converse(_handle))
