"""A real worker process, talked to as an agent does: lines in, lines out."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar

from support.pipelines import box_task, make_variant, model_bytes

from edgectl.core.bundle import Variant
from edgectl.core.schema import Message
from edgectl.pipelines.host.protocol import Ended, EngineRef, Start, Stop, parse_from_worker

__all__ = ["Process", "ref", "start"]

M = TypeVar("M", bound=Message)


class Process:
    """A worker, its answers in a queue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = (folder / "worker.log").open("wb")
        self.p = subprocess.Popen(
            [sys.executable, "-m", "edgectl.pipelines.host.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self.answers: Queue[Message | None] = Queue()
        self.seen: list[Message] = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.p.stdout is not None
        for line in self.p.stdout:
            self.answers.put(parse_from_worker(line))
        self.answers.put(None)

    def say(self, message: Message | bytes) -> None:
        assert self.p.stdin is not None
        data = message if isinstance(message, bytes) else message.encode() + b"\n"
        self.p.stdin.write(data)
        self.p.stdin.flush()

    def heard(self, kind: type[M], where: Callable[[M], bool]) -> M:
        """One that came before, or comes: what a stream's own thread says stands in no order with the answers."""
        found = next((m for m in self.seen if isinstance(m, kind) and where(m)), None)
        return found or self.hear(kind, where)

    def hear(self, kind: type[M], where: Callable[[M], bool] = lambda m: True, timeout_s: float = 60) -> M:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer = self.answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise AssertionError(
                    f"no {kind.__name__}; {(self.folder / 'worker.log').read_text()}"
                ) from None
            assert answer is not None, (
                f"ended without {kind.__name__}; {(self.folder / 'worker.log').read_text()}"
            )
            self.seen.append(answer)
            if isinstance(answer, kind) and where(answer):
                return answer

    def stop(self, stream: str = "gate") -> None:
        """The stream, and then the worker."""
        self.say(Stop(stream=stream, within_s=20))
        assert not self.hear(Ended, lambda m: m.stream == stream).stuck
        self.hang_up()

    def hang_up(self) -> None:
        assert self.p.stdin is not None
        self.p.stdin.close()

    def end(self, timeout_s: float = 30) -> int:
        code = self.p.wait(timeout_s)
        self.thread.join(10)
        while (answer := self.answers.get(timeout=5)) is not None:
            self.seen.append(answer)
        return code

    def close(self) -> None:
        self.p.kill()
        self.p.wait(10)
        for stream in (self.p.stdin, self.p.stdout, self.log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def ref(variant: Variant, release: str = "yard@1") -> EngineRef:
    return EngineRef(
        blobs=variant.blobs, manifest=variant.digest, release=release, bundle="sha256:" + "1" * 64
    )


def start(tmp_path: Path, source: str = "synth://yard?fps=30&width=160&height=96", **more: Any) -> Start:
    variant = make_variant(tmp_path / "blobs", box_task(), model_bytes())
    values = {
        "stream": "gate",
        "kind": "surveillance",
        "source": source,
        "engines": {"detector": ref(variant)},
        "stats_every_s": 0.3,
    }
    return Start.model_validate({**values, **more})
