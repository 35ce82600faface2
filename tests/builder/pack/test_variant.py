"""Golden outputs and their tolerances."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.builder.nets import images, residual_net

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.pack import variant
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.bundle import LAYER_GOLDEN, Recipe, SessionSettings
from edgectl.core.task import TaskSpec, TensorInput

FLOAT = residual_net().SerializeToString(deterministic=True)
OTHER = residual_net(channels=8).SerializeToString(deterministic=True)


def draft(model: bytes, name: str) -> VariantDraft:
    return VariantDraft(
        "cpu", name, "onnxruntime", (), model, Recipe(family="float"), "float32", SessionSettings()
    )


def identity() -> Identity:
    task = TaskSpec(name="t", input=TensorInput())
    samples = [Sample(f) for f in images(3)]
    return Identity("n", "1", task, (), "sha256:" + "1" * 64, {}, None, samples, FLOAT)


def test_variants_with_one_graph_run_it_once_for_their_golden_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[bytes, str]] = []
    really = variant.open_model

    def counted(model: bytes, settings: SessionSettings, **more: str):
        opened.append((model, settings.optimization))
        return really(model, settings, **more)

    monkeypatch.setattr(variant, "open_model", counted)
    shared = identity()
    first, second = (make_variant(shared, draft(FLOAT, n)) for n in ("a", "b"))
    assert opened == [(FLOAT, "all"), (FLOAT, "disabled")]
    assert (first.config.golden, dict(first.layers)[LAYER_GOLDEN]) == (
        second.config.golden,
        dict(second.layers)[LAYER_GOLDEN],
    )
    other = make_variant(shared, draft(OTHER, "c"))
    assert len(opened) == 4
    assert other.config.golden == make_variant(identity(), draft(OTHER, "c")).config.golden
    quantized = make_variant(shared, replace(draft(OTHER, "d"), precision="int8"))
    assert len(opened) == 6, "both graphs, and float to compare with, ran before"
    [wide], [narrow] = (v.config.golden.tolerances.values() for v in (quantized, other))
    assert wide.max_abs > narrow.max_abs
