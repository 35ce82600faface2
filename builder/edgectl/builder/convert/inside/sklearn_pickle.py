"""Estimators and pipelines of scikit-learn as ``joblib`` or ``pickle`` writes them. Reading a pickle runs what it names: only with the
user's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgectl.builder.convert.inside.shape import Answers, Code, Job, Refused, Signature
from edgectl.builder.convert.inside.sklearn_export import (
    PIP,
    answers_of_estimator,
    convert_estimator,
    is_estimator,
)

__all__ = ["CODE", "NAME", "NEEDS", "applies", "convert", "opened"]

NAME = "a pickle"
NEEDS = {"sklearn": PIP, "skl2onnx": PIP, "joblib": PIP, "onnx": PIP}
CODE: Code = "inside"

_SUFFIXES = (".joblib", ".pkl", ".pickle")


def applies(source: str) -> bool:
    path = Path(source)
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def convert(job: Job) -> Signature:
    return convert_estimator(job, _estimator(job.source))


def opened(job: Job, signature: Signature) -> Answers:
    return answers_of_estimator(_estimator(job.source), signature)


def _estimator(source: str) -> Any:
    import joblib
    import sklearn.base  # noqa: F401  so that is_estimator knows it

    # reads what pickle writes, too
    found = joblib.load(source)
    if not is_estimator(found):
        raise Refused(
            f"it holds a {type(found).__name__}, not an estimator of scikit-learn",
            "of PyTorch: write a Python function that makes the module, and give module:function",
        )
    return found
