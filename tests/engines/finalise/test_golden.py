import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.conftest import MakeVariant

from edgectl.core.bundle import Tolerance
from edgectl.core.errors import BundleError, GoldenError
from edgectl.engines.finalise.golden import check_golden, compare
from edgectl.engines.finalise.open import open_engine

EXACT = Tolerance(cosine=1.0, max_abs=0.0)


def test_a_good_engine_passes_and_reports_the_worst_sample(make_variant: MakeVariant) -> None:
    variant = make_variant(samples=3)
    result = check_golden(open_engine(variant), variant)
    assert result.samples == 3
    assert result.outputs["y"].max_abs <= 1e-5


def test_an_engine_that_is_off_is_named_with_its_numbers(make_variant: MakeVariant) -> None:
    variant = make_variant(shift=0.1)
    with pytest.raises(
        GoldenError, match=r"output y of golden sample 0: cosine 0\.\d+ .* largest error 0\.1"
    ):
        check_golden(open_engine(variant), variant)


def test_a_golden_layer_with_too_few_samples_is_refused(make_variant: MakeVariant) -> None:
    variant = make_variant(samples=1)
    short = variant.config.model_copy(
        update={"golden": variant.config.golden.model_copy(update={"samples": 2})}
    )
    variant.config = short
    with pytest.raises(BundleError, match="lacks samples"):
        check_golden(open_engine(variant), variant)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    want = np.ones(4, np.float32)
    got = want.copy()
    got[2] = bad
    with pytest.raises(GoldenError, match="NaN or Inf"):
        compare("y", want, got, Tolerance(cosine=0, max_abs=1e30))
    assert compare("y", got, got, EXACT).max_abs == 0  # where the golden one has it too, it is right


def test_another_shape_is_refused() -> None:
    with pytest.raises(GoldenError, match="shape"):
        compare("y", np.zeros((1, 4)), np.zeros(4), EXACT)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.floats(0.01, 10))
def test_an_error_beyond_the_tolerance_never_passes(values: list[float], shift: float) -> None:
    want = np.asarray(values, np.float64)
    with pytest.raises(GoldenError):
        compare("y", want, want + shift, Tolerance(cosine=0.0, max_abs=shift * 0.99))
    compare("y", want, want + shift, Tolerance(cosine=-1.1, max_abs=shift * 1.01))
