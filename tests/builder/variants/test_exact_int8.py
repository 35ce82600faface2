"""A runtime whose int8 products are wrong is told of before the build blames the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.builder.older_runtime import OLDER_RUNTIME

from edgectl.builder.variants import exact_int8
from edgectl.builder.variants.exact_int8 import inexact_int8, int8_is_exact
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.finalise.open import open_model


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    int8_is_exact.cache_clear()


@pytest.mark.skipif(OLDER_RUNTIME, reason="its AMX kernels are wrong")
def test_the_runtime_of_today_multiplies_exactly_and_nothing_is_said():
    assert int8_is_exact()
    assert inexact_int8() == []


@pytest.mark.parametrize("errors", [0, 1])
def test_a_single_wrong_product_is_told_with_the_next_step(monkeypatch: pytest.MonkeyPatch, errors: int):
    def opened(model: bytes, settings: object) -> Engine:
        engine = open_model(model, settings)
        run = engine.run

        def wrong(feeds: Feeds) -> Outputs:
            exact = feeds["a"].astype(np.int64) @ stored(model)
            exact[31, 23] += errors
            return {**run(feeds), "y": exact.astype(np.int32)}

        monkeypatch.setattr(engine, "run", wrong)
        return engine

    monkeypatch.setattr(exact_int8, "open_model", opened)
    told = inexact_int8()
    assert bool(told) == bool(errors)
    assert all("multiplies int8 wrongly" in t and "newer onnxruntime" in t for t in told)


def stored(model: bytes) -> np.ndarray:
    graph = onnx.load_from_string(model).graph
    return onnx.numpy_helper.to_array(graph.initializer[0]).astype(np.int64)
