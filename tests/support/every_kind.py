"""Make an engine of every kind, and real bundles, for another Python to open: ``python tests/support/every_kind.py
DIR``.

A workstation has a newer onnx and ONNX Runtime than a device on Python 3.10.
``tests/engines/runtimes/test_older_runtime.py`` opens what this makes there: ``graphs/KIND.onnx`` with ``KIND.npz``
(inputs ``in/…``, what float computes ``out/…``), and ``bundles/…``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

# A script: the folder of the tests instead of this one, where tuf.py would hide the library.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from support.builder.generated import mlp
from support.builder.nets import images, residual_net

from edgectl.builder.build import build_bundle
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES, QDQ
from edgectl.builder.int8.matmul import FORMS, rewrite_matmuls
from edgectl.builder.int8.quantize import quantize
from edgectl.engines.finalise.open import open_model
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

YARD = "synth://yard?seed=5&paced=0&fps=2&seconds=8"


def main(out: Path) -> None:
    (out / "graphs").mkdir(parents=True)
    net, products = residual_net(), mlp(3, width=64)
    table = calibrate(net, images(8), data_digest="sha256:" + "0" * 64)
    graphs = {"float": (net, images(1)[0])}
    graphs |= {family: (quantize(net, table, FAMILIES[family]).model, images(1)[0]) for family in QDQ}
    x = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}
    graphs |= {form: (rewrite_matmuls(products, form, FAMILIES["x86-vnni"]).model, x) for form in FORMS}
    for kind, (model, feeds) in graphs.items():
        onnx.save(model, out / "graphs" / f"{kind}.onnx")
        want = open_model((products if kind in FORMS else net).SerializeToString()).run(feeds)
        named = {f"in/{k}": v for k, v in feeds.items()} | {f"out/{k}": v for k, v in want.items()}
        np.savez(out / "graphs" / f"{kind}.npz", **named)  # type: ignore[arg-type]
    ours = reference("yard-detector")
    profiles = ["cpu", "cpu-x86-vnni", "cpu-x86-avx2", "cpu-arm64", "jetson-orin"]
    task = load_task(str(ours.task))
    for name, compression in (("plain", None), ("packed", CompressOptions(cluster=16))):
        build_bundle(
            ours.model,
            profiles=profiles,
            task=task,
            calibration=YARD,
            out=out / "bundles" / name,
            minutes=0.02,
            name="yard",
            max_drop=0.9,
            compression=compression,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
