"""Whether every event arrives, in order, when the way to the broker was cut for minutes.

``edgectl run --mqtt`` on a drawn yard reaches a real mosquitto through a forwarder, which is cut off hard (connections
are reset, new ones refused) for ``--down`` seconds. Who counts sits at the broker itself. What must arrive is what
``events.jsonl`` of the same run holds, less the updates of tracks, which only say where something is.

    python bench/broker_outage.py BUNDLE --down 300

BUNDLE: of the yard detector; ``edgectl demo`` leaves one in ``edgectl-demo/bundles``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.forwarder import Forwarder

from edgectl.cli.demo.devices import YARD
from edgectl.core.files import atomic_write
from edgectl.engines.timing import load_1m
from edgectl.link.mqtt import BrokerOptions, Link

BEFORE_S, AFTER_S = 20.0, 60.0


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", type=Path)
    p.add_argument("--down", type=float, default=300.0, help="seconds without a way to the broker")
    p.add_argument("--json", type=Path, help="write the figures there, too")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = outage(Path(name), a.bundle, a.down)
    text = json.dumps({**figures, "load_1m": load_1m()}, indent=2)
    print(text)
    if a.json:
        a.json.write_text(text + "\n")


def outage(folder: Path, bundle: Path, down_s: float) -> dict[str, Any]:
    """Run once; every file is in ``folder``."""
    broker = start_mosquitto(folder, free_port())
    forwarder = Forwarder(free_port(), broker.port)
    arrived: list[dict[str, Any]] = []
    counting = Link(BrokerOptions("127.0.0.1", broker.port), "who-counts")
    counting.subscribe(
        "edgectl/live/+/run/events", lambda _topic, payload: arrived.append(json.loads(payload))
    )
    counting.connect()
    try:
        forwarder.join()
        atomic_write(folder / "yard.yaml", json.dumps(YARD | {"annotate": False}).encode())
        seconds = BEFORE_S + down_s + AFTER_S
        command = [sys.executable, "-m", "edgectl.cli", "run", "surveillance", "--bundle", str(bundle)]
        command += ["--source", "synth://yard?seed=11&fps=10", "--seconds", str(seconds), "--json"]
        command += ["--config", str(folder / "yard.yaml"), "--out", str(folder / "out")]
        command += ["--mqtt", f"mqtt://127.0.0.1:{forwarder._port}"]
        with (folder / "run.log").open("wb") as log:
            run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while not arrived and run.poll() is None:
            time.sleep(0.1)
        time.sleep(BEFORE_S)
        before = len(arrived)
        forwarder.cut()
        began = time.time()
        time.sleep(down_s)
        during = len(arrived) - before
        forwarder.join()
        ended = time.time()
        code = run.wait(seconds + 120)
        if code:
            sys.exit((folder / "run.log").read_text())
        time.sleep(2.0)  # what the broker still passes on
    finally:
        counting.close()
        broker.process.terminate()
        broker.process.wait()
    return compared(folder / "out", arrived, began, ended) | {"down_s": down_s, "arrived_while_down": during}


def compared(out: Path, arrived: list[dict[str, Any]], began: float, ended: float) -> dict[str, Any]:
    told = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    matter = [e for e in told if not (e["type"] == "tracked_object" and e["phase"] == "update")]
    ids = [key(e) for e in matter]
    got = [key(e) for e in arrived if key(e) in set(ids)]
    return {
        "events": len(matter),
        "of_the_outage": sum(began <= (e["time"] or 0) <= ended for e in matter),
        "lost": len(set(ids) - set(got)),
        "twice": len(got) - len(set(got)),
        "in_order": got == ids,
        "updates_sent": sum(e["type"] == "tracked_object" and e["phase"] == "update" for e in arrived),
        "updates": len(told) - len(matter),
        "goal": "lost 0, in order",
    }


def key(event: dict[str, Any]) -> str:
    return f"{event['id']} {event['type']} {event.get('phase')} {event.get('rule')} {event['seq']}"


if __name__ == "__main__":
    main()
