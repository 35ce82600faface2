"""What ships of a candidate whose float layers compute in bfloat16: what it needs of a device, what it says of its layers,
and how near its golden outputs a device must come. The CPU that has bfloat16 is played by one that rounds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.builder.models import quantized_model, trial_of
from support.builder.nets import images, residual_net

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import FamilyGraphs
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.pack import variant as pack_variant
from edgectl.builder.pack.package import write_bundle
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.search.candidates import Candidate, CandidateGraph, CandidateOutcome, Pick
from edgectl.builder.variants import measured
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.measured import fallback_draft, picked_draft
from edgectl.core.bundle import Bundle, SessionSettings
from edgectl.core.errors import BundleError, GoldenError
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import probe
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_model
from edgectl.engines.runtimes.openvino import OpenVinoEngine

pytestmark = pytest.mark.slow

HERE = probe().model_copy(update={"arch": "x86_64", "isa": ("avx2", "avx512_bf16", "avx512_vnni")})
NEEDS = "isa:avx512_bf16|isa:amx_bf16"
KINDS = [
    ("float", "openvino-bfloat16", "bfloat16", ("arch:x86_64", NEEDS)),
    ("full", "openvino-int8-bfloat16", "int8", ("arch:x86_64", "isa:avx512_vnni|isa:avx_vnni", NEEDS)),
]


class _Rounded:
    """A CPU that computes in bfloat16, or an engine of it: what comes out has 8 bits of fraction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.inputs, self.outputs, self.runtime = engine.inputs, engine.outputs, engine.runtime

    def run(self, feeds: Feeds) -> Outputs:
        return {
            n: (a.view(np.uint32) & 0xFFFF0000).view(np.float32) for n, a in self._engine.run(feeds).items()
        }

    def close(self) -> None:
        self._engine.close()


def _opened(
    model: Path | bytes, settings: SessionSettings | None = None, *, runtime: str = "onnxruntime"
) -> Engine:
    """In ONNX Runtime, wherever it is asked for."""
    engine = open_model(model, SessionSettings())
    return _Rounded(engine) if settings is not None and settings.precision_hint == "bf16" else engine


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    net, samples = residual_net(), images(4)
    table = calibrate(net, samples, data_digest="sha256:" + "0" * 64)
    graphs = {"full": quantize(net, table, FAMILIES["x86-vnni"], kept={"first"})}
    made = quantized_model(
        net,
        TaskSpec(name="t", input=TensorInput()),
        [Sample(s) for s in samples],
        table=table,
        families={"x86-vnni": FamilyGraphs(graphs, {}, ())},
    )
    return replace(made, bases=_AnyBasis(made))


class _AnyBasis(dict[Any, Any]):
    """Every family is written from the model as it is."""

    def __init__(self, made: QuantizedModel) -> None:
        from edgectl.builder.int8.basis import QuantizationBasis

        assert made.table is not None
        self._basis = QuantizationBasis(made.source.graph, made.table, (), "minmax")

    def __missing__(self, key: object) -> object:
        return self._basis


@pytest.fixture
def draft_of(model: QuantizedModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    class Told:
        """OpenVINO keeps a layer in float32; the head goes by the name of the output."""

        def __init__(self, *_: object) -> None: ...

        def layer_precisions(self) -> dict[str, str]:
            return {"first": "bf16", "point": "f32", "depth": "u8", "out": "bf16", "relu1": "bf16"}

        def close(self) -> None: ...

    monkeypatch.setattr(measured, "OpenVinoEngine", Told)

    def draft(recipe: str) -> VariantDraft:
        precision = "float32" if recipe == "float" else "int8"
        data = model.source.onnx_bytes
        if recipe != "float":
            data = model.families["x86-vnni"].recipes[recipe].model.SerializeToString(deterministic=True)
        graph = CandidateGraph(recipe, data, precision)  # type: ignore[arg-type]
        c = Candidate(graph, "openvino", SessionSettings(precision_hint="bf16"))
        trial = trial_of(model, HERE)
        return picked_draft(model, trial, load_profile("cpu"), Pick(CandidateOutcome(c), ("fast",)))

    return draft


@pytest.mark.parametrize(("recipe", "variant", "precision", "needs"), KINDS)
def test_it_says_what_it_computes_in_and_what_a_device_must_have(
    recipe: str, variant: str, precision: str, needs: tuple[str, ...], draft_of: Any
) -> None:
    draft = draft_of(recipe)
    assert (draft.variant, draft.precision, draft.recipe.precision, draft.requires) == (
        variant,
        precision,
        precision,
        needs,
    )
    assert draft.session.precision_hint == "bf16"
    layers = {r.node: r.precision for r in draft.layers if r.op == "Conv"}
    assert layers["first"] == "bfloat16"
    assert layers["head"] == ("bfloat16" if recipe == "float" else "int8")
    assert layers["point"] == ("float32" if recipe == "float" else "int8")


@pytest.mark.parametrize("recipe", ["float", "full"])
def test_a_device_without_it_passes_over_and_one_with_it_reproduces_the_golden_outputs(
    recipe: str, draft_of: Any, model: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_variant, "open_model", _opened)
    draft = draft_of(recipe)
    plain_needs = tuple(r for r in draft.requires if r != NEEDS)
    session = SessionSettings(precision_hint="f32")
    full = replace(draft, variant="full-precision", session=session, requires=plain_needs)
    last = fallback_draft(model, trial_of(model, HERE), load_profile("cpu"), None)
    task, graph = model.source.task, model.source.onnx_bytes
    digest = "sha256:" + "1" * 64
    identity = Identity("n", "1", task, (), digest, {}, None, model.samples.confirmation, graph)
    write_bundle(
        tmp_path / "b", [make_variant(identity, d) for d in (draft, full, last)], name="n", version="1"
    )
    bundle = Bundle(tmp_path / "b")
    lower, plain, fallback = bundle.variants
    assert lower.config.session.precision_hint == "bf16"

    runtimes = ("onnxruntime", "openvino")
    older = HERE.facts - {"isa:avx512_bf16"}
    assert bundle.select(HERE.facts, runtimes=runtimes).digest == lower.digest
    assert bundle.select(older | {"isa:amx_bf16"}, runtimes=runtimes).digest == lower.digest
    assert bundle.select(older, runtimes=runtimes).digest == plain.digest
    assert bundle.select(older, runtimes=["onnxruntime"]).digest == fallback.digest
    with pytest.raises(BundleError, match=rf"cpu/{draft.variant} needs arch:x86_64, {re.escape(NEEDS)};"):
        bundle.select(older - {"arch:x86_64"}, runtimes=runtimes)

    engine = _opened(draft.model, draft.session)
    check_golden(engine, lower)
    if recipe == "float":
        # told to compute in float32, a device must come nearer
        with pytest.raises(GoldenError, match="largest error"):
            check_golden(engine, plain)


def test_openvino_says_what_it_computes_each_layer_in() -> None:
    engine = OpenVinoEngine(residual_net().SerializeToString(), SessionSettings(precision_hint="f32"))
    found = engine.layer_precisions()
    engine.close()
    assert {n: found[n] for n in ("first", "relu1", "point", "depth", "out")} == dict.fromkeys(
        ("first", "relu1", "point", "depth", "out"), "f32"
    )
