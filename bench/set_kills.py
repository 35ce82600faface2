"""Kill a device at every step of a set, and look at what runs.

A real agent with two streams in a real worker, a real controller and mosquitto. The agent kills itself (SIGKILL) before
and behind each commit of its journal, behind each copy of that in the mirror, and before and behind each word to a worker
that changes what it runs; it is started again, and the rollout comes to its end. Once with a set that is good, once with
one whose engine is too slow and which is taken back. Whatever a worker ever said that it runs, before the kill and behind
it, has to be one set as a whole. Exit status 1 if anything was not.

    python bench/set_kills.py [--json FILE] [--most N]
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port, start_mosquitto
from support.fleet import Fleet, wait_until
from support.set_site import SetSite


def every_step(site: SetSite, first: int, most: int, serves: float, **detector: Any) -> dict[str, Any]:
    """One set after the other, each killed one step later, until there is none left. ``serves``: ``update_s`` of what runs
    before; a good set runs behind it, and of a bad one nothing."""
    killed: list[str] = []
    wrong: list[str] = []
    for number in itertools.count(1):
        n = first + number
        step = site.kill_at(number, n, **detector)
        serves = serves if detector else 100.0 + n
        try:
            site.wait_running(serves)
        except AssertionError as e:
            wrong.append(f"set {n}, {step}: {e}")
        if step is None or number >= most:
            break
        killed.append(step)
        print(f"  killed at {step}", flush=True)
    return {"steps": len(killed), "wrong end": wrong, "last": serves, "sets": number}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=1000, help="steps of each kind of set")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        broker = start_mosquitto(Path(folder), free_port())
        fleet = Fleet(Path(folder), broker.port, free_port())
        try:
            site = SetSite(fleet, Path(folder))
            good = every_step(site, 0, a.most, 77.0)
            bad = every_step(site, good["sets"], a.most, good.pop("last"), latency_ms=50.0)
            del bad["last"]
            wait_until(lambda: site.events, "workers have said something")
            mixed = site.mixed()
            said = len(site.events)
        finally:
            fleet.close()
            broker.process.terminate()
            broker.process.wait(10)
    result = {
        "killed in a good set": good,
        "killed in a set that is taken back": bad,
        "what workers said that they run": said,
        "mixed": len(mixed),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps({**result, "the mixed": mixed}, indent=2))
    if a.json:
        a.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if mixed or good["wrong end"] or bad["wrong end"] else 0)


if __name__ == "__main__":
    main()
