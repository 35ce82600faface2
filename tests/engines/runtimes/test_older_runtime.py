"""What a newer Python built, an older one runs: every kind of engine and of bundle. ``$EDGECTL_BUILT`` is
made by tests/support/every_kind.py.

``.ci/run`` builds with the newest Python and runs this with 3.10, whose ONNX Runtime is the last one for it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgectl.core.bundle import Bundle
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.golden import check_golden, measure
from edgectl.engines.finalise.open import open_engine, open_model

BUILT = Path(os.environ.get("EDGECTL_BUILT", ""))
pytestmark = pytest.mark.skipif(
    "EDGECTL_BUILT" not in os.environ, reason="nothing built by another Python ($EDGECTL_BUILT)"
)
KINDS = [
    "float",
    "x86-vnni",
    "x86-avx2",
    "arm64",
    "openvino",
    "trt-gpu",
    "trt-dla",
    "dynamic",
    "weights-8",
    "weights-4",
]


def test_every_kind_was_made() -> None:
    assert sorted(p.stem for p in (BUILT / "graphs").glob("*.onnx")) == sorted(KINDS)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_graph_opens_and_computes(kind: str, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    with np.load(BUILT / "graphs" / f"{kind}.npz") as arrays:
        feeds = {k[3:]: v for k, v in arrays.items() if k.startswith("in/")}
        want = {k[4:]: v for k, v in arrays.items() if k.startswith("out/")}
    engine = open_model(BUILT / "graphs" / f"{kind}.onnx", runtime=runtime)
    got = engine.run(feeds)
    engine.close()
    for name, array in want.items():
        assert measure(array.ravel().astype(np.float64), got[name].ravel().astype(np.float64)).cosine > 0.98


@pytest.mark.parametrize("name", ["plain", "packed"])
def test_every_variant_of_a_bundle_opens_and_those_for_this_machine_are_golden(
    name: str, tmp_path: Path
) -> None:
    machine = probe()
    bundle = Bundle(BUILT / "bundles" / name)
    opened = []
    for variant in bundle.variants:
        if variant.config.runtime == "tensorrt":
            continue
        engine = open_engine(variant)
        if not variant.config.requires or all(r in machine.facts for r in variant.config.requires):
            check_golden(engine, variant)
            check_golden(open_engine(variant, cache=tmp_path / "cache"), variant)
        else:
            spec = engine.inputs[0]
            engine.run({spec.name: np.zeros(spec.shape, spec.dtype)})
        engine.close()
        opened.append(variant.config.recipe.family)
    assert "float" in opened
    assert len(opened) >= 2, opened
