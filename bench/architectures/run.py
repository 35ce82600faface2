"""Build each architecture of ``table.py`` as a user would, one after the other, and write down what came of it.

    python bench/architectures/run.py FOLDER --results RESULTS.jsonl [--published FOLDER] [--only NAME ...]
                                      [--minutes 1] [--exporter dynamo|classic] [--again]

FOLDER is what ``export.py`` wrote. Each build is ``edgectl build … --profile cpu,jetson-orin --task tensor`` in a
process of its own, on 48 samples of noise, bounded in time. A line of RESULTS is one architecture; those that are
there are skipped, unless ``--again``. ``page.py`` makes the matrix of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent))

from table import ARCHITECTURES, Architecture

from edgectl.builder.graph import real_inputs
from edgectl.builder.pack.inspect import read_acceptance
from edgectl.core.bundle import Bundle
from edgectl.core.files import file_digest
from edgectl.engines.timing import load_1m

SAMPLES = 48
_LONGEST_S = 900
_SMALLEST = 48  # values of an open axis that the table does not name


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--published", type=Path, help="folder of the published models")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument(
        "--profile", default="cpu,jetson-orin", help="jetson-orin alone measures no speed and takes a third"
    )
    parser.add_argument("--exporter", choices=["classic", "dynamo"], help="the files of export.py --exporter")
    parser.add_argument("--again", action="store_true")
    a = parser.parse_args()
    done = {} if not a.results.exists() else _read(a.results)
    for one in ARCHITECTURES:
        name = f"{one.name}.{a.exporter}" if a.exporter else one.name
        model = (a.published if one.source == "published" else a.folder) or a.folder
        model = (model / f"{name}.onnx").resolve()  # builds run in another folder
        if (a.only and one.name not in a.only) or (name in done and not a.again) or not model.exists():
            continue
        row = {"name": name, **build(one, model, a.minutes, a.profile)}
        done[name] = row
        a.results.write_text("".join(json.dumps(r) + "\n" for r in done.values()))
        print(f"{name}: rc {row['code']}, {row['seconds']:.0f} s, {row['said'][:200]}", flush=True)
    return 0


def _read(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    return {r["name"]: r for r in rows}


def build(one: Architecture, model: Path, minutes: float, profile: str) -> dict[str, Any]:
    """One build, and everything that the page says of it."""
    with tempfile.TemporaryDirectory(prefix="edgectl-zoo-") as folder:
        out = Path(folder)
        _noise(one, model, out / "noise.npz")
        row: dict[str, Any] = {
            "minutes": minutes,
            "profile": profile,
            "bytes": model.stat().st_size,
            "model": file_digest(model),
        }
        row["load"] = [load_1m()]
        command = [sys.executable, "-m", "edgectl.cli", "build", str(model), "--task", "tensor"]
        command += ["--profile", profile, "--calibration", str(out / "noise.npz")]
        command += ["--minutes", str(minutes), "--out", str(out / "bundle"), "--json"]
        row |= _bounded(command, out)
        row["load"].append(load_1m())
        told = (out / "stdout").read_text(errors="replace")
        errors = (out / "stderr").read_text(errors="replace")
        row["traceback"] = "Traceback (most recent call last)" in told + errors
        row["said"] = ""
        if row["code"]:
            last = [x.strip() for x in errors.splitlines() if x.strip()]
            row["said"] = " ".join(last[-2:])[:600] if last else ""
        else:
            row |= _told(json.loads(told), Bundle(out / "bundle"))
        return row


def _bounded(command: list[str], out: Path) -> dict[str, Any]:
    """Run it to its end, or kill it; exit code, seconds, peak resident memory of its largest process (MiB)."""
    start = time.monotonic()
    env = {**os.environ, "HOME": str(out), "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "400"}
    with (out / "stdout").open("wb") as o, (out / "stderr").open("wb") as e:
        process = subprocess.Popen(
            command, stdout=o, stderr=e, stdin=subprocess.DEVNULL, env=env, cwd=out, start_new_session=True
        )
        watch = threading.Timer(_LONGEST_S, os.killpg, (process.pid, signal.SIGKILL))
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        watch.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "code": process.returncode,
        "seconds": round(time.monotonic() - start, 1),
        "rss_mb": usage.ru_maxrss >> 10,
    }


def _told(report: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    """What a build that ended well says, in the columns of the page."""
    variants = [
        {k: v.get(k) for k in ("profile", "variant", "precision", "drop", "ratio_to_float", "preferences")}
        for v in report["variants"]
    ]
    tried = [
        {
            "name": f"{o['candidate']['runtime']} {o['candidate']['graph']['recipe']}",
            "precision": o["candidate"]["graph"]["precision"],
            "drop": (o.get("accuracy") or {}).get("drop"),
            "ratio": (o.get("ratio") or {}).get("median"),
            "rejected": o.get("rejected"),
        }
        for outcomes in report["candidates"].values()
        for o in outcomes
    ]
    accepted = {
        f"{v.config.profile}/{v.config.variant}": told.model_dump(mode="json")
        for v in bundle.variants
        if (told := read_acceptance(v)) is not None
    }
    refused = [n for n in report["notes"] if " is left out: refused by " in n]
    causes = {k: [[w["cause"], w["sentence"]] for w in why] for k, why in report["causes"].items()}
    return {
        "variants": variants,
        "tried": tried,
        "accepted": accepted,
        "refused": refused,
        "causes": causes,
        "notes": report["notes"],
        "left_out": report["left_out"],
        "build_seconds": report["seconds"],
    }


def _noise(one: Architecture, model: Path, path: Path) -> None:
    """Inputs that span what the model reads: smooth random pictures, noise, or whole numbers within the table's end."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for info in real_inputs(onnx.load(str(model), load_external_data=False)):
        dims = info.type.tensor_type.shape.dim
        named = one.inputs.get(info.name, ())
        known = named[1] if named[:1] == ("int64",) else named
        shape = tuple(
            d.dim_value or (known[i] if i < len(known) else (1 if i == 0 else _SMALLEST))
            for i, d in enumerate(dims)
        )
        if one.name == "silero-vad-16k":
            shape = {"input": (1, 512), "state": (2, 1, 128), "sr": ()}[info.name]
        if info.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            end = named[2] if named else 16001
            made = rng.integers(end - 1 if not shape else 0, end, (SAMPLES, *shape)).astype(np.int64)
            if "mask" in info.name:
                # sentences of different lengths
                made = (np.arange(shape[-1]) < rng.integers(8, shape[-1] + 1, (SAMPLES, 1, 1))).astype(
                    np.int64
                )
            arrays[info.name] = made
        elif len(shape) == 4 and shape[1] == 3:
            coarse = rng.standard_normal((SAMPLES, *shape[:2], *(-(-s // 16) for s in shape[2:])))
            smooth = np.kron(coarse, np.ones((1, 1, 1, 16, 16)))[..., : shape[2], : shape[3]]
            arrays[info.name] = (smooth + 0.3 * rng.standard_normal((SAMPLES, *shape))).astype(np.float32)
        else:
            arrays[info.name] = rng.standard_normal((SAMPLES, *shape)).astype(np.float32)
    np.savez(path, **arrays)


if __name__ == "__main__":
    sys.exit(main())
