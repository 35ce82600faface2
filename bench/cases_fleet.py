"""The fleet's rows of a page of faults: a real mosquitto, `edgectl controller run`, `edgectl agent run`,
and the commands that an operator types."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cases_common import Check, Outcome, Place

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto

from edgectl.core.wire import Conn, Topics
from edgectl.fleet.client.client import FleetClient
from edgectl.link.mqtt import BrokerOptions, Link

T = Topics("home")
BEAT_S = 4.0
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long long shift(void) { const char *t = getenv("WALL_SHIFT_S"); return t ? atoll(t) : 0; }
int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int r = real(id, ts);
    if (!r && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) ts->tv_sec += shift();
    return r;
}
int gettimeofday(struct timeval *tv, void *tz) {
    struct timespec ts;
    int r = clock_gettime(CLOCK_REALTIME, &ts);
    if (!r && tv) { tv->tv_sec = ts.tv_sec; tv->tv_usec = ts.tv_nsec / 1000; }
    return r;
}
time_t time(time_t *t) { struct timespec ts; clock_gettime(CLOCK_REALTIME, &ts); if (t) *t = ts.tv_sec; return ts.tv_sec; }
"""
"""Another date for one process, and the monotonic clock as it is. libfaketime 0.9.10 cannot do that: it
moves the monotonic clock, too, and does not know sem_clockwait, with which Python waits, so that no wait
of a faked Python ends by itself."""


class Site:
    """Broker, controller and agents in ``place.out``; everything ends with :meth:`close`."""

    def __init__(self, place: Place, *, persistent: bool = False) -> None:
        self.place = place
        self.port, self.api = free_port(), free_port()
        self._extra = (
            f"persistence true\npersistence_location {place.out}/\nautosave_interval 1\n"
            if persistent
            else ""
        )
        self.broker = start_mosquitto(place.out, self.port, extra=self._extra)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ok("keys", "init")
        self.ok("controller", "init", "--broker", f"127.0.0.1:{self.port}", "--port", self.api)

    def env(self, wall_shift_s: float | None = None) -> dict[str, str]:
        env = {"EDGECTL_CONTROLLER": f"http://127.0.0.1:{self.api}"}
        if wall_shift_s is not None:
            shim = self.place.out / "clock.so"
            if not shim.exists():
                (self.place.out / "clock.c").write_text(SHIM)
                subprocess.run(
                    ["cc", "-shared", "-fPIC", "-o", shim, self.place.out / "clock.c", "-ldl"],
                    check=True,
                    timeout=60,
                )
            env |= {"LD_PRELOAD": str(shim), "WALL_SHIFT_S": f"{wall_shift_s:.0f}"}
        return env

    def run(self, *args: object, wall_shift_s: float | None = None) -> Any:
        return self.place.edgectl(*args, env=self.env(wall_shift_s), timeout_s=120)

    def ok(self, *args: object) -> Any:
        done = self.run(*args, "--json")
        if done.code:
            raise RuntimeError(f"edgectl {' '.join(map(str, args))}: {done.last_words}")
        return done.json()

    def start(
        self, *args: object, wall_shift_s: float | None = None, log: str = "log"
    ) -> subprocess.Popen[bytes]:
        with (self.place.out / log).open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgectl.cli", *map(str, args)],
                cwd=self.place.out,
                env={**os.environ, "HOME": str(self.place.out), "NO_COLOR": "1", **self.env(wall_shift_s)},
                stdout=err,
                stderr=err,
            )
        self.processes.append(process)
        return process

    def start_controller(self) -> subprocess.Popen[bytes]:
        process = self.start("controller", "run", "-c", "controller.toml", log="controller.log")
        self.wait(lambda: self.run("fleet", "devices").code == 0, 60, "the controller answers")
        return process

    def enroll(self, name: str, *options: object, slot: str | None = None) -> Path:
        stream = ("--stream", "surveillance=synth://yard", *(("--slot", f"detector={slot}") if slot else ()))
        self.ok("device", "enroll", name, *stream, *options)
        config = self.place.out / name / "agent.toml"
        config.write_text(f"heartbeat_s = {BEAT_S}\ntelemetry_s = 1.0\nreserve_mb = 1\n" + config.read_text())
        return config

    def start_agent(self, name: str, wall_shift_s: float | None = None) -> subprocess.Popen[bytes]:
        return self.start(
            "agent", "run", "--config", f"{name}/agent.toml", wall_shift_s=wall_shift_s, log=f"{name}.log"
        )

    def device(self, name: str) -> dict[str, Any]:
        """As the API has it: a command takes a second to start."""
        with FleetClient.of(
            f"http://127.0.0.1:{self.api}", self.place.out / "controller" / "token"
        ) as client:
            return next((d for d in client.devices() if d["name"] == name), {})

    def restart_broker(self) -> None:
        self.broker.process.send_signal(signal.SIGKILL)
        self.broker.process.wait()
        self.broker = start_mosquitto(self.place.out, self.port, extra=self._extra)

    def wait(self, condition: Callable[[], Any], timeout_s: float, what: str) -> float:
        """Seconds until it is true. Raises RuntimeError."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise RuntimeError(f"not within {timeout_s:g} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - started

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.broker.process.kill()
        self.broker.process.wait()


@contextlib.contextmanager
def site_of(place: Place, *, persistent: bool = False) -> Iterator[Site]:
    site = Site(place, persistent=persistent)
    try:
        yield site
    finally:
        site.close()


def born(site: Site, *names: str) -> Link:
    """Devices that are only a birth without a promise; the connection is to be closed by the caller."""
    link = Link(BrokerOptions("127.0.0.1", site.port), "bench")
    link.connect()
    for name in names:
        link.publish(T.conn(name), Conn(epoch=1, online=True, slots=("gate",)).encode(), retain=True)
    return link


def revoked_and_broker_killed(place: Place) -> Outcome:
    """With TLS and a real list of revoked certificates: the device runs on and is not let in any more."""
    with site_of(place) as site:
        out, port = place.out, free_port()
        site.ok("broker", "ca")
        site.ok(
            "broker",
            "config",
            "mosquitto",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--ca",
            "ca",
            "--out",
            "etc",
        )
        conf = (
            (out / "etc" / "mosquitto.conf").read_text().replace("/etc/mosquitto/edgectl", str(out / "etc"))
        )
        lines = [
            line for line in conf.splitlines() if not line.startswith(("persistence_location", "listener"))
        ]
        extra = [
            f"listener {port} 127.0.0.1",
            f"persistence_location {out}/",
            f"user {os.environ.get('USER') or 'root'}",
        ]
        (out / "tls.conf").write_text("\n".join([*extra, *lines]) + "\n")
        binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") or "mosquitto"

        def start() -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [binary, "-c", str(out / "tls.conf")],
                stdout=subprocess.DEVNULL,
                stderr=(out / "broker.log").open("ab"),
            )
            site.processes.append(process)
            site.wait(lambda: _listens(port), 20, "the broker listens")
            return process

        broker = start()
        (out / "controller.toml").unlink()
        site.ok("controller", "init", "--broker", f"127.0.0.1:{port}", "--port", site.api, "--ca", "ca")
        site.start_controller()
        for name in ("gate-1", "gate-2"):
            site.enroll(name, "--ca", "ca")
            site.start_agent(name)
        site.wait(
            lambda: all(site.device(n).get("online") for n in ("gate-1", "gate-2")), 60, "both are online"
        )
        time.sleep(2)  # the broker writes what it retains
        site.ok("device", "revoke", "gate-1", "--ca", "ca", "--broker", "etc")
        broker.send_signal(signal.SIGKILL)
        broker.wait()
        start()
        took = site.wait(
            lambda: not site.device("gate-1")["online"], 10 * BEAT_S, "the revoked device is away"
        )
        there = site.device("gate-2")["online"]
        return Outcome(
            took <= 2 * BEAT_S + 1 and there,
            f"away after {took:.1f} s, heartbeat {BEAT_S:g} s; the other one online: {there}",
        )


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def leaves(place: Place) -> Outcome:
    with site_of(place) as site:
        site.start_controller()
        site.ok("device", "enroll", "gate-1")
        link = born(site, "gate-1", "gate-2")
        site.wait(lambda: site.device("gate-2").get("online"), 20, "the devices are there")
        site.ok("device", "remove", "gate-1")
        site.wait(lambda: not site.device("gate-1"), 10, "it is gone")
        link.publish(T.conn("gate-1"), Conn(epoch=2, online=True).encode())
        time.sleep(2)
        still = bool(site.device("gate-1"))
        history = [e["text"] for e in site.ok("fleet", "events", "--about", "gate-1")]
        shutil.rmtree(place.out / "gate-1")
        again = site.run("device", "enroll", "gate-1").code == 0
        link.close()
        return Outcome(
            not still and "removed" in history and again,
            f"it speaks and is not let in: {not still}; enrolled again: {again}",
        )


def bad_stream(place: Place) -> Outcome:
    with site_of(place) as site:
        site.start_controller()
        options = (
            ["--stream", "bad=rtsp://x"],
            ["--label", "x"],
            ["--stream", "speech=mic", "--slot", "a=b", "--slot", "c=d"],
            ["--profile", "No/"],
        )
        refused = [site.run("device", "enroll", "gate-1", *o) for o in options]
        left = [d["name"] for d in site.ok("fleet", "devices")] + [
            str(p.name) for p in place.out.glob("gate-1")
        ]
        good = all(r.code == 2 and not r.traceback for r in refused)
        return Outcome(good and not left, f"left: {left or 'nothing'}; {refused[0].last_words}")


def copied_disk(place: Place) -> Outcome:
    with site_of(place) as site:
        site.start_controller()
        site.enroll("gate-1")
        site.start_agent("gate-1")
        site.wait(lambda: site.device("gate-1").get("reported"), 60, "the device reports")
        true = site.device("gate-1")["conn"]["instance"]
        shutil.copytree(place.out / "gate-1", place.out / "copy")
        copy = site.start_agent("copy")
        told = site.wait(lambda: site.device("gate-1")["rivals"], 60, "both are told of")
        said = site.run("fleet", "status").out
        copy.kill()
        back = site.wait(
            lambda: not site.device("gate-1")["rivals"] and site.device("gate-1")["conn"]["instance"] == true,
            60,
            "the true one counts",
        )
        reached = site.run("device", "probe", "gate-1").code == 0
        held = "2 machines claim to be gate-1" in said and site.device("gate-1")["online"] and reached
        return Outcome(
            held,
            f"told after {told:.0f} s; when the copy went, the true one counted after {back:.0f} s and answers: {reached}",
        )


def many_states(place: Place) -> Outcome:
    """10 400 states written as the controller does; then its own pruning, with states of another year."""
    with site_of(place) as site:
        controller = site.start_controller()
        site.ok("fleet", "freeze")
        controller.send_signal(signal.SIGTERM)
        controller.wait(30)
        with contextlib.closing(sqlite3.connect(place.out / "controller" / "fleet.db")) as db, db:
            rows = [(time.time() - (40 * 86400 if i % 2 else 0), f"d{i % 1300}/gate") for i in range(10_400)]
            db.executemany(
                "INSERT INTO events (wall_s, kind, subject, text) VALUES (?, 'state', ?, 'm@1 committed')",
                rows,
            )
        site.start_controller()
        site.ok("fleet", "freeze", "--off")
        acts = [e["text"] for e in site.ok("fleet", "events", "--acts", "--last", "1000")]
        with contextlib.closing(sqlite3.connect(place.out / "controller" / "fleet.db")) as db:
            states = db.execute("SELECT count(*) FROM events WHERE kind = 'state'").fetchone()[0]
        return Outcome(
            "frozen" in acts and "released" in acts and states == 5200,
            f"{states} states of this month kept; acts: {', '.join(acts)}",
        )


def events_about(place: Place) -> Outcome:
    with site_of(place) as site:
        site.start_controller()
        site.ok("device", "enroll", "gate-1")
        with contextlib.closing(sqlite3.connect(place.out / "controller" / "fleet.db")) as db, db:
            db.executemany(
                "INSERT INTO events (wall_s, kind, subject, text) VALUES (?, 'state', 'x/gate', 'y')",
                [(time.time(),)] * 5000,
            )
        found = [e["text"] for e in site.ok("fleet", "events", "--about", "gate-1", "--since", "1h")]
        return Outcome(found == ["enrolled"], f"after 5000 events of others: {found}")


def clock_2030(place: Place) -> Outcome:
    shift = 4 * 365 * 86400.0
    with site_of(place) as site:
        operator = site.run("keys", "status", wall_shift_s=shift)
        site.start_controller()
        site.enroll("gate-1")
        site.start_agent("gate-1", wall_shift_s=shift)
        site.wait(
            lambda: (site.device("gate-1").get("reported") or {}).get("error"),
            60,
            "the device says what is wrong",
        )
        device = site.device("gate-1")["reported"]["error"]["detail"]
        said = operator.err.strip().splitlines()[0]
        held = operator.code == 8 and all(
            "clock says 2030-" in text.partition("expired")[0] for text in (said, device)
        )
        return Outcome(held, f"operator: {said} | device: {device}")


def clock_1985(place: Place) -> Outcome:
    """Probation of a release under another date. Deadlines have to run by the monotonic clock, which the
    shim leaves alone."""
    from support.bundle import make_bundle
    from support.fleet import POLICY, Fleet, wait_until

    site = Site.__new__(Site)
    site.place, site.api = place, 0
    broker = start_mosquitto(place.out, free_port())
    fleet = Fleet(place.out / "fleet", broker.port, free_port())
    shim = site.env(-41 * 365.25 * 86400.0)
    try:
        fleet.start_controller()
        fleet.enroll("gate-1")
        os.environ.update({k: v for k, v in shim.items() if k != "EDGECTL_CONTROLLER"})
        fleet.start_agent("gate-1")
        for k in ("LD_PRELOAD", "WALL_SHIFT_S"):
            os.environ.pop(k)
        release = fleet.publish(make_bundle(place.out / "v1", version="1.0.0"))
        fleet.wait_rollout(
            fleet.rollout(release, POLICY.model_copy(update={"probation_s": 3.0})), "done", timeout_s=200
        )
        events = [e for e in fleet.client.events(about="gate-1") if e["kind"] == "state"]
        at = {e["text"].split()[1]: e["wall_s"] for e in events}
        wait_until(lambda: fleet.reported["gate-1"][-1].clock == "untrusted", "the clock is called untrusted")
        took = at["committed"] - at["probation"]
        return Outcome(2.5 < took < 10, f"a probation of 3 s took {took:.1f} s; clock: untrusted")
    finally:
        fleet.close()
        broker.process.kill()
        broker.process.wait()


def deleted_by_hand(place: Place) -> Outcome:
    from support.bundle import make_bundle

    with site_of(place) as site:
        site.start_controller()
        link = born(site, "gate-1")
        site.wait(lambda: site.device("gate-1").get("online"), 20, "the device is there")
        make_bundle(place.out / "v1", version="1.0.0")
        release = site.ok("release", "publish", "v1", "--keys", "keys")["release"]
        site.ok("rollout", "start", release, "--slot", "gate")
        kept: dict[str, bytes] = {}
        for topic in (T.ctl, T.trust, T.desired("gate-1")):
            link.subscribe(topic, kept.__setitem__)
        site.wait(lambda: len(kept) == 3 and all(kept.values()), 20, "all three are retained")
        slowest = 0.0
        for payload in (b"", b"{}"):
            for topic in (T.ctl, T.trust, T.desired("gate-1")):
                link.publish(topic, payload, retain=True).wait(5)
                slowest = max(
                    slowest, site.wait(lambda topic=topic: len(kept[topic]) > 10, 20, f"{topic} is back")
                )
        told = [e["text"] for e in site.ok("fleet", "events") if e["kind"] == "broker"]
        link.close()
        return Outcome(
            slowest < 5 and len(told) == 6, f"back within {slowest:.1f} s, {len(told)} of 6 told of"
        )


def enrolled_twice(place: Place) -> Outcome:
    with site_of(place) as site:
        site.start_controller()
        site.ok("device", "enroll", "gate-1")
        second = site.run("device", "enroll", "gate-1", "--out", "other")
        again = site.run("device", "enroll", "gate-1", "--out", "other", "--again")
        return Outcome(
            second.code == 2 and again.code == 0 and (place.out / "other").is_dir(),
            f"{second.last_words}; with --again: exit {again.code}",
        )


def private_files(place: Place) -> Outcome:
    with site_of(place) as site:
        site.start_controller()
        site.enroll("gate-1")
        site.start_agent("gate-1")
        site.wait(lambda: site.device("gate-1").get("reported"), 60, "the device reports")
        secret = [
            *place.out.glob("**/*.db*"),
            *place.out.glob("**/*.mirror.json"),
            *place.out.glob("**/*.pem"),
        ]
        secret += [
            place.out / "controller.toml",
            place.out / "controller" / "token",
            place.out / "gate-1" / "agent.toml",
        ]
        secret = [p for p in secret if not p.name.endswith(".pub")]
        open_ones = {
            p.name: f"{p.stat().st_mode & 0o777:o}"
            for p in secret
            if p.stat().st_mode & 0o077 and p.parent.name != "broker"
        }
        open_ones.pop("mosquitto.db", None)  # the broker's own
        return Outcome(
            not open_ones and len(secret) > 6,
            f"{len(secret)} files, readable by others: {open_ones or 'none'}",
        )


def slow_bodies(place: Place) -> Outcome:
    with site_of(place) as site:
        site.start_controller()
        head = b"POST /v1/rollouts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: 100000\r\n\r\n{"
        clients = [socket.create_connection(("127.0.0.1", site.api), timeout=20) for _ in range(300)]
        for client in clients:
            client.sendall(head)
        meanwhile = site.run("fleet", "devices").code == 0
        started = time.monotonic()
        for client in clients:
            with contextlib.suppress(OSError):
                while client.recv(4096):
                    pass
        took = time.monotonic() - started
        time.sleep(2)
        log = (place.out / "controller.log").read_text()
        lines = [line for line in log.splitlines() if "closed HTTP connections" in line]
        held = took < 14 and meanwhile and "Traceback" not in log and 1 <= len(lines) <= 3
        return Outcome(
            held,
            f"closed after {took:.1f} s; an operator was answered meanwhile: {meanwhile}; {len(lines)} lines in the log",
        )


def presence(place: Place) -> Outcome:
    done = subprocess.run(
        [sys.executable, place.root / "bench" / "presence.py", "--json", place.out / "presence.json"],
        capture_output=True,
        timeout=300,
        check=False,
    )
    told = json.loads((place.out / "presence.json").read_text())
    figure = f"{told['gone']} of {told['devices']} known away after {told['known_after_s']} s, period {told['period_s']} s, wrong: {told['called_away_and_there']}"
    return Outcome(done.returncode == 0, figure)


CHECKS: dict[str, Check] = {
    "a device's certificate is revoked, the broker is killed and started": revoked_and_broker_killed,
    "a device leaves the fleet": leaves,
    "`device enroll x --stream bad=…`": bad_stream,
    "a device's disk is copied, two agents with one identity": copied_disk,
    "1 300 devices × 8 states": many_states,
    "`fleet events --about ROLLOUT` after half an hour": events_about,
    "clock in 2030": clock_2030,
    "retained `ctl`, `trust`, `desired` deleted by hand": deleted_by_hand,
    "`device enroll gate-1` once more into another folder": enrolled_twice,
    "`fleet.db`": private_files,
    "clock in 1985": clock_1985,
    "300 slow HTTP bodies": slow_bodies,
    "broker killed and started, 200 devices of which 20 gone": presence,
}
