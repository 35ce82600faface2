import numpy as np
import pytest

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.judge.accuracy import FloatTruth, Judge, average_precision, grid_step, match, truth
from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import DecodeSpec, ImageInput, TaskSpec, TensorInput
from edgectl.pipelines.video.decode.base import Detections
from edgectl.pipelines.video.preprocess import LetterboxMeta


def found(*rows: tuple[float, float, int]) -> Detections:
    """(x, score, class): boxes of 10 × 10 pixels at x."""
    xyxy = np.asarray([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32).reshape(-1, 4)
    return Detections(
        xyxy, np.asarray([s for _, s, _ in rows], np.float32), np.asarray([c for *_, c in rows], np.int32)
    )


def sure(of: Detections) -> FloatTruth:
    return FloatTruth(of, np.ones(len(of), bool))


def ap(wanted: list[Detections], got: list[Detections]) -> float:
    return average_precision([match(sure(w), g) for w, g in zip(wanted, got, strict=True)])


def test_average_precision_by_hand() -> None:
    boxes = [found((0, 1, 0), (50, 1, 0)), found((0, 1, 1))]
    assert ap(boxes, boxes) == 1.0
    assert ap(boxes, [found(), found()]) == 0.0
    assert ap(boxes, [found((0, 0.9, 0)), found()]) == pytest.approx(1 / 3)
    # right boxes, wrong classes
    assert ap(boxes, [found((0, 0.9, 1), (50, 0.8, 1)), found((0, 0.7, 0))]) == 0.0
    # hits at ranks 2, 3 and 4: the envelope is 3/4 all along
    late = [found((200, 0.99, 0), (0, 0.9, 0), (50, 0.8, 0)), found((0, 0.7, 1))]
    assert ap(boxes, late) == pytest.approx(3 / 4)
    twice = [found((0, 0.9, 0), (1, 0.8, 0), (50, 0.7, 0)), found((0, 0.6, 1))]
    assert ap(boxes, twice) == pytest.approx(1 / 3 + 2 / 3 * 3 / 4)
    assert ap([found()], [found((0, 1, 0))]) == 1.0


def test_an_object_is_what_float_shows_again_in_noise_and_the_rest_is_ignored() -> None:
    seen = found((0, 0.9, 0), (50, 0.36, 0), (100, 0.2, 0), (150, 0.9, 0))
    copy = found((1, 0.8, 0), (50, 0.34, 0), (150, 0.9, 1), (200, 0.1, 0))
    of = truth(seen, [copy], 0.35)
    assert of.boxes.xyxy[of.objects][:, 0].tolist() == [0]
    # the flickering box, the weak one, the one of changing class and the one that only noise shows: no gain,
    # no loss
    m = match(
        of, found((0, 0.9, 0), (50, 0.5, 0), (100, 0.5, 0), (150, 0.5, 1), (200, 0.5, 0), (250, 0.4, 0))
    )
    assert m.scores.tolist() == pytest.approx([0.9, 0.4])
    assert (m.hits.tolist(), m.objects) == ([True, False], 1)


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
TOP1 = TaskSpec(
    name="k", input=TensorInput(), decode=DecodeSpec(kind="keyword"), labels=("a", "b", "c"), metric="top1"
)
SQNR = TaskSpec(name="t", input=TensorInput())
REFERENCE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_top1_counts_agreements() -> None:
    judge = Judge(TOP1, SAMPLES, Fake(REFERENCE))
    assert judge.judge(Fake([[0.6, 0.4, 0], [0.4, 0.6, 0]])).drop == 0
    assert judge.judge(Fake([[0.6, 0.4, 0], [0.6, 0.4, 0]])).drop == 0.5


@pytest.mark.parametrize("task", [TOP1, SQNR])
def test_what_float_itself_would_be_told_is_known_without_running_it_again(task: TaskSpec) -> None:
    reference = Fake(REFERENCE)
    judge = Judge(task, SAMPLES, reference)
    ran = reference._turn
    assert judge.of_float is not None
    assert reference._turn == ran == 2
    assert judge.of_float == judge.judge(Fake(REFERENCE))


def test_float_that_is_not_finite_is_as_bad_as_any_other(recwarn: pytest.WarningsRecorder) -> None:
    infinite = [[1.0, 0.0, -np.inf], [0.0, 1.0, 0.0]]
    judge = Judge(TOP1, SAMPLES, Fake(infinite))
    assert judge.of_float == judge.judge(Fake(infinite))
    assert judge.of_float is not None
    assert judge.of_float.drop == 1.0
    assert not recwarn.list


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


def test_the_interval_covers_the_drop_and_shrinks_with_samples() -> None:
    widths = []
    for n in (20, 320):
        right = [REFERENCE[i % 2] for i in range(n)]
        wrong = [REFERENCE[(i + (i % 10 == 0)) % 2] for i in range(n)]  # one of ten
        a = Judge(TOP1, [Sample({})] * n, Fake(right)).judge(Fake(wrong))
        assert a.drop == pytest.approx(0.1)
        assert a.low <= a.drop <= a.high
        assert a.samples == n
        widths.append(a.high - a.low)
    assert widths[1] < widths[0] / 2


def test_agreement_on_few_samples_does_not_prove_that_nothing_is_lost() -> None:
    a = Judge(TOP1, [Sample({})] * 30, Fake(REFERENCE)).judge(Fake(REFERENCE))
    assert (a.drop, a.high) == (0.0, pytest.approx(0.1))


def test_a_hopeless_candidate_is_given_up_early() -> None:
    n = 400
    right = [REFERENCE[i % 2] for i in range(n)]
    judge = Judge(TOP1, [Sample({})] * n, Fake(right))
    assert judge.judge(Fake([REFERENCE[0]] * n), limit=0.01).samples < n / 4
    assert judge.judge(Fake(right), limit=0.01).samples == n


class Threshold:
    """Class 1 where the mean of the picture is above a level, class 0 elsewhere."""

    inputs = outputs = (TensorSpec(name="y", shape=(1, 2), dtype="float32"),)
    runtime = "fake"

    def __init__(self, level: float) -> None:
        self.level = level

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        over = float(next(iter(feeds.values())).astype(np.float64).mean()) - self.level
        return {"y": np.asarray([[-over, over]], np.float32)}

    def close(self) -> None:
        pass


def pixels(levels: list[float]) -> list[Sample]:
    """Pictures of 2 × 2 pixels, each of one grey level."""
    return [Sample({"x": np.full((1, 3, 2, 2), v / 255, np.float32)}) for v in levels]


PICTURE = TaskSpec(
    name="p",
    input=ImageInput(width=8, height=8),
    decode=DecodeSpec(kind="keyword"),
    labels=("dark", "light"),
    metric="top1",
)


@pytest.mark.parametrize("task", [PICTURE, TOP1])
def test_what_float_itself_flips_under_one_grey_level_of_noise_is_not_counted(task: TaskSpec) -> None:
    sure, ties = [20.0, 40.0, 180.0, 240.0] * 10, [100.0] * 10
    samples = pixels(sure + ties)
    # a fiftieth of a level below the ties: noise of one level decides there
    judge = Judge(task, samples, Threshold(99.98 / 255))
    a = judge.judge(Threshold(100.02 / 255))  # says otherwise of all ten
    assert len(sure) <= a.units < len(samples)
    assert a.drop == pytest.approx((a.units - len(sure)) / a.units, abs=1e-6)
    assert a.drop < 0.1
    # says otherwise of what float is sure of: the light ones at 180
    really = judge.judge(Threshold(200 / 255))
    assert really.drop >= 10 / really.units


def test_where_float_is_sure_of_nothing_its_outputs_are_compared() -> None:
    # another answer at every call, so also in the noise
    turns = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    a = Judge(TOP1, pixels([100.0, 200.0]), Fake(turns)).judge(Fake([turns[0]]))
    assert "top1_agreement" not in a.values
    assert (a.values["cosine"], a.units) == (1.0, 0)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (np.arange(256) / 255, 1 / 255),
        ((np.arange(256) / 255 - 0.45) / 0.22, 1 / 255 / 0.22),
        (np.arange(256).astype(np.uint8).astype(np.float32), 1.0),
        (np.random.default_rng(0).standard_normal(1000), None),
        (np.zeros(10), None),
        (np.asarray([0.0, 1.0]), 1.0),
    ],
)
def test_the_smallest_step_of_values_on_a_grid(values: np.ndarray, step: float | None) -> None:
    found = grid_step(values.astype(np.float32))
    assert found is None if step is None else found == pytest.approx(step, rel=1e-4)


def test_each_channel_has_a_step_of_its_own() -> None:
    levels = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16) / 255
    std = np.asarray([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
    found = grid_step((levels - 0.4) / std)
    assert found is not None
    np.testing.assert_allclose(found, 1 / 255 / std, rtol=1e-3)


def test_one_flip_of_57_is_told_with_what_it_weighs() -> None:
    right = [REFERENCE[i % 2] for i in range(57)]
    wrong = [right[0][::-1], *right[1:]]
    a = Judge(TOP1, [Sample({})] * 57, Fake(right)).judge(Fake(wrong))
    assert (a.drop, a.units, a.samples) == (pytest.approx(1 / 57, abs=1e-6), 57, 57)


def test_pixels_are_compared_where_float_is_sure_of_them() -> None:
    """Two labels, pixels of 8 × 8. Float changes its mind about one column in the noise."""
    task = TaskSpec(
        name="s",
        metric="pixels",
        input=ImageInput(width=8, height=8),
        decode=DecodeSpec(kind="semantic"),
        labels=("a", "b"),
    )
    meta = LetterboxMeta(1, 1, 0, 0, 8, 8, 8, 8)
    samples = [Sample({"x": np.zeros((1, 3, 8, 8), np.float32)}, meta=meta) for _ in range(4)]

    class Pixels(Fake):
        def __init__(self, of_b: list[int], unsure: int | None = None) -> None:
            self._of_b, self._unsure, self.calls = of_b, unsure, 0

        def run(self, feeds: object) -> dict[str, np.ndarray]:
            out = np.zeros((1, 2, 8, 8), np.float32)
            out[:, 1, :, self._of_b] = 1
            out[:, 0] = 0.5
            if self._unsure is not None:
                self.calls += 1
                out[:, 1, :, self._unsure] = self.calls % 2
            return {"y": out}

    judge = Judge(task, samples, Pixels([0, 1], unsure=7))  # type: ignore[arg-type]
    same = judge.judge(Pixels([0, 1]))  # type: ignore[arg-type]
    assert judge.of_float is not None
    assert judge.of_float.values["pixels_vs_float"] == 1.0
    assert (same.drop, same.values["pixels_vs_float"]) == (0.0, 1.0)
    # one column of seven that float is sure of
    other = judge.judge(Pixels([0, 1, 2]))  # type: ignore[arg-type]
    assert other.drop == pytest.approx(1 / 7, abs=1e-4)
    assert other.samples == 4
