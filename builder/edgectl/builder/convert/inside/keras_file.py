"""Keras 3 files (``.keras``), read in safe mode: a layer that is code inside the file (Lambda) is refused by Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgectl.builder.convert.inside.archive import members
from edgectl.builder.convert.inside.saved_model import PIP, answers_of_folder, convert_folder
from edgectl.builder.convert.inside.shape import Answers, Code, Job, Signature

__all__ = ["CODE", "NAME", "NEEDS", "applies", "convert", "opened"]

NAME = "a Keras file"
NEEDS = {"tensorflow": PIP, "keras": PIP, "tf2onnx": PIP, "onnx": PIP}
CODE: Code = "none"


def applies(source: str) -> bool:
    names = members(source)
    return Path(source).suffix == ".keras" or {"metadata.json", "config.json", "model.weights.h5"} <= set(
        names
    )


def convert(job: Job) -> Signature:
    folder = job.folder / "saved"
    _model(job.source).export(str(folder), verbose=False)
    return convert_folder(job, folder)


def opened(job: Job, signature: Signature) -> Answers:
    return answers_of_folder(job.folder / "saved", signature)


def _model(source: str) -> Any:
    import os

    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    return keras.saving.load_model(source, compile=False, safe_mode=True)
