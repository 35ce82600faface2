"""The controller without a broker, over a store of either kind, with many devices: words a second, a tick, a rollout to
all, what a start costs, memory.

    python bench/fleet_store.py [--devices 100000] [--store postgresql | sqlite | URL] [--in-flight 2000]

Controller, planner, signatures and store are the real ones; the broker is a dictionary. ``postgresql`` starts a server
of its own with Debian's binaries, fsync on. Prints a JSON object for each part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.controller import DIGEST, World
from support.postgres import Postgres, binaries

from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import Conn, Frames, Reported, ReportedSlot, StreamStats, Telemetry
from edgectl.fleet.rollouts.planner import RolloutRequest
from edgectl.fleet.service import let_lasting_objects_be
from edgectl.fleet.store.inventory import Release

PER_TICK = 2000
"""Words that the controller hears between two ticks."""


@contextmanager
def told(what: str, **more: object) -> Iterator[dict[str, object]]:
    """Print what the block puts in, with the seconds that it took."""
    found: dict[str, object] = {"part": what, **more}
    began, cpu = time.perf_counter(), time.process_time()
    yield found
    found["s"] = round(time.perf_counter() - began, 3)
    found["cpu_s"] = round(time.process_time() - cpu, 3)
    found["rss_mb"] = round(psutil.Process().memory_info().rss / 1e6)
    found["peak_rss_mb"] = _peak_mb()
    print(json.dumps(found), flush=True)


def _peak_mb() -> int:
    """Of this process alone: what getrusage says, a child inherits."""
    status = Path("/proc/self/status").read_text()
    (kb,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(kb) * 1.024 / 1e3)


def name(i: int) -> str:
    return f"d{i:06d}"


def birth(i: int) -> Conn:
    return Conn(
        epoch=1,
        online=True,
        slots=("gate",),
        streams={"gate": "surveillance"},
        labels={"site": f"s{i % 500}"},
        heartbeat_s=60.0,
        instance=f"{name(i)}-1",
    )


def report(world: World, i: int, seq: int) -> None:
    """What a device says once it has what is wanted of it."""
    desired = world.controller._devices[name(i)].desired
    wish = desired.slots.get("gate")
    slots = {}
    if wish is not None:
        slots["gate"] = ReportedSlot(
            state=State.COMMITTED,
            gen=desired.gen,
            digest=wish.digest,
            release=wish.release,
            active=wish.digest,
            active_release=wish.release,
        )
    reported = Reported(epoch=1, seq=seq, gen=desired.gen, slots=slots, instance=f"{name(i)}-1")
    world.controller._devices.on_reported(name(i), reported.encode())


def ticks(world: World) -> float:
    began = time.perf_counter()
    world.tick()
    return time.perf_counter() - began


def hear_all(world: World, devices: int) -> None:
    with told("births and reports of all", devices=devices) as found:
        slowest, began = 0.0, time.perf_counter()
        for i in range(devices):
            world.controller._devices.on_conn(name(i), birth(i).encode())
            report(world, i, 1)
            if i % PER_TICK == PER_TICK - 1:
                slowest = max(slowest, ticks(world))
        slowest = max(slowest, ticks(world))
        found |= {
            "words_per_s": round(2 * devices / (time.perf_counter() - began)),
            "slowest_tick_s": round(slowest, 3),
        }


def idle(world: World) -> None:
    with told("ten ticks in which nothing happened") as found:
        found["slowest_tick_s"] = round(max(ticks(world) for _ in range(10)), 3)


def telemetry(world: World, devices: int) -> None:
    """A message of some of them, as in 60 s of 60."""
    h = Histogram()
    for us in range(9_000, 60_000, 85):
        h.record(float(us))
    stages = {s: h.data() for s in ("infer", "capture", "preprocess", "avail_to_event")}
    stats = StreamStats(kind="surveillance", slots={"gate": DIGEST["1"]}, stages=stages, frames=Frames())
    some = min(devices, 5000)
    with told("a message of telemetry each", devices=some) as found:
        for i in range(some):
            message = Telemetry(epoch=1, seq=10, wall_s=time.time(), window_s=60.0, streams={"gate": stats})
            world.controller._devices.on_telemetry(name(i), message.encode())
        found["tick_s"] = round(ticks(world), 3)


def rollout(world: World, devices: int, per_tick: int) -> None:
    """Devices commit in the tick after they were told."""
    world.controller.inventory.save_release(Release("gate@1", DIGEST["1"], (), world.now))
    request = RolloutRequest(release="gate@1", slot="gate", canary=10, in_flight=per_tick)
    with told("a rollout to all", devices=devices, in_flight=per_tick) as found:
        began, cpu = time.perf_counter(), time.process_time()
        world.controller.start_rollout(request)
        took, seq, waiting = list[float](), 2, set(range(devices))
        while world.controller.inventory.rollouts(active=True):
            took.append(ticks(world))
            for i in [i for i in waiting if world.controller._devices[name(i)].desired.gen]:
                waiting.discard(i)
                report(world, i, seq)
            seq += 1
        took.sort()
        found |= {
            "admitted_per_s": round(devices / (time.perf_counter() - began)),
            "admitted_per_cpu_s": round(devices / (time.process_time() - cpu)),
            "ticks": len(took),
            "median_tick_s": round(took[len(took) // 2], 3),
            "slowest_tick_s": round(took[-1], 3),
        }


def start_again(folder: Path, url: str | None) -> None:
    """In a process of its own, as a controller that was killed: its memory is its own."""
    store = ["--store", url] if url else ["--store", "sqlite"]
    command = [sys.executable, __file__, "--start", "--out", str(folder), *store]
    subprocess.run(command, check=True)


def start(folder: Path, url: str | None) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr("support.controller.init_keys", lambda *_, **__: None)
    with told("a start with all that is stored") as found:
        world = World(folder, patch, database=url)
        found["known"] = len(world.controller.devices())
        world.tick()
    world.controller.inventory.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument(
        "--store", default="postgresql", help="sqlite, postgresql (a server of its own), or a URL"
    )
    parser.add_argument(
        "--in-flight", type=int, default=2000, help="devices that are busy with the rollout at once"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--start", action="store_true", help="only start with what lies in --out")
    args = parser.parse_args()
    folder = args.out or Path(tempfile.mkdtemp(prefix="fleet-store-"))
    server, url = None, None if args.store == "sqlite" else args.store
    if args.store == "postgresql":
        found = binaries()
        if found is None:
            raise SystemExit("PostgreSQL is not installed (apt-get install postgresql)")
        server = Postgres(found, fsync=True)
        url = server.new_database()
    let_lasting_objects_be()
    if args.start:
        start(folder, url)
        return
    patch = pytest.MonkeyPatch()
    patch.setattr("edgectl.fleet.control.blobs.BlobStore.offered", lambda *_: [])
    print(json.dumps({"store": args.store, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}))
    world = World(folder, patch, database=url)
    world.wire.takes = 1 << 40
    world.wire.deliver = lambda _topic, _payload: None  # the controller does not hear itself
    world.wire.on_up()
    try:
        hear_all(world, args.devices)
        idle(world)
        telemetry(world, args.devices)
        rollout(world, args.devices, args.in_flight)
        idle(world)
        world.controller.inventory.close()
        start_again(folder, url)
    finally:
        world.controller.inventory.close()
        patch.undo()
        if server is not None:
            server.close()


if __name__ == "__main__":
    main()
