"""A pipeline worker without a pipeline: speaks the real protocol and "runs" engines as their first line
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
from edgectl.core.wire import ENGINE_STAGE, Failure, Frames, StreamStats
from edgectl.pipelines.host.protocol import (
    Commit,
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
    parse_to_worker,
)


def say(
    message: Ready | Stats | Swapped | SwapFailed | Shadowed | LeaseMessage | Fault | EventMessage,
) -> None:
    sys.stdout.buffer.write(message.encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    start = parse_to_worker(sys.stdin.buffer.readline())
    assert isinstance(start, Start)
    if start.source == "broken://":
        say(Fault(error=Failure(code="source", detail="the camera is gone", retryable=True)))
        return
    engines = dict(start.engines)
    standby: dict[str, EngineRef] = {}
    processed = errors = 0
    for ref in engines.values():
        if behaviour_of(ref.blobs, ref.manifest).get("crash"):
            os.abort()
    say(Ready(seconds=0.01))
    say(EventMessage(event={"kind": "started"}))
    if start.source == "busy://":
        say(LeaseMessage(ttl_s=60.0, reason="it drives"))
    buffer = b""
    next_stats = time.monotonic() + start.stats_every_s
    while True:
        wait = max(0.0, next_stats - time.monotonic())
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                message = parse_to_worker(line)
                if isinstance(message, Stop):
                    return
                if isinstance(message, Swap):
                    told = behaviour_of(message.engine.blobs, message.engine.manifest)
                    time.sleep(told.get("swap_s", 0.0))
                    if told.get("swap_crash"):
                        os.abort()
                    if told.get("swap", True):
                        standby[message.part] = engines[message.part]
                        engines[message.part] = message.engine
                        say(Swapped(part=message.part, manifest=message.engine.manifest, gap_ms=1.0))
                        if told.get("crash"):
                            os.abort()
                    else:
                        failure = Failure(code="engine", detail="the engine does not open")
                        say(SwapFailed(part=message.part, manifest=message.engine.manifest, error=failure))
                        if told.get("crash"):
                            os.abort()
                elif isinstance(message, ShadowMessage):
                    told = behaviour_of(message.engine.blobs, message.engine.manifest)
                    if told.get("shadow_crash"):
                        os.abort()
                    if not told.get("shadow_hang"):
                        matched = int(50 * told.get("agreement", 1.0))
                        numbers = {
                            "frames": message.frames,
                            "matched": matched,
                            "found": 100,
                            "errors": 0,
                            "old_ms": 5.0,
                            "new_ms": 5.0,
                        }
                        say(Shadowed(part=message.part, manifest=message.engine.manifest, **numbers))
                elif isinstance(message, Revert):
                    # as HotSwap.revert
                    engines[message.part] = standby.pop(message.part, engines[message.part])
                elif isinstance(message, Commit):
                    standby.pop(message.part, None)
            continue
        next_stats += start.stats_every_s
        hang = False
        stages = {}
        for part, ref in engines.items():
            told = behaviour_of(ref.blobs, ref.manifest)
            hang = hang or bool(told.get("hang"))
            h = Histogram()
            for k in range(40):
                h.record(told["latency_ms"] * 1000 * (1 + 0.001 * k))
            stages[f"{ENGINE_STAGE}:{part}"] = h.data()
            if told.get("errors"):
                errors += 10
        processed += 0 if hang else 40
        stats = StreamStats(
            kind=start.kind,
            slots={part: ref.bundle for part, ref in engines.items()},
            stages=stages,
            frames=Frames(captured=processed, processed=processed),
            errors=errors,
        )
        say(Stats(window_s=start.stats_every_s, stats=stats, rss_mb=50.0, cpu_s=0.1))


if __name__ == "__main__":
    main()
