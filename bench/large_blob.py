"""One blob of more than 4 GiB, which no 32-bit number counts: a real mosquitto, the seeder in a process of
its own, a device's fetcher that is killed in the middle and goes on from its part file. Says seconds, what
was sent twice, and the memory of both.

    python bench/large_blob.py --gib 4.25
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.agent import Machine

from edgectl.agent.state.store import Store
from edgectl.agent.transfer.fetch import Fetcher
from edgectl.core.bundle import LAYER_ENGINE, Descriptor
from edgectl.core.files import file_digest
from edgectl.core.wire import Topics
from edgectl.fleet.control.blobs import BlobStore
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.link.seeder import BlobSeeder

TOPICS = Topics("home")
PIECE = 16 << 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=4.25)
    parser.add_argument("--process", choices=["seeder", "device"], help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.process:
        {"seeder": seeder, "device": device}[a.process](*a.rest)
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        blob = make_blob(BlobStore(folder / "controller"), int(a.gib * 2**30))
        broker = start_mosquitto(folder, free_port())
        arguments = [name, str(broker.port), blob.digest, str(blob.size)]
        sending = child("seeder", *arguments)
        try:
            began = time.monotonic()
            first = child("device", *arguments)
            part = folder / "device" / "parts"
            while first.poll() is None and written(part) < blob.size // 2:
                time.sleep(0.05)
            first.kill()
            first.wait()
            on_disk = written(part)
            second = child("device", *arguments)
            text, _ = second.communicate(timeout=3600)
            took = time.monotonic() - began
            assert second.returncode == 0
            assert (
                file_digest(folder / "device" / "blobs" / blob.digest.removeprefix("sha256:")) == blob.digest
            )
        finally:
            counters, _ = sending.communicate("", timeout=60)
            broker.process.terminate()
            broker.process.wait()
        sent, got = json.loads(counters), json.loads(text)
        print(
            json.dumps(
                {
                    "bytes": blob.size,
                    "seconds": round(took, 1),
                    "killed_at": on_disk,
                    "sent": sent["bytes"],
                    "sent_twice_mib": round((sent["bytes"] - blob.size) / 2**20, 1),
                    "seeder_rss_mb": sent["rss_mb"],
                    "device_rss_mb": got["rss_mb"],
                },
                indent=1,
            )
        )


def make_blob(store: BlobStore, size: int) -> Descriptor:
    draw, sha, path = random.Random(1), hashlib.sha256(), store.folder / "blob"
    with path.open("wb") as f:
        for at in range(0, size, PIECE):
            piece = draw.randbytes(min(PIECE, size - at))
            sha.update(piece)
            f.write(piece)
    digest = f"sha256:{sha.hexdigest()}"
    path.rename(store.path(digest))
    return Descriptor(mediaType=LAYER_ENGINE, digest=digest, size=size)


def written(folder: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in folder.iterdir()) if folder.is_dir() else 0


def child(process: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--process", process, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def seeder(name: str, port: str, digest: str, _size: str) -> None:
    """Until its input ends."""
    blobs = BlobSeeder(BrokerOptions("127.0.0.1", int(port)), TOPICS, BlobStore(Path(name) / "controller"))
    blobs.start()
    blobs.publish_pages(digest)
    sys.stdin.read()
    blobs.close()
    print(json.dumps({"bytes": blobs.counters.bytes, "rss_mb": peak_mb()}))


def device(name: str, port: str, digest: str, size: str) -> None:
    options = BrokerOptions("127.0.0.1", int(port))
    store = Store(Path(name) / "device", reserve=0)
    fetcher = Fetcher(
        lambda: Link(options, "dev", queue_size=32), TOPICS, "dev", time.time_ns() // 10**6, store, Machine()
    )
    blob = Descriptor(mediaType=LAYER_ENGINE, digest=digest, size=int(size))
    fetcher.fetch_blob(blob, lambda: False, lambda _: None)
    print(json.dumps({"rss_mb": peak_mb()}))


def peak_mb() -> float:
    """Of this process since it was executed; ``ru_maxrss`` remembers whom it was forked from."""
    status = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6, 1)


if __name__ == "__main__":
    main()
