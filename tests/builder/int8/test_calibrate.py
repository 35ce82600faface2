"""One streaming pass; numpy, which sees everything at once, is the oracle."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.builder.nets import images, residual_net

from edgectl.builder.int8.calibrate import (
    RANGE_KINDS,
    ActivationCollector,
    ActivationHistogram,
    CalibrationTable,
    calibrate,
)
from edgectl.core.errors import DataError

DATA = "sha256:" + "0" * 64


def seen(batches: list[np.ndarray]) -> CalibrationTable:
    collector = ActivationCollector()
    for b in batches:
        collector.update("t", b.astype(np.float32))
    return CalibrationTable(collector.ranges(), len(batches), DATA, DATA, collector.histograms)


def test_extremes_and_their_means() -> None:
    r = seen([np.array(v) for v in ([0.0, 1.0], [-2.0, 5.0], [0.0, 3.0])]).ranges["t"]
    assert (r.low, r.high) == (-2.0, 5.0)
    assert r.typical_low == pytest.approx(-2 / 3)
    assert r.typical_high == pytest.approx(3.0)
    with pytest.raises(DataError, match="not finite"):
        seen([np.asarray([np.nan])])


def test_every_tensor_is_covered_and_samples_are_needed() -> None:
    model = residual_net()
    table = calibrate(model, images(8), data_digest=DATA)
    assert table.ranges.keys() == {"image", "c1", "r1", "c2", "r2", "c3", "a", "cat", "p", "out"}
    with pytest.raises(DataError, match="no calibration samples"):
        calibrate(model, [], data_digest=DATA)


def test_the_digest_is_bound_to_the_model_and_to_the_data() -> None:
    a = calibrate(residual_net(), images(8), data_digest=DATA)
    assert a.digest == calibrate(residual_net(), images(8), data_digest=DATA).digest
    assert a.digest != calibrate(residual_net(), images(8), data_digest="sha256:" + "1" * 64).digest
    assert a.model_digest != calibrate(residual_net(seed=1), images(8), data_digest=DATA).model_digest


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_streamed_counts_are_those_of_one_histogram_over_everything(seed: int, scales: list[float]) -> None:
    rng = np.random.default_rng(seed)
    batches = [(rng.standard_normal(500) * s).astype(np.float32) for s in scales]
    h = seen(batches).histograms["t"]
    whole = np.concatenate(batches)
    assert h.counts.sum() == whole.size
    assert np.abs(whole).max() <= h.limit
    want, _ = np.histogram(whole.astype(np.float64), bins=h.edges)
    # A value on an edge may fall to either side; cumulated counts differ by those at most.
    assert np.abs(np.cumsum(want) - np.cumsum(h.counts)).max() <= 2


def test_a_tensor_of_zeros_first_and_values_later() -> None:
    h = seen([np.zeros(10), np.array([0.5, -4.0]), np.array([100.0])]).histograms["t"]
    assert h.counts.sum() == 13
    assert h.counts[1024] == 10
    assert h.limit == 128.0


def test_percentiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    table = seen(np.split(values, 20))
    low, high = table.range("t", "percentile")
    width = 2 * table.histograms["t"].limit / 2048
    assert low == pytest.approx(np.percentile(values, 0.005), abs=2 * width)
    assert high == pytest.approx(np.percentile(values, 99.995), abs=2 * width)


@pytest.mark.parametrize("kind", ["entropy", "percentile"])
def test_one_outlier_does_not_cost_everyone_their_steps(kind: str) -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    low, high = seen([values, np.array([80.0])]).range("t", kind)  # type: ignore[arg-type]
    assert high < 40
    assert low >= values.min() - 0.1


def test_the_range_of_least_error_has_less_error_than_the_extremes() -> None:
    values = np.random.default_rng(0).laplace(size=200_000)
    table = seen(np.split(values, 10))

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        return float(
            np.square(values - np.clip(np.rint((values - low) / step) * step + low, low, high)).mean()
        )

    assert error(*table.range("t", "mse")) < 0.9 * error(*table.range("t", "minmax"))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=50), st.sampled_from(RANGE_KINDS))
def test_every_range_lies_inside_the_extremes(values: list[float], kind: str) -> None:
    table = seen([np.asarray(values)])
    low, high = table.range("t", kind)  # type: ignore[arg-type]
    r = table.ranges["t"]
    assert (
        min(r.low, 0) <= low <= high <= max(r.high, 0) or low == high == 0 or r.low <= low <= high <= r.high
    )


def test_memory_is_sixteen_kibibytes_a_tensor() -> None:
    h = ActivationHistogram()
    h.update(np.ones(10_000, np.float32), 1.0)
    assert h.counts.nbytes == 16384


def masked(value: float) -> onnx.ModelProto:
    """x [1, 8] → x + mask (``value`` in every second place) → Softmax → y."""
    mask = np.where(np.arange(8) % 2, 0, value).astype(np.float32)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in ("x", "y")]
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["a"], name="add"),
        helper.make_node("Softmax", ["a"], ["y"], name="softmax"),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(mask, "mask")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def test_a_mask_of_minus_infinity_has_no_range_and_stops_nothing() -> None:
    samples = [{"x": np.random.default_rng(i).standard_normal((1, 8)).astype(np.float32)} for i in range(4)]
    table = calibrate(masked(-np.inf), samples, data_digest=DATA)
    assert table.ranges.keys() == table.histograms.keys() == {"x", "y"}
    with pytest.raises(DataError, match=r"tensor [ay] is not finite"):
        calibrate(masked(np.nan), samples, data_digest=DATA)
