"""What each compression costs and gains on a trained model: the digits CNN of the tests (torch and scikit-learn needed).

    python bench/compression.py --minutes 0.3

Top-1 on test labels that nothing was trained or chosen on; latency as a paired ratio to the float model, one thread, interleaved.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.builder.digits import digits, top1

from edgectl.builder.accuracy import Judge
from edgectl.builder.compress.options import CompressOptions, parse_options
from edgectl.builder.compress.run import compress
from edgectl.builder.data import Sample
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.probe import probe
from edgectl.engines.open import open_model
from edgectl.engines.timing import load_1m


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.3, help="of recovery, where it is tried")
    minutes = parser.parse_args().minutes
    model, samples, tests, labels = digits()
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TaskSpec(name="digits", input=TensorInput(), metric="top1"), [Sample(f) for f in tests], engine)
    print(f"{probe().summary}; load {load_1m()}; float top-1 {top1(model, tests, labels):.4f} on {len(labels)} pictures")
    print(
        "| asked for | top-1 | MACs × | latency × [95 %] | speed-up / MAC reduction | bytes | packed |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    tries: list[tuple[str, CompressOptions]] = []
    for share in ("0.3", "0.5"):
        tries += [
            (f"channel:{share}/{step}", parse_options([f"channel:{share}/{step}"], recover_minutes=minutes))
            for step in (1, 8, 16)
        ]
    tries += [
        (f"channel:0.5/8 {i}, not recovered", parse_options(["channel:0.5/8"], importance=i))
        for i in ("magnitude", "activation", "taylor")
    ]
    tries += [
        ("magnitude:0.8", parse_options(["magnitude:0.8"], recover_minutes=minutes)),
        ("2:4", parse_options(["2:4"], recover_minutes=minutes)),
    ]
    tries += [(f"cluster {k}", parse_options(cluster=k)) for k in (256, 32, 16, 8)]
    for name, options in tries:
        small, report = compress(model, options, samples, judge, max_drop=1.0)
        s = report.steps[-1]
        efficiency = (1 / s.latency_ratio) / (1 / s.macs_ratio)
        print(
            f"| {name} | {top1(small, tests, labels):.4f} | {s.macs_ratio:.3f} | {s.latency_ratio:.3f} [{s.latency_low:.3f}, {s.latency_high:.3f}] "
            f"| {efficiency:.2f} | {s.bytes} | {s.packed_bytes} |"
        )


if __name__ == "__main__":
    main()
