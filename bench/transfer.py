"""What delivery costs: a real mosquitto, the real seeder in a process of its own, devices that run the real
fetcher, many to a process.

    python bench/transfer.py ratio --devices 32 --mb 32 --loss 0.01
    python bench/transfer.py ratio --devices 200 --mb 16 --loss 0.05 --late --cut
    python bench/transfer.py single --mb 100
    python bench/transfer.py line --mb 100            # 100 Mbit/s, 50 ms; needs root for a network namespace
    python bench/transfer.py herd --devices 200 --mb 16
    python bench/transfer.py cut --mb 100
    python bench/transfer.py corrupt --mb 32 --share 0.02

Loss is injected in the devices' links, on what they receive and on their needs. Times are of this machine,
which plays seeder, broker and all devices at once. Files lie in /dev/shm, so that no disk is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from conftest import free_port, start_mosquitto  # noqa: E402
from support.agent import Machine  # noqa: E402
from support.bundle import make_bundle  # noqa: E402

from edgectl.agent.state.store import PartialBlob, Store  # noqa: E402
from edgectl.agent.transfer.download import Download, FetchProgress  # noqa: E402
from edgectl.agent.transfer.fetch import Fetcher  # noqa: E402
from edgectl.core.bundle import CHUNK_SIZE, LAYER_ENGINE, MEDIA_INDEX, Bundle, Descriptor  # noqa: E402
from edgectl.core.files import file_digest, hex_of  # noqa: E402
from edgectl.core.transfer import Rates  # noqa: E402
from edgectl.core.wire import Topics  # noqa: E402
from edgectl.fleet.control.blobs import BlobStore  # noqa: E402
from edgectl.link.mqtt import BrokerOptions, Handle, Handler, Link  # noqa: E402
from edgectl.link.seeder import BlobSeeder  # noqa: E402

TOPICS = Topics("home")
MB = 1_000_000


# ---- processes


def seeder_process(args: argparse.Namespace) -> None:
    """Prints ``ready``; then one line of counters for every line it reads."""
    blobs = BlobStore(args.folder / "controller")
    rates = Rates(total=args.rate or None)
    seeder = BlobSeeder(BrokerOptions(args.host, args.port), TOPICS, blobs, rates=rates)
    seeder.start()
    for path in blobs.folder.iterdir():
        seeder.publish_pages(f"sha256:{path.name}")
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps({**vars(seeder.counters), "cpu_s": time.process_time()}), flush=True)
    seeder.close()


class RoughLink(Link):
    """Loses messages of the transfer, both ways, and flips bits of chunks."""

    def __init__(self, *args: Any, loss: float, flip: float, seed: int, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.loss, self.flip, self.random = loss, flip, random.Random(seed)
        self.flipped = 0

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        def rough(topic: str, payload: bytes) -> None:
            if self.loss and self.random.random() < self.loss:
                return
            if self.flip and payload[:1] == b"\x01" and self.random.random() < self.flip:
                at = self.random.randrange(16, len(payload))
                payload = (
                    payload[:at] + bytes([payload[at] ^ 1 << self.random.randrange(8)]) + payload[at + 1 :]
                )
                self.flipped += 1
            handler(topic, payload)

        super().subscribe(topic_filter, rough)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> Handle:
        if self.loss and self.random.random() < self.loss:
            return Handle()
        return super().publish(topic, payload, retain=retain, timeout_s=timeout_s)


def devices_process(args: argparse.Namespace) -> None:
    """Prints ``ready``, waits for a line, lets all devices fetch at once, prints a line of JSON for each
    that is done."""
    index = Descriptor(mediaType=MEDIA_INDEX, digest=args.digest, size=args.size)
    options = BrokerOptions(args.host, args.port)
    # a thread that waits for the interpreter asks again that often: hundreds of them, else 200 times a second
    sys.setswitchinterval(0.05)
    if args.record:
        _record_writes(args.record)
    resumed: dict[str, int] = {}
    resume = Download._resume

    def counted(self: Any, item: Any) -> None:
        resume(self, item)
        if item.blob.digest == args.engine:
            resumed[self._device] = item.receiver.have

    Download._resume = counted  # type: ignore[method-assign]

    def run(n: int) -> None:
        name = f"dev-{n}"
        links: list[RoughLink] = []
        rejected = 0

        def open_link() -> Link:
            links.append(RoughLink(options, name, queue_size=32, loss=args.loss, flip=args.flip, seed=n))
            return links[-1]

        def progress(p: FetchProgress) -> None:
            nonlocal rejected
            rejected = p.rejected

        store = Store(args.folder / name, reserve=0)
        fetcher = Fetcher(open_link, TOPICS, name, args.epoch, store, Machine())
        fetcher.fetch("m@1", index, lambda: False, progress)
        engine = store.path(args.engine)
        said = {
            "device": name,
            "at": time.monotonic(),
            "rejected": rejected,
            "flipped": sum(x.flipped for x in links),
            "resumed": resumed.get(name, 0) * CHUNK_SIZE,
            "right": file_digest(engine) == args.engine,
            "cpu_s": time.process_time(),
        }
        with lock:
            print(json.dumps(said), flush=True)

    lock = threading.Lock()
    threads = [threading.Thread(target=run, args=(n,)) for n in range(args.first, args.first + args.count)]
    print("ready", flush=True)
    sys.stdin.readline()
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def _record_writes(folder: Path) -> None:
    """Keep a list of the chunks written, and of those that no fdatasync covers yet: what a power cut
    takes."""
    folder.mkdir(exist_ok=True)
    write = PartialBlob.write
    log = (folder / "written").open("ab", buffering=0)
    open_since: list[int] = []

    def recorded(self: PartialBlob, index: int, data: bytes) -> None:
        write(self, index, data)
        log.write(index.to_bytes(4, "big"))
        open_since.append(index)
        if self._unsynced == 0:
            open_since.clear()
        (folder / "unsynced").write_bytes(b"".join(i.to_bytes(4, "big") for i in open_since))

    PartialBlob.write = recorded  # type: ignore[method-assign]


# ---- a run


@dataclass
class Run:
    folder: Path
    host: str
    port: int
    bundle: Bundle
    engine: Descriptor
    seeder: subprocess.Popen[str]
    loss: float = 0.0
    flip: float = 0.0

    def counters(self) -> dict[str, Any]:
        assert self.seeder.stdin
        assert self.seeder.stdout
        self.seeder.stdin.write("\n")
        self.seeder.stdin.flush()
        found: dict[str, Any] = json.loads(self.seeder.stdout.readline())
        return found

    def devices(
        self,
        first: int,
        count: int,
        *,
        epoch: int = 1,
        record: Path | None = None,
        prefix: tuple[str, ...] = (),
        host: str = "",
    ) -> subprocess.Popen[str]:
        arguments = [
            "_devices",
            "--first",
            first,
            "--count",
            count,
            "--epoch",
            epoch,
            "--digest",
            self.bundle.digest,
            "--size",
            len(self.bundle.index_bytes),
            "--engine",
            self.engine.digest,
            "--loss",
            self.loss,
            "--flip",
            self.flip,
        ]
        if record:
            arguments += ["--record", record]
        return _child(self.folder, host or self.host, self.port, *arguments, prefix=prefix)


def _child(
    folder: Path, host: str, port: int, *arguments: object, prefix: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    command = [
        *prefix,
        sys.executable,
        __file__,
        arguments[0],
        "--folder",
        folder,
        "--host",
        host,
        "--port",
        port,
        *arguments[1:],
    ]
    process = subprocess.Popen(
        [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(*processes: subprocess.Popen[str]) -> float:
    at = time.monotonic()
    for p in processes:
        assert p.stdin
        p.stdin.write("\n")
        p.stdin.flush()
    return at


def results(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    found = []
    for p in processes:
        assert p.stdout
        found += [json.loads(line) for line in p.stdout]
        assert p.wait() == 0
    return found


@contextlib.contextmanager
def prepared(
    mb: float, *, rate: int = 0, loss: float = 0.0, flip: float = 0.0, host: str = "127.0.0.1"
) -> Iterator[Run]:
    shm = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        bundle = Bundle(make_bundle(folder / "bundle", size=int(mb * MB)))
        (folder / "controller").mkdir()
        for path in bundle.blobs.iterdir():
            path.rename(folder / "controller" / path.name)
        (folder / "controller" / hex_of(bundle.digest)).write_bytes(bundle.index_bytes)
        extra = "" if host == "127.0.0.1" else f"listener 18830 {host}\n"
        broker = start_mosquitto(folder, free_port(), extra=extra)
        stack.callback(broker.process.wait)
        stack.callback(broker.process.terminate)
        seeder = _child(folder, "127.0.0.1", broker.port, "_seeder", "--rate", rate)
        stack.callback(seeder.wait)
        stack.callback(seeder.stdin.close)  # type: ignore[union-attr]
        (engine,) = (d for d in bundle.variants[0].descriptors() if d.mediaType == LAYER_ENGINE)
        yield Run(folder, "127.0.0.1", broker.port, bundle, engine, seeder, loss, flip)


# ---- what is measured


def ratio(args: argparse.Namespace) -> None:
    print(
        "| devices | MB | loss | besides | sent / artifact | broadcast, sums, repairs | all right | s | CPU s of the seeder |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with prepared(args.mb, loss=args.loss, rate=args.rate) as run:
        per = -(-args.devices // args.processes)
        groups = [run.devices(at, min(per, args.devices - at)) for at in range(0, args.devices, per)]
        late = run.devices(1000, 1) if args.late else None
        cut, again = (run.devices(1001, 1, epoch=n) if args.cut else None for n in (1, 2))
        began = go(*groups, *([cut] if cut else []))
        half = args.mb * MB / 2
        expected = args.devices
        while run.counters()["bytes"] < half:
            time.sleep(0.02)
        if cut:
            cut.kill()
            cut.wait()
        joining = [p for p in (again, late) if p]
        go(*joining)
        expected += len(joining)
        found = results(*groups, *joining)
        c = run.counters()
        size = sum(p.stat().st_size for p in (run.folder / "controller").iterdir())
        right = sum(r["right"] for r in found)
        besides = (
            ", ".join(w for w, on in (("a late joiner", args.late), ("a power cut", args.cut)) if on) or "–"
        )
        took = max(r["at"] for r in found) - began
        print(
            f"| {args.devices} | {args.mb:g} | {args.loss:g} | {besides} | **{c['bytes'] / size:.2f}** | {c['broadcast_chunks']}, {c['sums']}, "
            f"{c['repair_chunks']} | {right} of {expected} | {took:.1f} | {c['cpu_s']:.1f} |"
        )
        if cut:
            print(
                f"the one that was cut resumed with {[r['resumed'] for r in found if r['device'] == 'dev-1001']} bytes"
            )


def single(args: argparse.Namespace) -> None:
    print("| MB | run | s | MB/s | CPU s of the seeder, of the device |\n| --- | --- | --- | --- | --- |")
    for n in range(args.runs):
        with prepared(args.mb) as run:
            device = run.devices(0, 1)
            began = go(device)
            (r,) = results(device)
            took = r["at"] - began
            print(
                f"| {args.mb:g} | {n + 1} | **{took:.2f}** | {args.mb / took:.0f} | {run.counters()['cpu_s']:.1f}, {r['cpu_s']:.1f} |"
            )


def herd(args: argparse.Namespace) -> None:
    """One device, then all at once, over a seeder's line of ``--rate`` bytes/s: what is tested is the
    protocol, not two cores."""
    print("| devices | MB | seeder's line | s of the last | of the median |\n| --- | --- | --- | --- | --- |")
    for count in (1, args.devices):
        with prepared(args.mb, rate=args.rate) as run:
            per = -(-count // args.processes)
            groups = [run.devices(at, min(per, count - at)) for at in range(0, count, per)]
            began = go(*groups)
            took = sorted(r["at"] - began for r in results(*groups))
            print(
                f"| {count} | {args.mb:g} | {args.rate / MB:g} MB/s | **{took[-1]:.1f}** | {took[len(took) // 2]:.1f} |"
            )


def cut(args: argparse.Namespace) -> None:
    print(
        "| MB | verified before the cut | lost with what was not synced | verified data sent again |\n| --- | --- | --- | --- |"
    )
    with prepared(args.mb) as run:
        record = run.folder / "record"
        device = run.devices(0, 1, record=record)
        go(device)
        part = run.folder / "dev-0" / "parts" / hex_of(run.engine.digest)
        while not (part.is_file() and part.stat().st_blocks * 512 > args.mb * MB / 2):
            time.sleep(0.005)
        device.send_signal(signal.SIGKILL)
        device.wait()
        written = len((record / "written").read_bytes()) // 4
        unsynced = (record / "unsynced").read_bytes()
        lost = [int.from_bytes(unsynced[i : i + 4], "big") for i in range(0, len(unsynced), 4)]
        with part.open("r+b") as f:
            for index in lost:
                f.seek(index * CHUNK_SIZE)
                f.write(bytes(CHUNK_SIZE))
        device = run.devices(0, 1, epoch=2)
        go(device)
        (r,) = results(device)
        again = written * CHUNK_SIZE - r["resumed"]
        print(
            f"| {args.mb:g} | {written * CHUNK_SIZE / MB:.1f} MB | {len(lost) * CHUNK_SIZE / MB:.1f} MB | **{again / (1 << 20):.2f} MiB** |"
        )
        assert r["right"]


def corrupt(args: argparse.Namespace) -> None:
    print(
        "| MB | devices | chunks with a flipped bit | refused | not needed any more | wrong bytes stored |\n| --- | --- | --- | --- | --- | --- |"
    )
    with prepared(args.mb, flip=args.share) as run:
        group = run.devices(0, 8)
        go(group)
        found = results(group)
        flipped, refused = sum(r["flipped"] for r in found), sum(r["rejected"] for r in found)
        wrong = sum(not r["right"] for r in found)
        print(f"| {args.mb:g} | 8 | {flipped} | {refused} | {flipped - refused} | **{wrong}** |")


# ---- a line of 100 Mbit/s and 50 ms


class Relay(threading.Thread):
    """Passes TCP on, every byte ``delay_s`` later, each way: this kernel has no netem."""

    def __init__(self, listen: tuple[str, int], target: tuple[str, int], delay_s: float) -> None:
        super().__init__(name="relay", daemon=True)
        self.listen, self.target, self.delay_s = listen, target, delay_s
        self.up = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._join, *self.listen)
        self.up.set()
        async with server:
            await server.serve_forever()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self.target)
        await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
        loop = asyncio.get_running_loop()

        async def pour() -> None:
            while True:
                due, data = await held.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                writer.write(data)
                await writer.drain()
                if not data:
                    writer.close()
                    return

        task = asyncio.create_task(pour())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await held.put((loop.time() + self.delay_s, data))
        await held.put((loop.time() + self.delay_s, b""))
        with contextlib.suppress(ConnectionError):
            await task


def line(args: argparse.Namespace) -> None:
    here, there, space = "10.213.7.1", "10.213.7.2", f"ectl{os.getpid()}"

    def ip(*words: str) -> None:
        subprocess.run(words, check=True)

    ip("ip", "netns", "add", space)
    try:
        ip("ip", "link", "add", f"v{os.getpid()}", "type", "veth", "peer", "name", "line", "netns", space)
        ip("ip", "addr", "add", f"{here}/30", "dev", f"v{os.getpid()}")
        ip("ip", "link", "set", f"v{os.getpid()}", "up")
        ip("ip", "netns", "exec", space, "ip", "addr", "add", f"{there}/30", "dev", "line")
        for device in ("line", "lo"):  # paho wakes itself up through loopback
            ip("ip", "netns", "exec", space, "ip", "link", "set", device, "up")
        shape = ("root", "tbf", "rate", f"{args.mbit}mbit", "burst", "32k", "latency", "100ms")
        ip("tc", "qdisc", "add", "dev", f"v{os.getpid()}", *shape)
        ip("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", "line", *shape)
        print("| MB | line | s | line time | ratio |\n| --- | --- | --- | --- | --- |")
        for _ in range(args.runs):
            with prepared(args.mb) as run:
                relay = Relay((here, 18831), (run.host, run.port), args.rtt_ms / 2000)
                relay.start()
                relay.up.wait(5)
                run.port = 18831
                device = run.devices(0, 1, prefix=("ip", "netns", "exec", space), host=here)
                began = go(device)
                (r,) = results(device)
                took, ideal = r["at"] - began, run.engine.size * 8 / (args.mbit * 1e6)
                print(
                    f"| {args.mb:g} | {args.mbit} Mbit/s, {args.rtt_ms} ms | {took:.2f} | {ideal:.2f} | **{took / ideal:.3f}** |"
                )
                break  # the relay's port stays taken
    finally:
        ip("ip", "netns", "del", space)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sub = parser.add_subparsers(required=True)

    def command(name: str, call: Any, **defaults: Any) -> argparse.ArgumentParser:
        p = sub.add_parser(name)
        p.set_defaults(call=call)
        for key, value in defaults.items():
            flag = f"--{key.replace('_', '-')}"
            if value is False:
                p.add_argument(flag, action="store_true")
            else:
                p.add_argument(flag, type=Path if isinstance(value, Path) else type(value), default=value)
        return p

    command("ratio", ratio, devices=32, mb=32.0, loss=0.01, late=False, cut=False, processes=4, rate=0)
    command("single", single, mb=100.0, runs=3)
    command("line", line, mb=100.0, mbit=100, rtt_ms=50, runs=1)
    command("herd", herd, devices=200, mb=16.0, rate=1_000_000, processes=4)
    command("cut", cut, mb=100.0)
    command("corrupt", corrupt, mb=32.0, share=0.02)
    common: dict[str, Any] = {"folder": Path(), "host": "", "port": 0}
    command("_seeder", seeder_process, rate=0, **common)
    command(
        "_devices",
        devices_process,
        first=0,
        count=1,
        epoch=1,
        digest="",
        size=0,
        engine="",
        loss=0.0,
        flip=0.0,
        record=None or "",
        **common,
    )
    args = parser.parse_args()
    if getattr(args, "record", None):
        args.record = Path(args.record)
    args.call(args)


if __name__ == "__main__":
    main()
