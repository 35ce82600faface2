"""Random sequences of {start, abort, rollback, pause, resume, skip, clear, device away, back, removed,
revoked, enrolled again (with its disk or an empty one) or copied, broker restart, controller restart}.

    python bench/rollout_sequences.py --sequences 100 [--real 5]

The real controller and the real deployer of each device, in simulated time (tests/support/rollouts.py). What
must hold afterwards: every rollout has ended in a named state that is true of every device (its engine is the
one that the end says, or the exception is named with its reason), and none held its slot for longer than its
terms say. ``--real N``: the same sequences, shorter, with a mosquitto that is restarted, a controller that is
restarted and agents as processes that are killed. Exit status 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pytest
from support.real_rollouts import RealSequence
from support.rollouts import Sequence, catalogue


def simulated(n: int, seed: int, steps: int, devices: int) -> tuple[Counter[str], list[str]]:
    done, wrong = Counter[str](), []
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        releases = catalogue(Path(folder))
        for i in range(seed, seed + n):
            here = Path(folder) / f"sequence-{i}"
            try:
                with pytest.MonkeyPatch.context() as patch:
                    sequence = Sequence(here, releases, i, patch, devices=devices, steps=steps)
                    sequence.run()
                done.update(sequence.done)
            except Exception as e:
                wrong.append(f"{type(e).__name__}: {e}")
                print(f"VIOLATION {wrong[-1]}", flush=True)
                if not isinstance(e, AssertionError):
                    traceback.print_exc()
            shutil.rmtree(here, ignore_errors=True)
    return done, wrong


def really(n: int, seed: int) -> tuple[Counter[str], list[str]]:
    done, wrong = Counter[str](), []
    for i in range(seed, seed + n):
        with tempfile.TemporaryDirectory() as folder:
            sequence = RealSequence(Path(folder), i)
            try:
                sequence.run()
            except AssertionError as e:
                wrong.append(str(e))
                print(f"VIOLATION {e}", flush=True)
            done.update(sequence.done)
    return done, wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    logging.disable(logging.CRITICAL)
    start = time.monotonic()
    done, wrong = simulated(a.sequences, a.seed, a.steps, a.devices)
    result = {
        "sequences": a.sequences,
        "steps": a.steps,
        "devices": a.devices,
        "seed": a.seed,
        "seconds": round(time.monotonic() - start),
        "done": dict(sorted(done.items())),
        "violations": len(wrong),
    }
    if a.real:
        real, false = really(a.real, a.seed)
        result["real"] = {"sequences": a.real, "done": dict(sorted(real.items())), "violations": len(false)}
        wrong += false
    text = json.dumps(result, indent=2)
    print(text)
    if a.json:
        a.json.write_text(text + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
