"""A worker without pipelines: speaks the real protocol and "runs" engines as their first line
says."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

# A script: the folder of the tests instead of this one, where tuf.py would hide the library.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.bundle import behaviour_of

from edgectl.core.histogram import Histogram
from edgectl.core.schema import Message
from edgectl.core.wire import ENGINE_STAGE, Failure, Frames, StreamStats
from edgectl.pipelines.host.protocol import (
    Commit,
    Configure,
    Configured,
    ConfigureFailed,
    Ended,
    EngineRef,
    EventMessage,
    Fault,
    LeaseMessage,
    Ready,
    Revert,
    Shadowed,
    ShadowMessage,
    Start,
    Stats,
    Stop,
    Swap,
    SwapFailed,
    Swapped,
    ToWorker,
    parse_to_worker,
)


def say(message: Message) -> None:
    sys.stdout.buffer.write(message.encode() + b"\n")
    sys.stdout.buffer.flush()


class FakeStream:
    """What the real worker has in a pipeline."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.name = start.stream
        self.engines = dict(start.engines)
        self.standby: dict[str, EngineRef] = {}
        self.processed = self.errors = 0
        self.next_stats = float("inf")

    def begin(self) -> bool:
        """False if it has ended at once."""
        for ref in self.engines.values():
            if behaviour_of(ref.blobs, ref.manifest).get("crash"):
                os.abort()
        if self.start.config.get("update_s") == 8:
            os.abort()
        if self.start.source == "broken://":
            error = Failure(code="source", detail="the camera is gone", retryable=True)
            say(Fault(stream=self.name, error=error))
            say(Ended(stream=self.name))
            return False
        if self.start.source == "misconfigured://":
            error = Failure(code="config", detail="rules.0: there is no such setting")
            say(Fault(stream=self.name, error=error, key=("rules", 0)))
            say(Ended(stream=self.name))
            return False
        if self.start.source == "crash://":
            os.abort()
        if self.start.source == "slow://":
            return True  # it opens its camera for ever
        say(Ready(stream=self.name, seconds=0.01))
        say(
            EventMessage(
                stream=self.name,
                event={
                    "kind": "started",
                    "pid": os.getpid(),
                    "config": self.start.config,
                    "releases": self._releases(),
                },
            )
        )
        if self.start.source == "busy://":
            say(LeaseMessage(stream=self.name, ttl_s=60.0, reason="it drives"))
        self.next_stats = time.monotonic() + self.start.stats_every_s
        return True

    def obey(self, message: ToWorker) -> None:
        if isinstance(message, Swap):
            self._swap(message)
        elif isinstance(message, ShadowMessage):
            self._shadow(message)
        elif isinstance(message, Revert):
            # as HotSwap.revert
            self.engines[message.part] = self.standby.pop(message.part, self.engines[message.part])
        elif isinstance(message, Configure):
            self._configure(message)
        elif isinstance(message, Commit):
            self.standby.pop(message.part, None)

    def _releases(self) -> dict[str, str]:
        return {part: ref.release for part, ref in self.engines.items()}

    def _configure(self, message: Configure) -> None:
        """As ``update_s`` of the new configuration says, and the engines that come with it."""
        told, about = message.config.get("update_s"), {"stream": self.name, "number": message.number}
        behaviours = [behaviour_of(ref.blobs, ref.manifest) for ref in message.engines.values()]
        if not all(one.get("swap", True) for one in behaviours):
            error = Failure(code="engine", detail="the engine does not open")
            say(ConfigureFailed(**about, error=error))
            return
        if any(one.get("labels") for one in behaviours):
            error = Failure(code="config", detail="the new engine's labels are others")
            say(ConfigureFailed(**about, error=error, needs_start=True))
            return
        if message.check and told == 10:
            os.abort()
        elif message.check and told not in (1, 2):
            say(Configured(**about, changed=("update_s",), in_force=False))
        elif told in (8, 9):
            os.abort()
        elif told in (1, 2):
            error = Failure(
                code="config", detail="flow.mode cannot change" if told == 2 else "it is too small"
            )
            say(ConfigureFailed(**about, error=error, key=("update_s",), needs_start=told == 2))
        elif told != 3:  # of which it says nothing
            self.standby |= {part: self.engines[part] for part in message.engines}
            self.engines |= message.engines
            say(Configured(**about, changed=("update_s", *message.engines)))
            event = {"kind": "configured", "config": message.config, "releases": self._releases()}
            say(EventMessage(stream=self.name, event={**event, **message.told}))
        if told == 5:
            back = {"type": "configuration", "phase": "reverted", "detail": "rule 'x' failed"}
            say(EventMessage(stream=self.name, event=back))

    def _swap(self, message: Swap) -> None:
        told = behaviour_of(message.engine.blobs, message.engine.manifest)
        time.sleep(told.get("swap_s", 0.0))
        if told.get("swap_crash"):
            os.abort()
        about = {"stream": self.name, "part": message.part, "manifest": message.engine.manifest}
        if told.get("swap", True) and self.name not in told.get("refused_by", ()):
            self.standby[message.part] = self.engines[message.part]
            self.engines[message.part] = message.engine
            say(Swapped(**about, gap_ms=1.0))
        else:
            say(SwapFailed(**about, error=Failure(code="engine", detail="the engine does not open")))
        if told.get("crash"):
            os.abort()

    def _shadow(self, message: ShadowMessage) -> None:
        told = behaviour_of(message.engine.blobs, message.engine.manifest)
        if told.get("shadow_crash"):
            os.abort()
        if not told.get("shadow_hang"):
            numbers = {
                "frames": message.frames,
                "matched": int(50 * told.get("agreement", 1.0)),
                "found": 100,
                "errors": 0,
                "old_ms": 5.0,
                "new_ms": 5.0,
            }
            manifest = message.engine.manifest
            say(Shadowed(stream=self.name, part=message.part, manifest=manifest, **numbers))

    def say_window(self) -> None:
        self.next_stats += self.start.stats_every_s
        hang = self.start.source == "hang://"
        stages = {}
        for part, ref in self.engines.items():
            told = behaviour_of(ref.blobs, ref.manifest)
            hang = hang or bool(told.get("hang"))
            h = Histogram()
            for k in range(40):
                h.record(told["latency_ms"] * 1000 * (1 + 0.001 * k))
            stages[f"{ENGINE_STAGE}:{part}"] = h.data()
            if told.get("errors"):
                self.errors += 10
        self.processed += 0 if hang else 40
        stats = StreamStats(
            kind=self.start.kind,
            slots={part: ref.bundle for part, ref in self.engines.items()},
            stages=stages,
            frames=Frames(captured=self.processed, processed=self.processed),
            errors=self.errors,
        )
        every_s = self.start.stats_every_s
        say(Stats(stream=self.name, window_s=every_s, stats=stats, rss_mb=50.0, cpu_s=0.1))

    def end(self) -> None:
        stuck = {"hang://": ("source",), "engine-hang://": ("engine",)}.get(self.start.source, ())
        if self.start.source == "deaf://":
            return  # it says nothing any more
        say(Ended(stream=self.name, stuck=stuck))


def main() -> None:
    streams: dict[str, FakeStream] = {}
    buffer = b""
    while True:
        wait = min((s.next_stats for s in streams.values()), default=time.monotonic() + 60) - time.monotonic()
        if select.select([0], [], [], max(0.0, min(wait, 60.0)))[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                message = parse_to_worker(line)
                if isinstance(message, Start):
                    assert message.stream not in streams, "a stream is started once"
                    stream = FakeStream(message)
                    if stream.begin():
                        streams[stream.name] = stream
                elif isinstance(message, Stop):
                    if (gone := streams.pop(message.stream, None)) is not None:
                        gone.end()
                elif message.stream in streams:
                    streams[message.stream].obey(message)
            continue
        for stream in streams.values():
            if stream.next_stats <= time.monotonic():
                stream.say_window()


if __name__ == "__main__":
    main()
