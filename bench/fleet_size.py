"""Thousands of simulated devices on a real mosquitto, and the real controller: how soon all are known, how long a
rollout takes, what the controller costs when nothing happens.

    python bench/fleet_size.py --devices 5000 [--out FOLDER] [--database URL] [--period 60] [--idle 60]

A device here is a connection with a will, a retained birth and report, heartbeats and telemetry in its period; it
commits whatever is wanted of it at once. All of them live in one process, the controller in another.

``--configuration``: the release is a published configuration. Behind it comes another one that no stream takes, as a
device would find when it prepares it: it has to be stopped in the canary, and its devices have the first one again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto

from edgectl.core.bundle.config_release import ConfigRelease
from edgectl.core.errors import LinkError
from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import Conn, Failure, Frames, Reported, ReportedSlot, StreamStats, Telemetry, Topics
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.client.config_writer import write_config
from edgectl.fleet.client.publish import publish_bundle
from edgectl.fleet.store.inventory import Inventory, Release
from edgectl.fleet.store.schema import DEVICES, ROLLOUTS

T = Topics("home")
D = "sha256:" + "1" * 64
GOOD, BAD = "gate@1", "gate@2"
"""The second is a configuration that every device refuses."""
KEEPALIVE_S = 600


def _packet(kind: int, body: bytes) -> bytes:
    """MQTT 3.1.1, section 2.2: the first byte, the length in sevens, the rest."""
    length, rest = b"", len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length += bytes([digit | (128 if rest else 0)])
        if not rest:
            return bytes([kind]) + length + body


def _text(data: str | bytes) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack(">H", len(raw)) + raw


@dataclass
class Device:
    """One connection; QoS 1 in both directions."""

    name: str
    sock: socket.socket
    period_s: float
    is_config: bool = False
    """Its slot holds a configuration."""
    runs: ReportedSlot | None = None
    """What it reported last that it runs."""
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    packet_id: int = 0
    connected: bool = False
    seq: int = 0
    gen: int = 0
    next_s: float = 0.0

    def connect(self) -> None:
        will = Conn(epoch=1, online=False).encode()
        flags = 0x02 | 0x04 | 0x08 | 0x20  # clean session; a will, QoS 1, retained
        head = _text("MQTT") + bytes([4, flags]) + struct.pack(">H", KEEPALIVE_S)
        self.outgoing += _packet(0x10, head + _text(self.name) + _text(T.conn(self.name)) + _text(will))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.packet_id = self.packet_id % 65535 + 1
        self.outgoing += _packet(0x32 | retain, _text(topic) + struct.pack(">H", self.packet_id) + payload)

    def born(self) -> None:
        topic = _text(T.desired(self.name)) + b"\x01"
        self.outgoing += _packet(0x82, struct.pack(">H", 1) + topic)
        self.beat()
        self.report(None)

    def beat(self) -> None:
        conn = Conn(
            epoch=1,
            online=True,
            slots=("gate",),
            config_slots=("gate",) if self.is_config else (),
            streams={"gate": "surveillance"},
            labels={"site": f"s{hash(self.name) % 50}"},
            heartbeat_s=self.period_s,
            instance=f"{self.name}-1",
        )
        self.publish(T.conn(self.name), conn.encode(), retain=True)

    def report(self, wish: dict[str, object] | None) -> None:
        self.seq += 1
        slots = {}
        if wish is not None:
            release, digest = str(wish["release"]), str(wish["digest"])
            good = ReportedSlot(
                state=State.COMMITTED,
                gen=self.gen,
                digest=digest,
                release=release,
                active=digest,
                active_release=release,
            )
            if release == BAD:
                why = (
                    "gate does not take gate@2: classes.0: classes names 'cat', which the model does not know"
                )
                before = {} if self.runs is None else self.runs.model_dump()
                refused = {
                    **good.model_dump(),
                    "state": State.FAILED,
                    "error": Failure(code="engine", detail=why),
                }
                good = ReportedSlot(**{**refused, **{k: before.get(k) for k in ("active", "active_release")}})
            else:
                self.runs = good
            slots["gate"] = good
        reported = Reported(epoch=1, seq=self.seq, gen=self.gen, slots=slots, instance=f"{self.name}-1")
        self.publish(T.reported(self.name), reported.encode(), retain=True)

    def measured(self, histogram: Histogram) -> None:
        self.seq += 1
        stages = {s: histogram.data() for s in ("infer", "capture", "preprocess", "avail_to_event")}
        stats = StreamStats(
            kind="surveillance", slots={"gate": D}, stages=stages, frames=Frames(captured=600, processed=600)
        )
        window = Telemetry(
            epoch=1, seq=self.seq, wall_s=time.time(), window_s=self.period_s, streams={"gate": stats}
        )
        self.publish(T.telemetry(self.name), window.encode())

    def packets(self) -> Iterator[tuple[int, bytes]]:
        data = self.incoming
        while len(data) >= 2:
            length, at, shift = 0, 1, 0
            while at < len(data):
                length |= (data[at] & 127) << shift
                shift += 7
                at += 1
                if not data[at - 1] & 128:
                    break
            else:
                return
            if len(data) < at + length:
                return
            yield data[0], bytes(data[at : at + length])
            del data[: at + length]

    def hear(self, kind: int, body: bytes) -> None:
        if kind >> 4 == 2:
            self.connected = True
            self.born()
        elif kind >> 4 == 3:
            at = 2 + struct.unpack(">H", body[:2])[0]
            if kind & 0x06:
                self.outgoing += _packet(0x40, body[at : at + 2])
                at += 2
            document = json.loads(body[at:])
            desired = document.get("signed", document)
            self.gen = desired["gen"]
            self.report(desired["slots"].get("gate"))


def play(port: int, count: int, period_s: float, per_s: float, is_config: bool, told: Connection) -> None:
    """All devices, until the process is ended; says when the last one is connected."""
    chosen, devices, connected = selectors.DefaultSelector(), list[Device](), 0
    histogram = Histogram()
    for us in random.Random(0).choices(range(9_000, 60_000), k=600):
        histogram.record(float(us))
    began = time.monotonic()
    next_look = 0.0
    while True:
        now = time.monotonic()
        while len(devices) < min(count, int((now - began) * per_s) + 1):
            sock = socket.create_connection(("127.0.0.1", port), timeout=30)
            sock.setblocking(False)
            d = Device(f"d{len(devices):05d}", sock, period_s, is_config)
            d.connect()
            devices.append(d)
            chosen.register(sock, selectors.EVENT_READ, d)
            _send(d)
        for key, _ in chosen.select(0.02):
            d = key.data
            try:
                d.incoming += d.sock.recv(65536)
            except BlockingIOError:
                continue
            for kind, body in d.packets():
                was = d.connected
                d.hear(kind, body)
                if d.connected and not was:
                    connected += 1
                    d.next_s = now + random.random() * period_s
                    if connected == count:
                        told.send(time.time())
            _send(d)
        if now >= next_look:
            next_look = now + 0.1
            for d in devices:
                if d.connected and now >= d.next_s:
                    d.next_s += period_s
                    d.beat()
                    d.measured(histogram)
                if d.outgoing:
                    _send(d)


def _send(d: Device) -> None:
    with contextlib.suppress(BlockingIOError):
        del d.outgoing[: d.sock.send(d.outgoing)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--per-s", type=float, default=500.0, help="connections a second")
    parser.add_argument("--period", type=float, default=60.0, help="of heartbeats and telemetry, in seconds")
    parser.add_argument(
        "--idle", type=float, default=60.0, help="seconds over which the idle controller is measured"
    )
    parser.add_argument("--database", help="URL; default: SQLite in the state folder")
    parser.add_argument("--configuration", action="store_true", help="roll configurations out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="fleet-size-"))
    out.mkdir(parents=True, exist_ok=True)
    port, api = free_port(), free_port()
    extra = "max_connections -1\nmax_queued_messages 100000\nmax_inflight_messages 100\n"
    broker = start_mosquitto(out, port, extra=extra)
    edgectl = [sys.executable, "-m", "edgectl.cli"]
    subprocess.run([*edgectl, "keys", "init"], cwd=out, check=True, stdout=subprocess.DEVNULL)
    init = [*edgectl, "controller", "init", "--broker", f"127.0.0.1:{port}", "--port", str(api)]
    subprocess.run(init, cwd=out, check=True, stdout=subprocess.DEVNULL)
    if args.database:
        config = out / "controller.toml"
        config.write_text(f'database = "{args.database}"\n' + config.read_text())
    inventory = Inventory(out / "controller", args.database)
    if not args.configuration:
        inventory.save_release(Release(GOOD, D, (), time.time()))
    with (out / "controller.log").open("wb") as log:
        controller = subprocess.Popen(
            [*edgectl, "controller", "run", "-c", "controller.toml"], cwd=out, stderr=log
        )
    ours, theirs = multiprocessing.Pipe()
    players = multiprocessing.Process(
        target=play,
        args=(port, args.devices, args.period, args.per_s, args.configuration, theirs),
        daemon=True,
    )
    process = psutil.Process(controller.pid)
    told: dict[str, object] = {"devices": args.devices, "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    try:
        client = _client(api, out / "controller" / "token")
        players.start()
        last = ours.recv()
        told["connecting_s"] = round(args.devices / args.per_s, 1)
        cpu = sum(process.cpu_times()[:2])
        while (known := _known(inventory)) < args.devices and time.time() - last < 300:
            time.sleep(0.25)
        told |= {"known": known, "known_after_last_connect_s": round(time.time() - last, 1)}
        began, cpu = time.time(), sum(process.cpu_times()[:2])
        if args.configuration:
            for release, text in ((GOOD, b"update_s: 20\n"), (BAD, b"classes: [cat]\n")):
                _publish(client, out, release, text)
            began, cpu = time.time(), sum(process.cpu_times()[:2])
        found = _rolled(client, inventory, GOOD)
        told |= {
            "rollout": found["state"],
            "rollout_s": round(time.time() - began, 1),
            "rollout_cpu_s": round(sum(process.cpu_times()[:2]) - cpu, 1),
        }
        if args.configuration:
            began = time.time()
            found = _rolled(client, inventory, BAD)
            asked = [m for m in found["members"].values() if m.get("admitted_s") is not None]
            told |= {
                "bad": found["state"],
                "bad_s": round(time.time() - began, 1),
                "bad_asked": len(asked),
                "bad_outcomes": dict(Counter(m["outcome"] for m in asked)),
                "bad_reason": found["reason"],
            }
        began, cpu = time.time(), sum(process.cpu_times()[:2])
        time.sleep(args.idle)
        told["idle_cores"] = round((sum(process.cpu_times()[:2]) - cpu) / (time.time() - began), 3)
        told["rss_mb"] = round(process.memory_info().rss / 1e6)
    finally:
        print(json.dumps(told))
        players.kill()
        controller.terminate()
        controller.wait(30)
        broker.process.terminate()
        inventory.close()


def _client(api: int, token: Path) -> FleetClient:
    for _ in range(600):
        if token.is_file():
            client = FleetClient.of(f"http://127.0.0.1:{api}", token)
            try:
                client.rollouts()
                return client
            except LinkError:
                pass
        time.sleep(0.1)
    raise RuntimeError("the controller does not answer")


def _publish(client: FleetClient, out: Path, release: str, text: bytes) -> None:
    name, _, version = release.partition("@")
    place = out / f"{name}-{version}"
    place.mkdir()
    write_config(place, ConfigRelease(name=name, version=version, kind="surveillance"), text)
    publish_bundle(client, place, out / "keys")


def _rolled(client: FleetClient, inventory: Inventory, release: str) -> dict[str, Any]:
    """A rollout of it, when it is over."""
    rollout = client.start_rollout(release, "gate", canary=10)["id"]
    state = select(ROLLOUTS.c.state).where(ROLLOUTS.c.id == rollout)
    until = time.time() + 600
    while time.time() < until:
        if inventory._db.read(lambda db: db.execute(state).scalar_one()) not in ("running", "rolling_back"):
            break
        time.sleep(0.25)
    return client.rollout(rollout)


def _known(inventory: Inventory) -> int:
    """As another process reads it: what is counted is written."""
    known = select(func.count()).select_from(DEVICES).where(DEVICES.c.reported.is_not(None))
    return int(inventory._db.read(lambda db: db.execute(known).scalar_one()))


if __name__ == "__main__":
    main()
