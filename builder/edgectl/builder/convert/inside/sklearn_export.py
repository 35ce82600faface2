"""What the two ways of an estimator of scikit-learn have in common: skl2onnx makes ONNX of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from edgectl.builder.convert.inside.shape import Answers, Job, Refused, Signature

__all__ = ["PIP", "answers_of_estimator", "convert_estimator", "is_estimator"]

PIP = "pip install 'edgectl[convert]'"
_INPUT = "input"


def is_estimator(value: Any) -> bool:
    """Whether it is of scikit-learn, without importing that."""
    base = sys.modules.get("sklearn.base")
    return base is not None and isinstance(value, base.BaseEstimator)


def convert_estimator(job: Job, estimator: Any, *, notes: Mapping[str, Any] | None = None) -> Signature:
    """Write ``job.onnx``: one input of float32 rows. Probabilities are one tensor, labels another."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    features = getattr(estimator, "n_features_in_", None)
    if features is None:
        raise Refused(
            f"{type(estimator).__name__} says nothing of its inputs: it is not fitted",
            "call its fit() before it is saved or returned",
        )
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    model = to_onnx(
        estimator,
        initial_types=[(_INPUT, FloatTensorType([None, int(features)]))],
        options=options,
        target_opset=17,
    )
    job.onnx.write_bytes(model.SerializeToString())
    return Signature(
        tuple(i.name for i in model.graph.input),
        tuple(o.name for o in model.graph.output),
        f"skl2onnx {version('skl2onnx')}",
        f"scikit-learn {version('scikit-learn')}",
        notes=notes or {},
    )


def answers_of_estimator(estimator: Any, signature: Signature) -> Answers:
    """``predict`` and ``predict_proba``, ``predict`` or ``transform``, whichever the converter wrote."""
    import numpy as np
    from sklearn.base import is_classifier

    def answers(feeds: Mapping[str, Any]) -> list[Any]:
        rows = feeds[_INPUT]
        if is_classifier(estimator):
            found = [estimator.predict(rows)]
            if len(signature.outputs) > 1:
                found.append(np.asarray(estimator.predict_proba(rows), np.float32))
            return found
        if hasattr(estimator, "predict"):
            found = [np.asarray(estimator.predict(rows)).reshape(len(rows), -1)]
            if len(signature.outputs) > 1 and hasattr(estimator, "transform"):
                found.append(np.asarray(estimator.transform(rows)))
            elif len(signature.outputs) > 1 and hasattr(estimator, "decision_function"):
                found.append(np.asarray(estimator.decision_function(rows)).reshape(len(rows), -1))
            return found
        return [np.asarray(estimator.transform(rows))]

    return answers
