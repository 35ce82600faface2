"""Who is away after a broker was killed, which takes the wills of its clients with it?

A real mosquitto that keeps what it retains on disk, the real controller, and simulated devices that speak as
agents do (a birth with a promised period, and that birth again within it). The broker is killed with SIGKILL;
while it is away some devices vanish without a word; it is started again. How long after that does the
controller know exactly who is away, is anybody called away who is there, and at once or later?

    python bench/presence.py --devices 200 --gone 20 --period 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import Broker, free_port, start_mosquitto
from support.fleet import Fleet, wait_until

from edgectl.core.wire import Conn, Topics

PERSISTENT = "persistence true\npersistence_location {folder}/\nautosave_interval 1\nmax_connections -1\n"


class Crowd:
    """Simulated devices. One thread serves all of their sockets; each has a connection, a will, and a beat
    of its own phase."""

    def __init__(self, topics: Topics, port: int, count: int, period_s: float) -> None:
        self._topics = topics
        self._port = port
        self._period_s = period_s
        self.names = [f"d{i:05d}" for i in range(count)]
        self._clients = {name: self._client(name) for name in self.names}
        self._next_beat = {name: time.monotonic() + random.uniform(0, period_s) for name in self.names}
        self._retry = dict.fromkeys(self.names, 0.0)
        self._attempts = dict.fromkeys(self.names, 0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="crowd", daemon=True)

    def _client(self, name: str) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{name}-{random.getrandbits(32):x}",
            protocol=paho.MQTTv311,
        )
        client.will_set(self._topics.conn(name), self._conn(name, False).encode(), qos=1, retain=True)
        client.on_connect = lambda c, *_: self._beat(c, name)
        return client

    def _conn(self, name: str, online: bool) -> Conn:
        return Conn(
            epoch=1, online=online, instance=f"i-{name}", heartbeat_s=self._period_s if online else None
        )

    def _beat(self, client: paho.Client, name: str) -> None:
        client.publish(self._topics.conn(name), self._conn(name, True).encode(), qos=1, retain=True)

    def start(self) -> None:
        self._thread.start()

    def vanish(self, names: list[str]) -> None:
        """No DISCONNECT, no word: as a machine whose plug is pulled, or whose certificate is revoked."""
        with self._lock:
            for name in names:
                client = self._clients.pop(name)
                if (sock := client.socket()) is not None:
                    sock.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for client in self._clients.values():
            client.disconnect()

    def _serve(self) -> None:
        while not self._stop.wait(0.02):
            with self._lock:
                for name, client in self._clients.items():
                    self._serve_one(name, client)

    def _serve_one(self, name: str, client: paho.Client) -> None:
        now = time.monotonic()
        if client.socket() is None:
            if now >= self._retry[name]:
                with contextlib.suppress(OSError):
                    client.connect("127.0.0.1", self._port, keepalive=30)
                    self._attempts[name] = 0
                self._attempts[name] += 1
                self._retry[name] = now + random.uniform(
                    0, min(self._period_s, 0.5 * 2 ** self._attempts[name])
                )  # as the agent's link
            return
        client.loop_read()
        client.loop_write()
        client.loop_misc()
        if client.is_connected() and now >= self._next_beat[name]:
            self._next_beat[name] = now + self._period_s
            self._beat(client, name)


def measure(folder: Path, devices: int, gone: int, period_s: float, outage_s: float) -> dict[str, object]:
    extra = PERSISTENT.format(folder=folder)
    port = free_port()
    broker: Broker = start_mosquitto(folder, port, extra=extra)
    fleet = Fleet(folder, port, free_port())
    crowd = Crowd(fleet.topics, port, devices, period_s)
    try:
        client = fleet.start_controller()

        def online() -> set[str]:
            return {d["name"] for d in client.devices() if d["online"]}

        crowd.start()
        wait_until(lambda: online() == set(crowd.names), "all devices are online", 120)
        time.sleep(2 * period_s)
        steady = online()
        broker.process.send_signal(signal.SIGKILL)
        broker.process.wait()
        lost = random.sample(crowd.names, gone)
        crowd.vanish(lost)
        time.sleep(outage_s)
        during = online()
        broker = start_mosquitto(folder, port, extra=extra)
        started = time.monotonic()
        wrong: dict[str, float] = {}
        first: dict[str, float] = {}
        known = None
        while time.monotonic() - started < 4 * period_s:
            now_online = online()
            at_s = time.monotonic() - started
            for name in set(crowd.names) - now_online:
                (first if name in lost else wrong).setdefault(name, at_s)
            if known is None and now_online == set(crowd.names) - set(lost):
                known = at_s
            time.sleep(0.1)
        return {
            "devices": devices,
            "gone": gone,
            "period_s": period_s,
            "outage_s": outage_s,
            "away_before": devices - len(steady),
            "away_during_outage": devices - len(during),
            "known_after_s": known and round(known, 2),
            "first_of_them_after_s": round(min(first.values()), 2) if first else None,
            "called_away_and_there": len(wrong),
            "allowed_s": 2 * period_s,
            "held": known is not None
            and known <= 2 * period_s
            and not wrong
            and len(steady) == len(during) == devices,
        }
    finally:
        crowd.close()
        fleet.close()
        broker.process.terminate()
        broker.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--gone", type=int, default=20)
    parser.add_argument("--period", type=float, default=10.0, help="seconds; agents promise 30")
    parser.add_argument("--outage", type=float, default=3.0, help="seconds that the broker is away")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), a.devices, a.gone, a.period, a.outage)
    print(json.dumps(result, indent=2))
    if a.json:
        a.json.write_text(json.dumps(result))
    return 0 if result["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
