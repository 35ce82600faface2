"""What becomes of telemetry when its sender is killed, is without a network for two days, or has a clock that jumps.

    python bench/telemetry_outage.py [--kills 100] [--json]

* **Killed:** a process that writes windows into a spool and sends them to a real mosquitto is killed (SIGKILL) at random
  times, again and again, and started anew on the same spool. What arrives is counted by a real store, as the controller
  does; each window has one sample, so that a lost one and one that counts twice show.
* **Two days offline:** windows of a minute into a spool of 50 MiB, for one to four streams, and a quiet scene's events.
* **Clock:** the wall clock of a device steps by a day, forth and back, between windows: in which hour each counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto

from edgectl.core.histogram import Histogram
from edgectl.core.wire import StreamStats, Telemetry
from edgectl.fleet.config import TelemetryRetention
from edgectl.fleet.store import telemetry
from edgectl.fleet.store.inventory import Inventory
from edgectl.fleet.store.rollup import HOUR_S
from edgectl.fleet.store.totals import TotalsQuery
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.link.spool import Spool, SpoolSender

_WINDOWS = 20
"""That one life writes at most."""


def one(seq: int, epoch: int = 1, wall_s: float | None = None, **changes: Any) -> Telemetry:
    h = Histogram()
    h.record(1000.0)
    stats = StreamStats(kind="sound", stages={"infer": h.data()})
    t = Telemetry(epoch=epoch, seq=seq, wall_s=wall_s, window_s=1.0, streams={"a": stats})
    return t.model_copy(update=changes)


def live(folder: Path, port: int, epoch: int, windows: int) -> None:
    """Write and send until killed, or until all is acknowledged where ``windows`` is 0."""
    spool = Spool(folder / "spool.db")
    link = Link(BrokerOptions("127.0.0.1", port), "sender")
    sender = SpoolSender(spool, link)
    link.start()
    sender.thread.start()
    for seq in range(windows):
        spool.put("tele", "t/tele", one(seq, epoch).encode(), time.time())
        with (folder / "written").open("a") as f:
            f.write(f"{epoch} {seq}\n")
        sender.nudge()
        time.sleep(0.005)
    while windows or spool.size:
        time.sleep(0.01)
    os._exit(0)


def killed(kills: int) -> dict[str, int]:
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        broker = start_mosquitto(folder, port, extra="max_queued_messages 100000")
        came: list[bytes] = []
        listener = Link(BrokerOptions("127.0.0.1", port), "controller", queue_size=65536)
        listener.subscribe("t/tele", lambda _, payload: came.append(payload))
        listener.start()
        while not listener.is_up:
            time.sleep(0.05)
        for epoch in range(1, kills + 2):
            last = epoch == kills + 1
            child = os.fork()
            if child == 0:
                live(folder, port, epoch, 0 if last else _WINDOWS)
            if not last:
                time.sleep(chance.uniform(0.03, 0.4))
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        time.sleep(1.0)
        listener.close()
        broker.process.kill()
        broker.process.wait()
        with closing(Inventory(folder / "store")) as inventory:
            for payload in came:
                inventory.note_telemetry("d0", Telemetry.model_validate_json(payload))
            while inventory.count_telemetry() is not None:
                pass
            counted = sum(t.histogram.n for x in inventory.totals(TotalsQuery(), 9).values() for t in x)
        written = set((folder / "written").read_text().splitlines())
        arrived = [Telemetry.model_validate_json(p) for p in came]
        distinct = {f"{t.epoch} {t.seq}" for t in arrived}
        return {
            "kills": kills,
            "written": len(written),
            "lost": len(written - distinct),
            "sent twice": len(arrived) - len(distinct),
            "counted more than once": counted - len(distinct),
        }


def offline(streams: int) -> dict[str, float]:
    spec = importlib.util.spec_from_file_location("telemetry_bench", Path(__file__).with_name("telemetry.py"))
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rng = np.random.default_rng(0)
    first: Telemetry = bench.window(1, rng)
    stats = first.streams["yard"]
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool.db")
        began_s = time.time() - 48 * HOUR_S
        payload = first.model_copy(update={"streams": {f"yard-{i}": stats for i in range(streams)}}).encode()
        minutes = 48 * 60
        for minute in range(minutes):
            spool.put("tele", "t/tele", payload, began_s + 60 * minute + 59)
            if minute % 60 == 0:  # a quiet scene: one event an hour and stream, 1.5 KB
                for _ in range(streams):
                    spool.put("event", "t/ev", b"x" * 1500, began_s + 60 * minute + 59)
        kept = spool.oldest(100_000)
        size = sum(f.stat().st_size for f in Path(folder).iterdir())
        spool.close()
    return {
        "windows kept, of 2880": sum(r.kind == "tele" for r in kept),
        "events kept": sum(r.kind == "event" for r in kept),
        "dropped and counted": spool.dropped,
        "files, MiB": round(size / 2**20, 1),
    }


def clock() -> dict[str, Any]:
    """Windows of ten hours; the device's clock is a day ahead in the third hour, a day behind in the sixth."""
    now = time.time() // 86400 * 86400 + 2 * HOUR_S
    with tempfile.TemporaryDirectory() as folder, closing(Inventory(Path(folder))) as inventory:
        for hour in range(10):
            at_s = now + hour * HOUR_S
            off_s = {3: 86400.0, 6: -86400.0}.get(hour, 0.0)
            for minute in range(60):
                t = one(60 * hour + minute, wall_s=at_s + 60 * minute + off_s)
                inventory._said.note_telemetry(
                    telemetry.message("d0", t, at_s + 60 * minute, TelemetryRetention())
                )
        while inventory.count_telemetry() is not None:
            pass
        (spans,) = inventory.totals(TotalsQuery(), 9).values()
        right = sum(t.histogram.n for t in spans if now <= t.start_s < now + 10 * HOUR_S)
        wrong_clock = sum(t.histogram.n for t in spans if t.clock == "arrival")
        return {"windows": 600, "in their hour": right, "told as by arrival": wrong_clock}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {
        "killed": killed(args.kills),
        **{f"48 h offline, {n} streams": offline(n) for n in (1, 2, 4)},
        "clock": clock(),
    }
    print(json.dumps(found, indent=2) if args.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
