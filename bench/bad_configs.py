"""Twenty seeded bad configurations, rolled out to real agents with real workers: is each stopped in the canary and taken
back?

A mosquitto, a controller and two devices with a drawn yard. A good configuration with eight lines serves first. Then come,
five of each, one after another: a *class* that the model does not have, a rule that *storms* (an event a frame), rules that
have gone *silent* (lines where nobody walks), a rule of another package that *crashes* the worker. Each must stop in the canary, the canary has to
have what it had, and the other device must never be asked. At the end the good one under a new version must pass.

    python bench/bad_configs.py BUNDLE [--of 5]

BUNDLE: of the yard detector; ``edgectl demo`` leaves one in ``edgectl-demo/bundles``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.fleet import wait_until

from edgectl.core.errors import LinkError
from edgectl.engines.timing import load_1m
from edgectl.fleet.client.client import FleetClient

SLOT = "gate-rules"
PROBATION_S = 60.0
BEFORE_S = 90.0
"""Of the good configuration, before the first bad one: there has to be something to compare with."""
PACKAGE = """
import os
from pydantic import Field
from edgectl.core.schema import Config
from edgectl.pipelines import Event, RuleConfig, RuleType


class OddConfig(RuleConfig):
    class Odd(Config):
        after_s: float = Field(ge=0)
        crash: bool = False

    odd: Odd


class Odd:
    def __init__(self, config):
        self._config, self._first = config, None

    def step(self, now):
        self._first = now.t if self._first is None else self._first
        if now.t - self._first < self._config.odd.after_s:
            return []
        if self._config.odd.crash:
            os.abort()
        return [Event("odd", now.t, None, self._config.id, {})]

    def snapshot(self):
        return {}

    def restore(self, state):
        pass


RULE = RuleType(OddConfig, lambda config, context: Odd(config), "storms or crashes: `odd`")
"""
Config = dict[str, Any]


def good(draw: random.Random) -> Config:
    lines = [round(0.2 + 0.07 * i + draw.uniform(-0.01, 0.01), 3) for i in range(8)]
    return {
        "annotate": False,
        "rules": [{"id": f"line-{i}", "line": [x, 1.0, x, 0.2]} for i, x in enumerate(lines)],
    }


def unknown_class(draw: random.Random) -> Config:
    config = good(draw)
    draw.choice(config["rules"])["classes"] = [draw.choice(["giraffe", "Person", "truk", "cat", "forklift"])]
    return config


def storm(draw: random.Random) -> Config:
    return good(draw) | {
        "rules": [*good(draw)["rules"], {"id": "odd", "odd": {"after_s": draw.uniform(0, 5)}}]
    }


def silent(draw: random.Random) -> Config:
    rules = []
    for i in range(8):
        y = round(draw.uniform(0.01, 0.03), 3)
        rules.append({"id": f"line-{i}", "line": [0.01 + 0.01 * i, y, 0.02 + 0.01 * i, y]})
    return {"annotate": False, "rules": rules}


def crash(draw: random.Random) -> Config:
    odd = {"after_s": draw.uniform(1, 8), "crash": True}
    return good(draw) | {"rules": [*good(draw)["rules"], {"id": "odd", "odd": odd}]}


KINDS: dict[str, Callable[[random.Random], Config]] = {
    "unknown class": unknown_class,
    "storm": storm,
    "silent": silent,
    "crash": crash,
}


class Site:
    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder = folder
        self.broker = start_mosquitto(folder, free_port())
        self.api = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._env = os.environ | {
            "EDGECTL_CONTROLLER": f"http://127.0.0.1:{self.api}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.packages()), os.environ.get("PYTHONPATH")])),
        }
        self.run("keys", "init")
        self.run("controller", "init", "--broker", f"127.0.0.1:{self.broker.port}", "--port", self.api)
        self.start("controller", "run", "--config", "controller.toml")
        wait_until((folder / "controller" / "token").is_file, "the controller is there")
        self.client = FleetClient.of(f"http://127.0.0.1:{self.api}", folder / "controller" / "token")
        wait_until(self._answers, "the API answers")
        for i in (1, 2):
            self.enroll(i)
            self.start("agent", "run", "--config", f"g{i}/agent.toml")
        wait_until(lambda: sum(d["online"] for d in self.client.devices()) == 2, "both devices are there")
        release = self.run("release", "publish", str(bundle))["release"]
        self.roll(release, "gate", probation_s=2.0)

    def packages(self) -> Path:
        """Of others, for every process."""
        return package(self.folder, "odd", PACKAGE, "edgectl.rules", "RULE")

    def enroll(self, i: int) -> None:
        stream = f"surveillance=synth://yard?seed={10 + i}&fps=12"
        slots = ("--slot", "detector=gate", "--config-slot", SLOT)
        self.run("device", "enroll", f"g{i}", "--stream", stream, *slots)

    def _answers(self) -> bool:
        try:
            self.client.devices()
        except LinkError:
            return False
        return True

    def run(self, *words: object) -> Any:
        command = [sys.executable, "-m", "edgectl.cli", *map(str, words), "--json"]
        done = subprocess.run(
            command, cwd=self.folder, env=self._env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"edgectl {' '.join(map(str, words))}: {done.stderr}")
        return json.loads(done.stdout)

    def start(self, *words: str) -> None:
        log = (self.folder / f"{words[0]}-{len(self._processes)}.log").open("wb")
        command = [sys.executable, "-m", "edgectl.cli", *words]
        self._processes.append(
            subprocess.Popen(command, cwd=self.folder, env=self._env, stdout=log, stderr=log)
        )

    def publish(self, config: Config, version: str) -> str:
        file = self.folder / f"{version}.yaml"
        file.write_text(json.dumps(config))
        return str(
            self.run("config", "publish", str(file), "--name", "rules", "--version", version)["release"]
        )

    def roll(self, release: str, slot: str, *, probation_s: float) -> dict[str, Any]:
        policy = {"probation_s": probation_s, "min_inferences": 64, "percentile": 50}
        rollout = self.client.start_rollout(release, slot, policy=policy, canary=1)["id"]
        found: dict[str, Any] = wait_until(
            lambda: (r := self.client.rollout(rollout))["state"] not in ("running", "rolling_back") and r,
            f"{release} has ended",
            900,
        )
        return found

    def active(self, slot: str) -> dict[str, str | None]:
        slots = {d["name"]: (d["reported"] or {}).get("slots", {}) for d in self.client.devices()}
        return {name: s.get(slot, {}).get("active_release") for name, s in slots.items()}

    def close(self) -> None:
        self.client.close()
        for p in [*self._processes, self.broker.process]:
            p.terminate()
        for p in [*self._processes, self.broker.process]:
            p.wait(30)


def package(folder: Path, name: str, source: str, group: str, entry: str) -> Path:
    """A folder with an installed package of one module."""
    place = folder / "packages"
    info = place / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (place / f"{name}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:{entry}\n")
    return place


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", type=Path)
    p.add_argument("--of", type=int, default=5, help="configurations of each kind")
    p.add_argument("--only", choices=KINDS, help="only this kind")
    a = p.parse_args()
    bundle = a.bundle.resolve()
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), bundle)
        try:
            bad = measure(site, a.of, [a.only] if a.only else list(KINDS))
        finally:
            site.close()
    print(f"\nload {load_1m():.1f}")
    sys.exit(1 if bad else 0)


def measure(site: Site, of: int, kinds: list[str]) -> int:
    """Prints a line each; returns how many did not end as they should."""
    first = site.publish(good(random.Random(0)), "0")
    assert site.roll(first, SLOT, probation_s=5.0)["state"] == "done"
    time.sleep(BEFORE_S)
    wrong = 0
    print("| what | stopped | devices asked | after s | back | why |\n| --- | --- | --- | --- | --- | --- |")
    for kind in kinds:
        for i in range(of):
            release = site.publish(KINDS[kind](random.Random(f"{kind}{i}")), f"{kind.replace(' ', '-')}-{i}")
            began = time.monotonic()
            r = site.roll(release, SLOT, probation_s=PROBATION_S)
            took = time.monotonic() - began
            asked = [n for n, m in r["members"].items() if m["outcome"] != "waiting"]
            back = site.active(SLOT) == {"g1": first, "g2": first}
            ok = r["state"] == "stopped" and len(asked) == 1 and back
            wrong += not ok
            print(
                f"| {kind} {i} | {r['state']} | {len(asked)} | {took:.0f} | {back} | {_why(r)} |",
                flush=True,
            )
    last = site.roll(site.publish(good(random.Random(1)), "good"), SLOT, probation_s=PROBATION_S)
    print(f"| the good one | {last['state']} | {len(last['members'])} | | | {last.get('reason') or ''} |")
    return wrong + (last["state"] != "done")


def _why(r: dict[str, Any]) -> str:
    return r.get("reason") or "; ".join(m.get("detail") or "" for m in r["members"].values())


if __name__ == "__main__":
    main()
