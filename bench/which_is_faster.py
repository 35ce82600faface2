"""One answer to "which is faster": is it the same in a build, in ``edgectl bench``, and in a build on a busy
machine?

    python bench/which_is_faster.py [--quick] [--model PATH TASK DATA ...] [--json FILE]      # at most 25
    minutes, 8 with --quick
    python bench/which_is_faster.py --busy-only                                               # on a machine
    that cannot be made quiet

Every model is built, benched, and built again beside ``--load`` processes that compute (8). Models: the
reference models, shapes that are generated here (an autoencoder of 0.03 ms a call, a ResNet8 classifier with
227 pictures, a MobileNetV2), and any ``--model``. The machine must be quiet for the first two; where the
product itself says that it was not, the figure is marked and the exit code is 2.

*Apart*: the difference between build and bench of the ratio to the float fallback, alone and paced, of what
  ships. *Kept*: the busy build chose
as the quiet one, or says undecided. *Slower*: a quantized engine that ships and, in the bench, is surely
slower than float alone or paced, however little.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from shapes import mobilenet_v2
from tiny import write_classifier

from edgectl.cli.demo.builds import CALIBRATION
from edgectl.device_profiles.machine import probe
from edgectl.engines.measure.conditions import wait_until_quiet
from edgectl.engines.timing import load_1m
from edgectl.models import reference

MINUTES, QUICK_MINUTES = 24.0, 7.5
QUICK = ("autoencoder", "classifier", "kiosk-keyword", "yard-detector")
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n for _ in range(100000): pass"
_APART = 0.02


@dataclass(frozen=True)
class Model:
    name: str
    path: Path
    task: str
    data: str
    max_drop: float = 0.02


@dataclass(frozen=True)
class Answer:
    """Of one build or bench. ``ratios``: context → (median, low, high) of the first variant that is
    quantized, if any is there."""

    choice: str
    """``float32``, ``int8`` or ``undecided``."""
    ratios: dict[str, tuple[float, float, float]]
    busy: tuple[str, ...]
    why: str
    load: float
    float_ms: float
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="four models, at most 8 minutes")
    parser.add_argument("--busy-only", action="store_true", help="leave the quiet half out")
    parser.add_argument("--load", type=int, default=8, help="processes that compute")
    parser.add_argument("--model", nargs=3, action="append", default=[], metavar=("PATH", "TASK", "DATA"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    deadline = time.monotonic() + 60 * (QUICK_MINUTES if a.quick else MINUTES)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgectl-faster-") as folder:
        models = [
            m
            for m in _models(Path(folder), a.model)
            if not a.quick or m.name in QUICK or m.path.parent != Path(folder)
        ]
        models = [m for m in models if not a.only or m.name in a.only]
        print(
            f"{probe().summary}; load {load_1m()}; {len(models)} models; at load {a.load} and, if not --busy-only, quiet\n",
            flush=True,
        )
        for i, m in enumerate(models):
            share = (deadline - time.monotonic()) / (len(models) - i)
            if share < 20:
                print(f"{m.name}: no time left", flush=True)
                continue
            rows.append(_row(m, Path(folder) / "out", share, a.load, quiet=not a.busy_only))
            print(_told(rows[-1]), flush=True)
    print("\n" + _table(rows, quiet=not a.busy_only, load=a.load))
    if a.json is not None:
        a.json.write_text(json.dumps(rows, indent=1))
    return _verdict(rows, quiet=not a.busy_only)


def _models(folder: Path, given: Sequence[Sequence[str]]) -> list[Model]:
    rng = np.random.default_rng(0)
    (folder / "autoencoder.onnx").write_bytes(_autoencoder())
    np.savez(folder / "autoencoder.npz", x=rng.standard_normal((256, 640)).astype(np.float32))
    write_classifier(folder / "classifier")
    (folder / "mobilenet.onnx").write_bytes(mobilenet_v2(96).SerializeToString())
    np.savez(folder / "mobilenet.npz", image=rng.random((64, 3, 96, 96)).astype(np.float32))
    made = [
        Model("autoencoder", folder / "autoencoder.onnx", "tensor", str(folder / "autoencoder.npz")),
        Model(
            "classifier",
            folder / "classifier/classifier.onnx",
            str(folder / "classifier/classifier.toml"),
            str(folder / "classifier/pictures"),
            0.01,
        ),
        Model("mobilenet", folder / "mobilenet.onnx", "tensor", str(folder / "mobilenet.npz"), 0.05),
    ]
    ours = [
        Model(name, reference(name).model, str(reference(name).task), data)
        for name, data in CALIBRATION.items()
    ]
    return [*made, *ours, *(Model(Path(p).stem, Path(p), task, data) for p, task, data in given)]


def _autoencoder() -> bytes:
    """MLPerf Tiny's anomaly detector in shape: 640 → 4 × 128 → 8 → 4 × 128 → 640; 0.27 M weights, a few
    hundredths of a millisecond."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    sizes = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    nodes, weights, last = [], [], "x"
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        weights.append(
            numpy_helper.from_array(
                (rng.standard_normal((n, m)) * (2 / n) ** 0.5).astype(np.float32), f"w{i}"
            )
        )
        weights.append(numpy_helper.from_array((rng.standard_normal(m) * 0.05).astype(np.float32), f"b{i}"))
        out = "y" if m == 640 else f"g{i}"
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [out], name=f"dense{i}"))
        if m != 640:
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"], name=f"relu{i}"))
        last = f"r{i}"
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 640])] for n in "xy"]
    graph = helper.make_graph(nodes, "autoencoder", *ends, weights)
    return bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )


def _row(m: Model, out: Path, seconds: float, load: int, *, quiet: bool) -> dict[str, Any]:
    """``seconds`` for all of it: builds take what they need up to a third each."""
    minutes = max(0.1, seconds / 60 * (0.33 if quiet else 0.8))
    row: dict[str, Any] = {"model": m.name}
    if quiet:
        wait_until_quiet(5)
        row["build"] = _built(m, out, minutes).__dict__
        row["bench"] = _benched(out, max(5.0, seconds * 0.2)).__dict__
    with _neighbours(load):
        row["busy"] = _built(m, out.with_name("busy"), minutes).__dict__
    return row


def _built(m: Model, out: Path, minutes: float) -> Answer:
    started, load = time.monotonic(), load_1m()
    found = _edgectl(
        "build",
        m.path,
        "--profile",
        "cpu",
        "--task",
        m.task,
        "--calibration",
        m.data,
        "--max-drop",
        m.max_drop,
        "--minutes",
        f"{minutes:.3f}",
        "--out",
        out,
        timeout_s=minutes * 60 + 300,
    )
    causes = [c for why in found["causes"].values() for c in why]
    variants = [v for v in found["variants"] if v["profile"] == "cpu"]
    quantized = next((v for v in variants if v["precision"] == "int8"), None)
    choice = "undecided" if causes and causes[0]["cause"] == "undecided" else variants[0]["precision"]
    why = causes[0]["cause"] if causes else ""
    busy = {
        w
        for g in found["candidates"].values()
        for o in g
        for w in ((o["measured"] or {}).get("fresh") or {}).get("busy_because", ())
    }
    floats = next(v for v in variants if v["fallback"])
    contexts = quantized["contexts"] if quantized else _best_of(found["candidates"])
    return Answer(
        choice,
        _ratios(contexts),
        tuple(sorted(busy)),
        why,
        load,
        _alone_ms(floats["contexts"]),
        time.monotonic() - started,
    )


def _best_of(groups: dict[str, Any]) -> list[dict[str, Any]]:
    """The contexts of the best quantized candidate that was measured in a process of its own and did not
    ship."""
    told = [
        (o["measured"] or {}).get("fresh", {}).get("contexts", [])
        for g in groups.values()
        for o in g
        if o["candidate"]["graph"]["precision"] == "int8" and (o["measured"] or {}).get("fresh")
    ]
    return min(told, key=lambda c: c[0]["ratio"] or 9.0, default=[])


def _benched(out: Path, seconds: float) -> Answer:
    started = time.monotonic()
    found = _edgectl("bench", out, "--seconds", f"{seconds:.1f}", timeout_s=seconds + 300)
    rows = [r for r in found["rows"] if r["skipped"] is None]
    quantized = next((r for r in rows if "int8" in r["variant"]), None)
    floats = next((r for r in rows if r["variant"] == "cpu-float32"), rows[-1])
    choice = "float32" if quantized is None else quantized["standing"]
    return Answer(
        choice,
        _ratios(quantized["contexts"] if quantized else []),
        tuple(found["busy_because"]),
        "",
        found["load"],
        _alone_ms(floats["contexts"]),
        time.monotonic() - started,
    )


def _ratios(contexts: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    return {c["context"]: (c["ratio"], c["low"], c["high"]) for c in contexts if c["ratio"] is not None}


def _alone_ms(contexts: Sequence[dict[str, Any]]) -> float:
    return next((float(c["p50_ms"]) for c in contexts if c["context"] == "alone"), float("nan"))


def _edgectl(*args: object, timeout_s: float) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "edgectl.cli", *map(str, args), "--json"],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"edgectl {args[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def _neighbours(count: int) -> Iterator[None]:
    started = [
        subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())], stdin=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        time.sleep(0.5)  # until they compute
        yield
    finally:
        for p in started:
            p.kill()
            p.wait()


def _apart(row: dict[str, Any], context: str) -> float | None:
    """By how much build and bench differ in the ratio of one context; None where nothing quantized ships."""
    if "build" not in row or row["bench"]["choice"] == "float32":
        return None
    a, b = (row[part]["ratios"].get(context) for part in ("build", "bench"))
    return None if a is None or b is None else abs(b[0] / a[0] - 1)


def _agree(row: dict[str, Any]) -> bool:
    """Within 2 %; a call of hundredths of a millisecond after a rest is not known to 2 %, and there each
    must lie in the other's interval."""
    for context in ("alone", "paced"):
        apart = _apart(row, context)
        if apart is None or apart <= _APART:
            continue
        a, b = (row[part]["ratios"][context] for part in ("build", "bench"))
        if context == "alone" or not (a[1] <= b[0] <= a[2] or b[1] <= a[0] <= b[2]):
            return False
    return True


def _kept(row: dict[str, Any]) -> bool:
    return bool(row["busy"]["choice"] == "undecided" or row["busy"]["choice"] == row["build"]["choice"])


def _slower(row: dict[str, Any]) -> bool:
    shipped = row["build"]["choice"] == "int8"
    return shipped and any(row["bench"]["ratios"].get(c, (0, 0, 0))[1] > 1 for c in ("alone", "paced"))


def _figures(answer: dict[str, Any]) -> str:
    told = ", ".join(f"{c} {r[0]:.3f} [{r[1]:.3f}, {r[2]:.3f}]" for c, r in answer["ratios"].items())
    return f"{answer['choice']}{' (' + answer['why'] + ')' if answer['why'] else ''} {told or '-'}" + (
        " BUSY" if answer["busy"] else ""
    )


def _told(row: dict[str, Any]) -> str:
    return "; ".join(
        [
            row["model"],
            *(
                f"{part}: {_figures(row[part])}, {row[part]['seconds']:.0f} s"
                for part in ("build", "bench", "busy")
                if part in row
            ),
        ]
    )


def _table(rows: Sequence[dict[str, Any]], *, quiet: bool, load: int) -> str:
    head = (
        ["model", "float ms"]
        + (["build", "bench", "apart"] if quiet else [])
        + [f"build at load {load}", "load before"]
        + (["kept"] if quiet else [])
    )
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for r in rows:
        cells = [r["model"], f"{r['build' if quiet else 'busy']['float_ms']:.3f}"]
        if quiet:
            apart = ", ".join(f"{c} {x:.1%}" for c in ("alone", "paced") if (x := _apart(r, c)) is not None)
            cells += [
                _figures(r["build"]),
                _figures(r["bench"]),
                (apart or "-") + ("" if _agree(r) else " TOO FAR"),
            ]
        cells += [_figures(r["busy"]), f"{r['busy']['load']:.1f}"]
        cells += [("yes" if _kept(r) else "NO")] if quiet else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(rows: Sequence[dict[str, Any]], *, quiet: bool) -> int:
    if not quiet:
        undecided = sum(r["busy"]["choice"] == "undecided" for r in rows)
        print(f"\n{len(rows)} models at load: {undecided} undecided")
        return 0
    kept = sum(map(_kept, rows)) / max(1, len(rows))
    apart = {
        c: max((x for r in rows if (x := _apart(r, c)) is not None), default=0.0) for c in ("alone", "paced")
    }
    agree = all(map(_agree, rows))
    slower = [r["model"] for r in rows if _slower(r)]
    unquiet = [r["model"] for r in rows if r["build"]["busy"] or r["bench"]["busy"]]
    print(
        f"\n{kept:.0%} of the quiet machine's choices kept or undecided (90 % wanted); build and bench at most {apart['alone']:.1%} apart alone, "
        f"{apart['paced']:.1%} paced ({_APART:.0%} wanted, or paced within their intervals: {'yes' if agree else 'NO'}); slower than float alone or paced: {', '.join(slower) or 'none'}"
    )
    if unquiet:
        print(f"the machine was not quiet for {', '.join(unquiet)}: their figures say nothing")
        return 2
    return 0 if kept >= 0.9 and agree and not slower else 1


if __name__ == "__main__":
    sys.exit(main())
