"""The TensorRT engine over doubles of TensorRT, pycuda and cuda-python: it computes, records its graph
once, and frees what it took."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engines.conftest import MakeVariant

from edgectl.core.errors import EngineError
from edgectl.engines.base import Engine
from edgectl.engines.finalise.golden import check_golden, read_golden
from edgectl.engines.finalise.open import open_engine

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def doubles(monkeypatch: pytest.MonkeyPatch, trt_double: Configure) -> Iterator[None]:
    """In this process, too; gone again afterwards."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "double"))
    yield
    for name in [m for m in sys.modules if m.split(".")[0] in ("tensorrt", "pycuda", "cuda")] + [
        "edgectl.engines.runtimes.tensorrt"
    ]:
        sys.modules.pop(name, None)


def opened(make_variant: MakeVariant, tmp_path: Path) -> Engine:
    return open_engine(make_variant(runtime="tensorrt"), cache=tmp_path / "cache")


def test_it_computes_and_frees_its_memory(make_variant: MakeVariant, tmp_path: Path) -> None:
    variant = make_variant(runtime="tensorrt")
    engine = open_engine(variant, cache=tmp_path / "cache")
    import pycuda.driver as driver

    for _ in range(3):
        assert check_golden(engine, variant).outputs["y"].cosine > 0.9999
    assert "graph" not in engine.runtime  # pycuda has none
    with pytest.raises(EngineError, match="takes float32"):
        engine.run({"x": np.zeros((1, 3, 4, 4), np.float32)})
    assert len(driver.ALLOCATED) == 2
    engine.close()
    engine.close()
    assert driver.ALLOCATED == {}
    assert driver._Context.depth == 0
    with pytest.raises(EngineError, match="closed"):
        engine.run({})


def test_from_the_second_inference_on_it_is_one_graph_that_reads_new_inputs(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    trt_double(cuda_python=1)
    variant = make_variant(runtime="tensorrt", samples=4)
    engine = open_engine(variant, cache=tmp_path / "cache")
    from cuda.bindings import runtime as cuda

    for i, (feeds, wanted) in enumerate(read_golden(variant)):
        np.testing.assert_allclose(engine.run(feeds)["y"], wanted["y"], atol=1e-4)
        assert len(cuda.LAUNCHES) == i  # the first one ran without
    assert engine.runtime.endswith("CUDA graph")
    assert len(cuda.OPEN_GRAPHS) == 1
    engine.close()
    assert not cuda.OPEN_GRAPHS
    assert cuda.ALLOCATED == {}


def test_an_engine_that_cannot_be_recorded_runs_without_a_graph(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    trt_double(cuda_python=1, uncapturable=1)
    variant = make_variant(runtime="tensorrt", samples=4)
    engine = open_engine(variant, cache=tmp_path / "cache")
    from cuda.bindings import runtime as cuda

    check_golden(engine, variant)
    check_golden(engine, variant)
    assert cuda.LAUNCHES == []
    assert "graph" not in engine.runtime
    engine.close()
    assert cuda.ALLOCATED == {}
