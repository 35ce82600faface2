"""Top-1 of a digits classifier in int8, as it is and with channels up to 300 × apart: a plain tool against
the builder's remedies.

    python bench/channel_imbalance.py

scikit-learn's digits, 597 test pictures that nothing was fitted, calibrated or chosen on; the network of
tests/support/builder/imbalanced.py. The plain tool is ONNX Runtime's ``quantize_static``, U8S8, MinMax, one scale per
tensor. Without retraining.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.builder.imbalanced import imbalance, readout_net, top1
from support.builder.plain_tool import per_tensor

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.basis import prepare_basis
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import escalate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.open import open_model


def main() -> None:
    balanced, train, test, labels = readout_net()
    print("| channels apart | float | per tensor | per family: our remedies |\n| --- | --- | --- | --- |")
    for spread in (1.0, 10.0, 30.0, 100.0, 300.0):
        model = imbalance(balanced, spread)
        engine = open_model(model.SerializeToString(), SessionSettings())
        judge = Judge(
            TaskSpec(name="digits", input=TensorInput(), metric="top1"),
            [Sample(f) for f in train[128:628]],
            engine,
        )
        table = calibrate(model, train[:128], data_digest="sha256:" + "0" * 64)
        cells = []
        for name in ("x86-vnni", "x86-avx2", "arm64", "trt-gpu"):
            family = FAMILIES[name]
            basis = prepare_basis(
                model, table, family, train[:128], judge, max_drop=0.01, tell=lambda what: None
            )
            graphs = escalate(
                basis, family, train[:128], judge, max_drop=0.01, timed=False, tell=lambda what: None
            )
            cells.append(
                f"{name} {top1(graphs.recipes['full'].model, test, labels):.4f}"
                if "full" in graphs.recipes
                else f"{name} float"
            )
        with tempfile.TemporaryDirectory() as folder:
            plain = top1(per_tensor(model, train[:128], Path(folder)), test, labels)
        print(f"| {spread:g} × | {top1(model, test, labels):.4f} | {plain:.4f} | {', '.join(cells)} |")


if __name__ == "__main__":
    main()
