"""Cut a device anywhere, thousands of times, and look at what is left.

Three parts. ``--kills N``: random scenarios (good, bad, canceled, superseded releases; lost frames; rotten
blobs; a damaged journal), one to three cuts each, at any operation on the disk or effect, as a power cut
(un-fsynced bytes lost or torn at 512 bytes, names lost, SQLite commits half done) or as a SIGKILL.
``--every``: every operation of every scenario once in both ways. ``--real N``: SIGKILL of a real agent with
its worker, against a real mosquitto, at random moments of real rollouts.

What must hold afterwards is in tests/support/kills.py: one whole, signed engine serves and is the one on
record, never two halves; the version floor has not sunk; every deployment has come to an end; ends are
reported once. Exit status 1 if anything does not.

    python bench/kill_anywhere.py --kills 10000 --every --real 100
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.kills import SCENARIOS, Kills


class Found:
    """Violations, the first of each kind with the command that repeats it."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def add(self, scenario: str, seed: int, cuts: list[int], kill: bool, e: BaseException) -> None:
        kind = f"{scenario}: {type(e).__name__}: {str(e)[:120]}"
        self.kinds[kind] += 1
        if self.kinds[kind] == 1:
            print(f"VIOLATION {kind} (seed {seed}, cuts {cuts}, kill {kill})", flush=True)


def randomly(kills: Kills, found: Found, wanted: int, seed: int) -> None:
    chance = random.Random(seed)
    names = list(SCENARIOS)
    told = time.monotonic()
    while kills.kills < wanted:
        name, one = chance.choice(names), chance.randrange(1 << 30)
        length = kills.length(name)
        c = random.Random(one)
        cuts, kill = [c.randrange(1, length + 1) for _ in range(c.choice((1, 1, 1, 2, 3)))], c.random() < 0.3
        attempt(kills, found, name, one, cuts, kill)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"  {kills.kills} kills, {sum(found.kinds.values())} violations", flush=True)


def every(kills: Kills, found: Found) -> int:
    n = 0
    for name in SCENARIOS:
        for cut in range(1, kills.length(name) + 1):
            for kill in (False, True):
                attempt(kills, found, name, cut, [cut], kill)
                n += 1
    return n


def attempt(kills: Kills, found: Found, name: str, seed: int, cuts: list[int], kill: bool) -> None:
    try:
        kills.run(name, random.Random(seed), cuts, kill=kill)
    except Exception as e:
        found.add(name, seed, cuts, kill, e)


def really(n: int, seed: int, found: Found) -> Counter[str]:
    """SIGKILL of a real agent at random moments. Returns the states in which it was."""
    from conftest import free_port, start_mosquitto
    from support.bundle import make_bundle
    from support.fleet import POLICY, Fleet, wait_until

    chance, states = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        broker = start_mosquitto(Path(folder), free_port())
        fleet = Fleet(Path(folder), broker.port, free_port())
        try:
            fleet.start_controller()
            fleet.enroll("gate-1")
            fleet.start_agent("gate-1")
            fleet.wait_rollout(
                fleet.rollout(fleet.publish(make_bundle(Path(folder) / "v0", version="0.0.1"))), "done"
            )
            for i in range(1, n + 1):
                version = f"{i}.0.0"
                behaviour = chance.choice(
                    [{}, {}, {"swap_s": 0.3}, {"crash": True}, {"warm": False}, {"latency_ms": 50.0}]
                )
                bundle = make_bundle(
                    Path(folder) / version,
                    version=version,
                    size=chance.choice([50_000, 3_000_000]),
                    **behaviour,
                )
                rollout = fleet.rollout(
                    fleet.publish(bundle), policy=POLICY.model_copy(update={"probation_s": 0.3})
                )
                time.sleep(chance.random() * 2.0)  # the moment is the point
                states[fleet.state_of("gate-1") or "-"] += 1
                fleet.kill_agent("gate-1")
                fleet.start_agent("gate-1")
                ended = fleet.wait_rollout(rollout, "done", "stopped", timeout_s=90)
                good = (
                    "crash" not in behaviour
                    and behaviour.get("warm", True)
                    and behaviour.get("latency_ms", 0) < 50
                )
                if (ended["state"] == "done") != good:
                    found.add(
                        "real",
                        i,
                        [],
                        True,
                        AssertionError(f"{behaviour} ended {ended['state']}: {ended.get('reason')}"),
                    )
                slot = wait_until(
                    lambda: fleet.reported["gate-1"][-1].slots.get("gate-detector"), "it reports"
                )
                if slot.active is None:
                    found.add("real", i, [], True, AssertionError("no engine is left"))
        finally:
            fleet.close()
            broker.process.terminate()
            broker.process.wait(10)
    return states


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    logging.disable(logging.CRITICAL)
    found, result = Found(), {"seed": a.seed}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        kills = Kills(Path(folder))
        start = time.monotonic()
        if a.every:
            result["every operation"] = every(kills, found)
        if a.kills:
            randomly(kills, found, kills.kills + a.kills, a.seed)
        result |= {
            "kills": kills.kills,
            "runs": kills.runs,
            "seconds": round(time.monotonic() - start),
            "killed in state": dict(kills.by_state.most_common()),
            "killed at": dict(kills.by_operation.most_common()),
            "ended": dict(kills.ends.most_common()),
        }
    if a.real:
        result["real agents killed in state"] = dict(really(a.real, a.seed, found).most_common())
    result["violations"] = dict(found.kinds)
    text = json.dumps(result, indent=2)
    print(text)
    if a.json:
        a.json.write_text(text + "\n")
    sys.exit(1 if found.kinds else 0)


if __name__ == "__main__":
    main()
