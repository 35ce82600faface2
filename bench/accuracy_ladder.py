"""What each remedy against lost accuracy gains on a detector, and how much noise the detector itself stands.

    python bench/accuracy_ladder.py ../shared/models/fastestdet-352.onnx --task fastestdet \
        --calibration ../shared/media/one-by-one-person-detection.mp4

Prints, on the search slice: AP of the float model on noisy pictures against its own boxes, with and without
those that it is not sure of; then SQNR and drop with its 95 % interval of the whole graph in int8 (x86-vnni),
remedy by remedy, what was tried and which runs of layers cost most.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.samples import collect, slice_samples
from edgectl.builder.int8.basis import prepare_basis
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import escalate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.judge.accuracy import Judge, average_precision, match, truth
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.decode import make_decoder


class Noisy:
    """The float engine behind a camera with uniform noise of ± ``level``."""

    def __init__(self, engine, level: float) -> None:
        self._engine, self._level, self._rng = engine, level, np.random.default_rng(0)

    def run(self, feeds):
        return self._engine.run(
            {
                n: (x + self._level * self._rng.uniform(-1, 1, x.shape)).astype(np.float32)
                for n, x in feeds.items()
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--max-drop", type=float, default=0.01)
    a = parser.parse_args()
    task, family = load_task(a.task), FAMILIES["x86-vnni"]
    graph, inputs, _ = prepare(a.model, task)
    low = make_decoder(
        task.model_copy(update={"decode": task.decode.model_copy(update={"score": task.decode.score / 4})})
    )
    with tempfile.TemporaryDirectory() as folder:
        reference = open_model(graph.SerializeToString(), SessionSettings())
        slices = slice_samples(collect(a.calibration, task, inputs, reference, Path(folder)), None)
        judge = Judge(task, slices.search, reference)
        every = [truth(low(reference.run(s.feeds), s.meta), [], task.decode.score) for s in slices.search]
        print(
            f"{len(slices.search)} samples, {sum(int(t.objects.sum()) for t in every)} boxes at the threshold"
        )
        for grey in (0.5, 1, 2):
            noisy = Noisy(reference, grey * task.input.scale)
            rows = [
                match(t, low(noisy.run(s.feeds), s.meta)) for t, s in zip(every, slices.search, strict=True)
            ]
            sure = judge.judge(Noisy(reference, grey * task.input.scale))
            print(
                f"float, noise ± {grey:g} grey levels: drop {1 - average_precision(rows):.4f}; of what it is sure of {sure.drop:.4f}"
            )
        calibration = [s.feeds for s in slices.calibration]
        table = calibrate(graph, calibration, data_digest=slices.digest)
        basis = prepare_basis(graph, table, family, calibration, judge, max_drop=a.max_drop, tell=print)
        plain = quantize(graph, table, family, ranges=basis.ranges)
        remedies = {
            "minmax": quantize(graph, table, family),
            f"range kind {basis.ranges}": plain,
            "reconstructed": reconstruct(
                plain, graph, family, calibration[:: max(1, len(calibration) // 16)]
            ),
        }
        start = time.monotonic()
        found = escalate(basis, family, calibration, judge, max_drop=a.max_drop, timed=True, tell=print)
        print(
            f"climb: {time.monotonic() - start:.1f} s; basis: {', '.join(basis.passes) or 'as it is'}, {basis.ranges}"
        )
        for name, j in found.judged.items():
            print(
                f"{name:24} {j.values['sqnr_db']:5.1f} dB  drop {j.drop:.4f} [{j.low:.4f}, {j.high:.4f}]  {j.samples} samples"
            )
        for p in found.runs:
            print(
                f"{p.nodes[0]} … {p.nodes[-1]}: noise {p.noise:.5f}, price {p.price:.2f}, {p.work:.1%} of the MACs"
            )
        for name, q in remedies.items():
            r = judge.judge(open_model(q.model.SerializeToString(), SessionSettings(threads=2)))
            print(f"{name:24} {r.values['sqnr_db']:5.1f} dB  drop {r.drop:.4f} [{r.low:.4f}, {r.high:.4f}]")


if __name__ == "__main__":
    main()
