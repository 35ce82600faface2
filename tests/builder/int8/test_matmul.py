"""Matrix products without calibrated activations: right numbers in both runtimes, few bytes, and only
where they pay."""

import numpy as np
import pytest
from support.builder.generated import mlp
from support.builder.kernels import DOT_PRODUCTS
from support.builder.nets import residual_net

from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.lint import lint
from edgectl.builder.int8.matmul import FORMS, Form, matmuls_dominate, rewrite_matmuls
from edgectl.builder.int8.placement import KEPT
from edgectl.core.bundle import Runtime, SessionSettings
from edgectl.engines.finalise.golden import measure
from edgectl.engines.finalise.open import open_model

COSINE = {"dynamic": 0.999, "weights-8": 0.9999, "weights-4": 0.98}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [48, 64])  # 48: the last block of 32 is half full
def test_each_form_computes_what_float_does(form: Form, runtime: Runtime, width: int) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    elif form == "dynamic" and not DOT_PRODUCTS:
        pytest.skip("its products of 8 bits saturate on this processor")
    model = mlp(3, width=width)
    q = rewrite_matmuls(model, form, FAMILIES["x86-vnni"])
    feeds = {"x": np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)}
    out = model.graph.output[0].name
    settings = SessionSettings(precision_hint="f32" if runtime == "openvino" else None)
    want, got = (
        open_model(m.SerializeToString(), settings, runtime=r).run(feeds)[out]
        for m, r in ((model, "onnxruntime"), (q.model, runtime))
    )
    assert measure(want.ravel().astype(np.float64), got.ravel().astype(np.float64)).cosine > COSINE[form]
    assert lint(q.model, FAMILIES[form]) == []
    assert {r.precision for r in q.layers} == {"int8"}


def test_bytes_shrink_with_the_bits() -> None:
    model = mlp(1, width=256)
    sizes = {f: len(rewrite_matmuls(model, f, FAMILIES["x86-vnni"]).model.SerializeToString()) for f in FORMS}
    float_bytes = len(model.SerializeToString())
    assert sizes["dynamic"] < 0.27 * float_bytes
    assert sizes["weights-8"] < 0.30 * float_bytes  # a float scale for every 32 codes
    assert sizes["weights-4"] < 0.17 * float_bytes


def test_without_dot_products_codes_have_seven_bits() -> None:
    q = rewrite_matmuls(mlp(1), "dynamic", FAMILIES["x86-avx2"])
    assert q.family.weight_max == 63
    assert lint(q.model, q.family) == []
    codes = [t for t in q.model.graph.initializer if t.name.endswith("_codes")]
    assert max(np.abs(np.frombuffer(t.raw_data, np.int8)).max() for t in codes) == 63


def test_a_product_that_the_user_keeps_stays_as_it_was() -> None:
    q = rewrite_matmuls(mlp(1), "weights-4", FAMILIES["x86-vnni"], kept=["gemm2"])
    assert next(n for n in q.model.graph.node if n.name == "gemm2").op_type == "Gemm"
    assert q.placement.reasons == {"gemm2": KEPT}


def test_only_graphs_of_products_are_rewritten() -> None:
    assert matmuls_dominate(mlp(1))
    assert not matmuls_dominate(residual_net())
