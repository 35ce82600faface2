import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.conftest import MakeVariant

from edgectl.core.bundle import Tolerance
from edgectl.core.errors import BundleError, GoldenError
from edgectl.engines.finalise.golden import GoldenResult, check_golden, compare
from edgectl.engines.finalise.open import open_engine

EXACT = Tolerance(cosine=1.0, max_abs=0.0)


def test_a_good_engine_passes_and_reports_the_worst_sample(make_variant: MakeVariant) -> None:
    variant = make_variant(samples=3)
    result = check_golden(open_engine(variant), variant)
    assert result.samples == 3
    assert result.outputs["y"].max_abs <= 1e-5


@pytest.mark.parametrize(("got", "score"), [(1.0, 1.0), (0.95, 0.95), (1.07, 0.93), (3.0, 0.0)])
def test_score_is_how_closely_the_worst_output_is_reproduced(got: float, score: float) -> None:
    want, loose = np.arange(1.0, 9.0), Tolerance(cosine=0.9, max_abs=1e9)
    fine, worst = compare("x", want, want, loose), compare("y", want, got * want, loose)
    assert GoldenResult(1, {"x": fine, "y": worst}, 0.9).score == pytest.approx(score)


def test_output_that_is_nothing_but_rounding_does_not_count_in_the_score() -> None:
    noise = Tolerance(cosine=0.0, max_abs=1e-5)
    found = compare("y", np.array([1e-7, -1e-7]), np.array([1e-7, 1e-7]), noise)
    assert GoldenResult(1, {"y": found}, 1.0).score == 1.0


def test_least_score_is_that_of_an_engine_which_just_meets_the_tolerance(make_variant: MakeVariant) -> None:
    variant = make_variant()
    cosine = 0.998
    wide = {n: Tolerance(cosine=cosine, max_abs=1e9) for n in variant.config.golden.tolerances}
    golden = variant.config.golden.model_copy(update={"tolerances": wide})
    variant.config = variant.config.model_copy(update={"golden": golden})
    result = check_golden(open_engine(variant), variant)
    assert result.least == pytest.approx(1 - np.sqrt(2 * (1 - cosine)))
    angle = np.arccos(cosine)
    just = compare(
        "y", np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)]), Tolerance(cosine=0.99, max_abs=9)
    )
    assert 1 - just.relative == pytest.approx(result.least)


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
