"""A real agent process with a fake worker and a warm-up double: ``python agent.py agent.toml``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

# A script: the folder of the tests instead of this one, where tuf.py would hide the library.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.bundle import behaviour_of
from support.deaths import die_where_told

from edgectl.agent.config import load_agent_config
from edgectl.agent.dependencies import AgentDependencies
from edgectl.agent.service import run_agent
from edgectl.agent.streams.worker_life import Timing
from edgectl.core.memory import EngineMemory
from edgectl.device_profiles.machine import probe
from edgectl.device_profiles.memory import memory_room


@dataclass(frozen=True)
class Machine:
    facts: frozenset[str] = frozenset({"arch:test", "runtime:onnxruntime"})
    runtimes: tuple[str, ...] = ("onnxruntime",)


@dataclass(frozen=True)
class Warm:
    ok: bool
    p50_ms: float | None = None
    error: str | None = None
    code: str | None = None
    memory: EngineMemory | None = None
    golden: float | None = 0.999
    golden_least: float | None = 0.985


def warm_up(blobs: Path, manifest: str, *, runs: int, timeout_s: float, cache: Path | None) -> Warm:
    told = behaviour_of(blobs, manifest)
    if not told.get("warm", True):
        return Warm(ok=False, error="output y differs from golden")
    return Warm(ok=True, p50_ms=float(told["latency_ms"]))


def parts() -> AgentDependencies:
    worker = (sys.executable, str(Path(__file__).with_name("worker.py")))
    timing = Timing(start_s=20.0, stop_s=5.0, steady_s=0.5, backoff_s=(0.1, 0.5))
    return AgentDependencies(
        machine=Machine(),
        warm_up=warm_up,
        improve=lambda blobs, manifest, cache: False,
        worker=worker,
        timing=timing,
        memory=lambda gpu: memory_room(gpu=gpu),
        describe=lambda: probe().model_dump(mode="json"),
    )


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")
    stop = threading.Event()
    die_where_told(Path(sys.argv[1]).parent, "gate-rules")
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run_agent(load_agent_config(Path(sys.argv[1])), stop, parts())


if __name__ == "__main__":
    main()
