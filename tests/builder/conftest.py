"""A model as a file, and data to calibrate it with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from support.builder.nets import Save, images


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(model: ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.npz"
    np.savez(path, image=np.concatenate([f["image"] for f in images(32)]))
    return path
