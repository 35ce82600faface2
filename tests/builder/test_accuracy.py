import numpy as np
import pytest

from edgectl.builder.accuracy import Judge, average_precision
from edgectl.builder.data import Sample
from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import DecodeSpec, TaskSpec, TensorInput
from edgectl.pipelines.decode.base import Detections


def found(*rows: tuple[float, float, int]) -> Detections:
    """(x, score, class): boxes of 10 × 10 pixels at x."""
    xyxy = np.asarray([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32).reshape(-1, 4)
    return Detections(xyxy, np.asarray([s for _, s, _ in rows], np.float32), np.asarray([c for *_, c in rows], np.int32))


def test_average_precision_by_hand() -> None:
    truth = [found((0, 1, 0), (50, 1, 0)), found((0, 1, 1))]
    assert average_precision(truth, truth) == 1.0
    assert average_precision(truth, [found(), found()]) == 0.0
    assert average_precision(truth, [found((0, 0.9, 0)), found()]) == pytest.approx(1 / 3)
    assert average_precision(truth, [found((0, 0.9, 1), (50, 0.8, 1)), found((0, 0.7, 0))]) == 0.0  # right boxes, wrong classes
    # hits at ranks 2, 3 and 4: the envelope is 3/4 all along
    late = [found((200, 0.99, 0), (0, 0.9, 0), (50, 0.8, 0)), found((0, 0.7, 1))]
    assert average_precision(truth, late) == pytest.approx(3 / 4)
    twice = [found((0, 0.9, 0), (1, 0.8, 0), (50, 0.7, 0)), found((0, 0.6, 1))]
    assert average_precision(truth, twice) == pytest.approx(1 / 3 + 2 / 3 * 3 / 4)
    assert average_precision([found()], [found((0, 1, 0))]) == 1.0


class Fake:
    """An engine whose outputs are given."""

    inputs = outputs = (TensorSpec(name="y", shape=(1, 3), dtype="float32"),)
    runtime = "fake"

    def __init__(self, values: list[list[float]], *, fails: bool = False) -> None:
        self._values, self._fails, self._turn = values, fails, 0

    def run(self, feeds: object) -> dict[str, np.ndarray]:
        if self._fails:
            raise EngineError("no")
        self._turn += 1
        return {"y": np.asarray([self._values[(self._turn - 1) % len(self._values)]], np.float32)}

    def close(self) -> None:
        pass


SAMPLES = [Sample({}), Sample({})]
TOP1 = TaskSpec(name="k", input=TensorInput(), decode=DecodeSpec(kind="keyword"), labels=("a", "b", "c"), metric="top1")
SQNR = TaskSpec(name="t", input=TensorInput())
REFERENCE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_top1_counts_agreements() -> None:
    judge = Judge(TOP1, SAMPLES, Fake(REFERENCE))
    assert judge.judge(Fake([[0.6, 0.4, 0], [0.4, 0.6, 0]])).drop == 0
    assert judge.judge(Fake([[0.6, 0.4, 0], [0.6, 0.4, 0]])).drop == 0.5


def test_sqnr_is_in_decibels_and_drop_is_lost_cosine() -> None:
    judge = Judge(SQNR, SAMPLES, Fake(REFERENCE))
    same = judge.judge(Fake(REFERENCE))
    assert (same.drop, same.values["sqnr_db"]) == (0.0, 120.0)
    off = judge.judge(Fake([[1.1, 0, 0], [0, 1.1, 0]]))
    assert off.values["sqnr_db"] == pytest.approx(20, abs=0.01)
    assert off.drop == 0.0  # the direction is right
    assert judge.judge(Fake([[0, 1.0, 0], [1.0, 0, 0]])).drop == 1.0


def test_a_candidate_that_overflows_or_fails_is_never_good() -> None:
    judge = Judge(SQNR, SAMPLES, Fake(REFERENCE))
    assert judge.judge(Fake([[np.nan, 0, 0]])).drop == 1.0
    with pytest.raises(ModelError, match="does not run"):
        judge.judge(Fake(REFERENCE, fails=True))
