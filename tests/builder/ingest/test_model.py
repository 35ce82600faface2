"""What samples are read, and what each of them is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.builder.nets import residual_net

from edgectl.builder.budget import Budget
from edgectl.builder.ingest.model import IngestedModel, Validation, ingest_samples
from edgectl.builder.ingest.samples import MAX_SAMPLES, FeedsView
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.bundle import TensorSpec
from edgectl.core.task import ImageInput, TaskSpec

INPUTS = (TensorSpec(name="image", shape=(1, 3, 32, 32), dtype="float32"),)


def _npz(path: Path, count: int, value: float) -> str:
    np.savez(path, image=np.full((count, 3, 32, 32), value, np.float32))
    return str(path)


def test_what_only_teaches_is_in_no_slice_and_may_be_more_than_a_slice_ever_is(tmp_path: Path) -> None:
    model = IngestedModel(residual_net(), INPUTS, TaskSpec(name="net", input=ImageInput(width=32, height=32)))
    read = ingest_samples(
        model,
        BuildMonitor(Budget()),
        tmp_path,
        calibration=_npz(tmp_path / "calibration.npz", 16, 0.25),
        validation=Validation(),
        teach=_npz(tmp_path / "more.npz", MAX_SAMPLES + 40, 0.75),
    )
    slices = read.slices
    judged = [*slices.calibration, *slices.search, *slices.confirmation]
    assert len(judged) == 16
    assert all(float(s.feeds["image"].max()) == 0.25 for s in judged)
    teaching = FeedsView(read.teaching)
    assert len(teaching) == MAX_SAMPLES + 40
    assert float(teaching[-1]["image"].min()) == 0.75
