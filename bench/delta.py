"""How many bytes a fine-tuned release costs: our tensor difference against bsdiff4 and plain compression, on
real engines.

    python bench/finetune.py yard --steps 300 --lr 1e-5 --out tuned.onnx          # torch needed
    edgectl build yard-detector.onnx … --out bundle-old; edgectl build tuned.onnx … --out bundle-new
    pip install bsdiff4                                                            # for the comparison only
    python bench/delta.py bundle-old bundle-new [bundle …]
    python bench/delta.py --synthetic 24
    python bench/delta.py --plain yard-detector.onnx tuned.onnx [more.onnx …]     # the same weights, rounded
    plainly to int8

Times are of one core; peak memory is what the process allocates above what it had, in a process of its own.
"""

from __future__ import annotations

import argparse
import lzma
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.graphs import onnx_file

from edgectl.core.bundle import LAYER_ENGINE, Bundle
from edgectl.core.delta import apply_delta, make_delta
from edgectl.core.files import file_digest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="*")
    parser.add_argument(
        "--synthetic",
        type=int,
        default=0,
        metavar="MB",
        help="drawn int8 weights that move by 1 %% of their sd instead",
    )
    parser.add_argument("--plain", action="store_true", help="ONNX files instead of bundles")
    parser.add_argument(
        "--anchored",
        action="store_true",
        help="with --plain: keep the old code where the weight moved by less than half a step",
    )
    parser.add_argument("--apply", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.apply:
        apply(args.apply[0], Path(args.apply[1]))
        return
    print(
        "| update | engine | full, bytes | full, xz | bsdiff4 | ours | make, s: bsdiff4, ours | apply, s: bsdiff4, ours | peak MiB of apply: bsdiff4, ours |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    if args.synthetic:
        row("1 % of sd", f"int8, drawn, {args.synthetic} MB", *synthetic(args.synthetic))
    for path in args.new:
        pairs = plain(args.old, path, anchored=args.anchored) if args.plain else engines(args.old, path)
        for name, old, new in pairs:
            row(path.stem, name, old, new)


def engines(old: Path, new: Path) -> list[tuple[str, bytes, bytes]]:
    """Engine layers of the variants that both bundles have."""
    found: list[dict[str, bytes]] = []
    for root in (old, new):
        found.append({})
        for v in Bundle(root).variants:
            if v.config.unpacked is None:
                found[-1][f"{v.config.variant} ({v.config.recipe.method or 'float'})"] = v.need(
                    LAYER_ENGINE
                ).read_bytes()
    by_variant = {name.split()[0]: data for name, data in found[0].items()}
    return [
        (name, by_variant[name.split()[0]], data)
        for name, data in found[1].items()
        if name.split()[0] in by_variant
    ]


def plain(old: Path, new: Path, *, anchored: bool) -> list[tuple[str, bytes, bytes]]:
    """int8 codes, one scale for each output channel, rounded to nearest: what is left without
    reconstruction."""
    import onnx
    from onnx import numpy_helper

    models = [onnx.load(p) for p in (old, new)]
    scales: dict[str, np.ndarray] = {}
    codes: dict[str, np.ndarray] = {}
    floats: dict[str, np.ndarray] = {}
    for k, model in enumerate(models):
        for t in model.graph.initializer:
            w = numpy_helper.to_array(t)
            if w.ndim != 4:
                continue
            if k == 0 or not anchored:
                scales[t.name] = np.abs(w).max(axis=(1, 2, 3), keepdims=True) / 127
            q = np.round(w / scales[t.name])
            if k == 1 and anchored:
                q = codes[t.name] + np.round((w - floats[t.name]) / scales[t.name])
            q = q.clip(-127, 127)
            codes[t.name], floats[t.name] = q, w
            t.CopyFrom(numpy_helper.from_array(q.astype(np.int8), t.name))
    return [
        (
            "int8, anchored" if anchored else "int8, plain",
            models[0].SerializeToString(),
            models[1].SerializeToString(),
        )
    ]


def synthetic(mb: int) -> tuple[bytes, bytes]:
    """Forty layers of normal weights with a standard deviation of 30 steps."""
    rng = np.random.default_rng(1)
    old, new = {}, {}
    for k in range(40):
        w = rng.normal(0, 30, mb * 25_000).astype(np.float32)
        moved = w + rng.normal(0, 0.3, w.size).astype(np.float32)
        old[f"{k}"], new[f"{k}"] = (x.round().clip(-127, 127).astype(np.int8) for x in (w, moved))
    return onnx_file(old), onnx_file(new)


def row(update: str, engine: str, old: bytes, new: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old").write_bytes(old)
        started = time.perf_counter()
        ours = make_delta(old, new)
        ours_s = time.perf_counter() - started
        assert ours is not None
        (folder / "ours").write_bytes(ours)
        theirs, theirs_s = b"", float("nan")
        try:
            import bsdiff4

            started = time.perf_counter()
            theirs = bsdiff4.diff(old, new)
            theirs_s = time.perf_counter() - started
            (folder / "theirs").write_bytes(theirs)
        except ImportError:
            pass
        results = [
            measured("theirs", folder, new) if theirs else (float("nan"),) * 2,
            measured("ours", folder, new),
        ]
        size = len(new)
        print(
            f"| {update} | {engine} | {size} | {len(lzma.compress(new)) / size:.0%} | {f'{len(theirs) / size:.0%}' if theirs else '–'} "
            f"| **{len(ours) / size:.1%}** | {theirs_s:.2f}, {ours_s:.2f} | {results[0][0]:.2f}, {results[1][0]:.2f} "
            f"| {results[0][1]:.1f}, {results[1][1]:.1f} |",
            flush=True,
        )


def measured(what: str, folder: Path, new: bytes) -> tuple[float, float]:
    """Seconds, and MiB above what the interpreter with its imports has, of an application in a process of
    its own."""
    (folder / "new").write_bytes(new)
    command = [sys.executable, __file__, "--apply", what, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, mib = map(float, result.stdout.split())
    return seconds, mib


def apply(what: str, folder: Path) -> None:
    size = (folder / "new").stat().st_size
    if what == "theirs":
        import bsdiff4
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _kib("VmRSS")
    started = time.perf_counter()
    if what == "theirs":
        bsdiff4.file_patch(str(folder / "old"), str(folder / "made"), str(folder / "theirs"))
    else:
        with (folder / "made").open("wb") as f:
            f.writelines(apply_delta(folder / "old", folder / "ours", size))
    took = time.perf_counter() - started
    mib = (_kib("VmHWM") - before) / 1024
    assert file_digest(folder / "made") == file_digest(folder / "new")
    print(f"{took} {mib}")


def _kib(field: str) -> int:
    return next(
        int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field)
    )


if __name__ == "__main__":
    main()
