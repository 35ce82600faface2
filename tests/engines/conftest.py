"""Variants and doubles for the engine tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.variants import MakeVariant, small_model, variant_factory

__all__ = ["MakeVariant", "make_variant", "small_model", "trt_double"]


@pytest.fixture
def make_variant(tmp_path: Path) -> MakeVariant:
    return variant_factory(tmp_path)


@pytest.fixture
def trt_double(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the TensorRT and pycuda doubles on the path of child processes; call it to set version and
    faults."""
    import os

    double = str(Path(__file__).parent / "double")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([double, os.environ["PYTHONPATH"]]))

    def configure(**faults: object) -> None:
        monkeypatch.setenv("TRT_DOUBLE", json.dumps(faults))

    configure()
    return configure
