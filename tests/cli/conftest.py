from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.builder.build import build_bundle
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

YARD = "synth://yard?seed=5&paced=0&fps=2&seconds=8"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle of the yard detector, built once."""
    ours = reference("yard-detector")
    out = tmp_path_factory.mktemp("bundle") / "yard"
    build_bundle(
        ours.model,
        profiles=["cpu"],
        task=load_task(str(ours.task)),
        calibration=YARD,
        out=out,
        minutes=0.02,
        name="yard",
        max_drop=0.5,
    )
    return out
