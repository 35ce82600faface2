"""A build that measures on devices chooses as one that measures here, and loses nothing when one of them dies.

    python bench/remote_measuring.py [--minutes 2] [--model yard-detector] [--json FILE]     # about 6 × MINUTES

Two real agents of this machine, each on a core of its own (a control group ``cpuset`` where one can be made and holds,
else ``taskset``), a real controller and a real mosquitto. A reference model is built four times: on this machine, held
to the first core; with ``--on a``; with ``--on b``; and with ``--on a,b`` while agent ``a`` and all that it has started
are killed as soon as it measures. All in turn, so that nobody is anybody's neighbour.

*Choice*: the candidate that ships first. Two builds chose *equally* if it is the same, or if either of them measured the
two choices within 5 % of each other: which of two equal ones is first is chance. *Order*: Spearman's rank correlation of the medians of all candidates that both builds measured. The
last build must end with b's figures and say so; afterwards a is started again, and nothing of the session may be left.

Where the machine was too busy to tell, the product says so itself; then the figure is marked, and the exit code is 2
where all that is wrong is the order of two choices that both are quantized and faster than float.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.fleet import Fleet, wait_until

from edgectl.cli.demo.builds import CALIBRATION
from edgectl.engines.timing import load_1m
from edgectl.models import reference

_EQUAL = 0.05
_CPUSET = Path("/sys/fs/cgroup/cpuset")
_WAIT_S = 300.0
_CHILD = "edgectl.engines.measure.job_child"


@dataclass(frozen=True)
class Built:
    """Of one build. ``medians``: candidate → ms in its last round."""

    where: str
    choice: str
    """The candidate."""
    variant: str
    standing: str | None
    ratio: float | None
    medians: dict[str, float]
    busy: tuple[str, ...]
    notes: tuple[str, ...]
    load: float
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="--minutes of each build")
    parser.add_argument("--model", default="yard-detector", choices=sorted(CALIBRATION))
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("two agents are held apart on two cores, and this process may use one", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="edgectl-remote-") as name, Pens(cores[:2]) as pens:
        folder = Path(name)
        broker = start_mosquitto(folder, free_port())
        fleet = Fleet(folder, broker.port, free_port())
        try:
            fleet.start_controller()
            for device in ("a", "b"):
                fleet.enroll(device, profile="cpu", measure={"busy_cores": 64.0, "minutes": 120.0})
            agents = {n: start(fleet, n, pen) for n, pen in zip("ab", pens.pens, strict=True)}
            builds = [
                built(fleet, a, "here", None, pens.pens[0]),
                built(fleet, a, "a", "a", pens.pens[0]),
                built(fleet, a, "b", "b", pens.pens[0]),
            ]
            with killed(agents["a"]) as all_gone:
                builds.append(built(fleet, a, "a killed, then b", "a,b", pens.pens[0]))
            left = (folder / "a" / "state" / "measure").exists()
            agents["a"] = start(fleet, "a", pens.pens[0])
            left_after = (folder / "a" / "state" / "measure").exists()
            for agent in agents.values():
                agent.terminate()
                agent.wait(30)
        finally:
            fleet.close()
            broker.process.terminate()
    wrong = show(builds, pens.how, all_gone.is_set(), left, left_after)
    if a.json:
        a.json.write_text(json.dumps([asdict(b) for b in builds], indent=1))
    return wrong


class Pens:
    """Where each of two processes is held to a core of its own: words that go before a command."""

    def __init__(self, cores: list[int]) -> None:
        self._made: list[Path] = []
        self.pens = [self._pen(c) for c in cores]
        self.how = "a cpuset each" if self._made else "taskset"

    def _pen(self, core: int) -> list[str]:
        group = _CPUSET / f"edgectl-bench-{os.getpid()}-{core}"
        plain = ["taskset", "-c", str(core)]
        try:
            group.mkdir()
        except OSError:
            return plain
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        asked = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
        try:
            (group / "cpuset.mems").write_text("0")
            (group / "cpuset.cpus").write_text(str(core))
            seen = subprocess.run([*enter, *asked], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            seen = ""
        if seen == str([core]):
            self._made.append(group)
            return enter
        # it can be made, and holds nobody
        with contextlib.suppress(OSError):
            group.rmdir()
        return plain

    def __enter__(self) -> Pens:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._made:
            with contextlib.suppress(OSError):
                group.rmdir()


def start(fleet: Fleet, name: str, pen: list[str]) -> subprocess.Popen[bytes]:
    """A real agent, once the controller has heard it."""
    seen = len(fleet.conns.get(name, []))
    words = [
        sys.executable,
        "-m",
        "edgectl.cli",
        "agent",
        "run",
        "--config",
        str(fleet.folder / name / "agent.toml"),
    ]
    with (fleet.folder / name / "log").open("ab") as log:
        agent = subprocess.Popen([*pen, *words], stdout=log, stderr=log)
    wait_until(
        lambda: any(c.online for c in fleet.conns.get(name, [])[seen:]), f"agent {name} is there", _WAIT_S
    )
    fleet.wait_online(name)
    return agent


def build_words(
    fleet: Fleet, model: str, profile: str, minutes: float, out: Path, on: str | None
) -> list[str]:
    """The command that builds a reference model, on devices of the fleet or here."""
    ours = reference(model)
    words = [sys.executable, "-m", "edgectl.cli", "build", str(ours.model), "--task", str(ours.task)]
    words += ["--profile", profile, "--calibration", CALIBRATION[model], "--minutes", str(minutes)]
    words += ["--max-drop", "0.02", "--out", str(out), "--json"]
    if on is not None:
        words += ["--on", on, "--controller", f"http://127.0.0.1:{fleet.api_port}"]
        words += ["--token-file", str(fleet.config.state_dir / "token")]
    return words


def built(fleet: Fleet, a: argparse.Namespace, where: str, on: str | None, pen: list[str]) -> Built:
    out = fleet.folder / "out" / where.replace(" ", "-")
    words = build_words(fleet, a.model, "cpu", a.minutes, out, on)
    load, began = load_1m(), time.monotonic()
    print(f"building: {where} …", file=sys.stderr, flush=True)
    done = subprocess.run([*pen, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{where}: {done.stderr.strip()[-800:]}")
    report = json.loads(done.stdout)
    ((_, outcomes),) = report["candidates"].items()
    first = report["variants"][0]["variant"]
    measured = _config(out, first)["measured"]
    choice = next(
        _name(o["candidate"])
        for o in outcomes
        if o["measured"]
        and (o["measured"]["p50_ms"], o["measured"]["n"]) == (measured["p50_ms"], measured["n"])
    )
    medians = {_name(o["candidate"]): o["measured"]["p50_ms"] for o in outcomes if o["measured"]}
    return Built(
        where,
        choice=choice,
        variant=first,
        standing=measured.get("standing"),
        ratio=measured.get("ratio_to_float"),
        medians=medians,
        busy=tuple(measured["fresh"]["busy_because"]) if measured.get("fresh") else ("not measured",),
        notes=tuple(report["notes"]),
        load=load,
        seconds=time.monotonic() - began,
    )


def _config(bundle: Path, variant: str) -> dict[str, Any]:
    from edgectl.core.bundle import Bundle

    found = next(v.config for v in Bundle(bundle).variants if v.config.variant == variant)
    return dict(json.loads(found.model_dump_json()))


def _name(candidate: dict[str, Any]) -> str:
    s = candidate["settings"]
    hint = s["precision_hint"] if s["precision_hint"] not in (None, "f32") else None
    rest = [hint] * bool(hint) + ["no-arena"] * (not s["arena"])
    return "/".join([candidate["graph"]["recipe"], candidate["runtime"], str(s["threads"]), *rest])


def measuring(pid: int, part: str = _CHILD) -> list[psutil.Process]:
    """What a process has started, directly or not, that measures for a builder: ``part`` is in its command line."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(part in word for word in child.cmdline()):
                    found.append(child)
    return found


@contextlib.contextmanager
def struck(pid: int, strike: Callable[[], object], part: str = _CHILD) -> Iterator[threading.Event]:
    """Strike once a process has another one that measures (:func:`measuring`); the event says that it came to that."""
    done, over = threading.Event(), threading.Event()

    def wait() -> None:
        while not over.wait(0.1):
            if measuring(pid, part):
                strike()
                done.set()
                return

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def killed(agent: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Kill an agent once it has a process that measures; the event says that all that it had started ended with it."""
    gone = threading.Event()

    def kill() -> None:
        children = psutil.Process(agent.pid).children(recursive=True)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        if not psutil.wait_procs(children, timeout=60)[1]:
            gone.set()

    with struck(agent.pid, kill):
        yield gone


def equal(one: Built, other: Built) -> bool:
    """Whether two builds chose the same, or what either of them measured as equal."""

    def close(b: Built) -> bool:
        ms = [b.medians.get(c) for c in (one.choice, other.choice)]
        return ms[0] is not None and ms[1] is not None and abs(ms[0] / ms[1] - 1) <= _EQUAL

    return one.choice == other.choice or close(one) or close(other)


def agreement(one: Built, other: Built) -> tuple[int, float]:
    """How many candidates both measured, and the rank correlation of their medians."""
    both = sorted(one.medians.keys() & other.medians.keys())
    ranks = [np.argsort(np.argsort([b.medians[n] for n in both])) for b in (one, other)]
    return len(both), float(np.corrcoef(*ranks)[0, 1]) if len(both) > 2 else 1.0


def show(builds: list[Built], how: str, all_gone: bool, left: bool, left_after: bool) -> int:
    here, _, b, _ = builds
    print(
        f"two agents, held apart by {how}; load before each build: {', '.join(str(x.load) for x in builds)}\n"
    )
    print("| measured on | candidates | ships first | × float | order | seconds | |")
    print("| --- | ---: | --- | ---: | ---: | ---: | --- |")
    for x in builds:
        n, rank = agreement(here, x)
        ratio = "-" if x.ratio is None else f"{x.ratio:.2f}"
        busy = "busy: " + "; ".join(x.busy) if x.busy else ""
        print(
            f"| {x.where} | {len(x.medians)} ({n} both) | {x.choice} | {ratio} | {rank:.2f} | {x.seconds:.0f} | {busy} |"
        )
    told = [n for n in builds[3].notes if "measured on" in n]
    checks = {
        "choice on a is that of here": equal(here, builds[1]),
        "choice on b is that of here": equal(here, b),
        "a was killed while it measured, with all that it had started": all_gone,
        "the build went on with b, and says so": any("measured on b" in n for n in told),
        "a has the files of the session no more once it was started again": left and not left_after,
    }
    print()
    for what, good in checks.items():
        print(f"{'yes' if good else 'NO '}  {what}")
    for note in told:
        print(f"     {note}")
    if all(checks.values()):
        return 0
    only_order = all(good for what, good in checks.items() if not what.startswith("choice"))
    faster = all(x.standing == "faster" for x in builds)
    return 2 if only_order and faster and any(x.busy for x in builds) else 1


if __name__ == "__main__":
    sys.exit(main())
