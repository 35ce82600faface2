"""What the agent itself costs a device that has nothing to deploy: processor time and memory of the real
process, pipelines aside.

A real ``edgectl agent run`` against a real mosquitto, one stream with a worker that reports every 2 s,
telemetry every 10 s. Processor time is that of the agent's own threads; memory is its resident set and,
beside it, what only it holds (USS). Which native libraries it has mapped is read from /proc: none of an
inference runtime, of OpenCV, FFmpeg or GEOS may be among them.

    python bench/agent_idle.py --seconds 60
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until

TESTS = Path(sys.path[0])
HEAVY = ("numpy", "onnxruntime", "cv2", "opencv", "libav", "geos", "openvino", "tensorrt", "torch")
CPU_LIMIT, RSS_LIMIT_MB = 0.01, 60.0
AGENT = """
import dataclasses, sys
sys.path.insert(0, {tests!r})
import edgectl.agent.service as service
whole = service.default_dependencies
service.default_dependencies = lambda: dataclasses.replace(whole(), worker=(sys.executable, {worker!r}))
from edgectl.cli.main import main
sys.argv = ["edgectl", "agent", "run", "--config", {config!r}]
main()
"""
"""The agent as it is started on a device, but for the worker, whose pipelines are not what is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = start_mosquitto(folder, free_port())
        fleet = Fleet(folder, broker.port, free_port())
        try:
            fleet.start_controller()
            config = fleet.enroll("gate-1")
            text = (
                config.read_text()
                .replace("telemetry_s = 1.0", "telemetry_s = 10.0")
                .replace("stats_every_s = 0.1", "stats_every_s = 2.0")
            )
            config.write_text(text)
            # The first release is installed by the test's agent, whose machine fits the test's bundle.
            fleet.start_agent("gate-1")
            fleet.wait_rollout(fleet.rollout(fleet.publish(make_bundle(folder / "v1"))), "done", timeout_s=90)
            fleet.stop_agent("gate-1")
            log = (folder / "agent.log").open("wb")
            script = AGENT.format(
                tests=str(TESTS), worker=str(TESTS / "support" / "worker.py"), config=str(config)
            )
            agent = subprocess.Popen([sys.executable, "-c", script], stderr=log, stdout=log)
            try:
                seen = len(fleet.telemetry.get("gate-1", []))
                wait_until(lambda: len(fleet.telemetry.get("gate-1", [])) > seen, "the agent reports", 60)
                result = measure(psutil.Process(agent.pid), a.seconds)
                result["telemetry"] = len(fleet.telemetry["gate-1"]) - seen
            finally:
                agent.terminate()
                agent.wait(20)
        finally:
            fleet.close()
            broker.process.terminate()
            broker.process.wait(10)
    text = json.dumps(result, indent=2)
    print(text)
    if a.json:
        a.json.write_text(text + "\n")
    sys.exit(
        0
        if result["cpu_of_a_core"] <= CPU_LIMIT and result["rss_mb"] <= RSS_LIMIT_MB and not result["heavy"]
        else 1
    )


def measure(process: psutil.Process, seconds: float) -> dict[str, object]:
    before, start = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after, took = process.cpu_times(), time.monotonic() - start
    memory = process.memory_full_info()
    maps = {m.path for m in process.memory_maps()}
    return {
        "seconds": round(took, 1),
        "cpu_of_a_core": round((after.user + after.system - before.user - before.system) / took, 4),
        "rss_mb": round(memory.rss / 1e6, 1),
        "uss_mb": round(memory.uss / 1e6, 1),
        "threads": process.num_threads(),
        "heavy": sorted({h for h in HEAVY for m in maps if h in m.lower()}),
    }


if __name__ == "__main__":
    main()
