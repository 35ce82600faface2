"""Which kernel families the profiles of a build need, and that each is written once."""

from __future__ import annotations

import numpy as np
import pytest
from support.builder.nets import images, residual_net

from edgectl.builder.budget import Budget
from edgectl.builder.ingest.model import IngestedModel
from edgectl.builder.ingest.samples import Sample, Slices
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.model import CalibratedModel, quantize_families
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.judge.judges import Judges
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants.choose import families_of
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import Machine, probe

pytestmark = pytest.mark.slow

DATA = "sha256:" + "0" * 64


def machine(*isa: str) -> Machine:
    return probe().model_copy(update={"arch": "x86_64", "isa": isa})


def families(*profiles: str, isa: tuple[str, ...] = ("avx2",)) -> tuple[str, ...]:
    return families_of([load_profile(p) for p in profiles], machine(*isa), residual_net())


def test_this_machine_takes_its_own_kernels_and_others_those_of_their_profile() -> None:
    assert families("cpu") == ("x86-avx2",)
    assert families("cpu", isa=("avx2", "avx512_vnni")) == ("x86-vnni",)
    assert families("cpu-arm64", "cpu", "cpu-x86-avx2") == ("arm64", "x86-avx2")


def test_a_machine_without_fast_int8_kernels_needs_no_family() -> None:
    assert families("cpu", isa=()) == ()


def test_a_jetson_takes_tensorrt_graphs_and_an_arm_fallback() -> None:
    assert families("jetson-orin", "jetson-xavier") == ("trt-gpu", "arm64")


def test_no_tensorrt_graph_is_written_of_a_model_that_tensorrt_does_not_take() -> None:
    net = residual_net()
    table = calibrate(net, images(4), data_digest=DATA)
    uint8 = quantize(net, table, FAMILIES["x86-vnni"]).model
    assert families_of([load_profile("jetson-orin")], machine("avx2"), uint8) == ("arm64",)


def test_families_that_take_the_same_ranges_are_written_from_one_basis() -> None:
    net = residual_net()
    samples = [Sample(f) for f in images(8)]
    slices = Slices(samples, samples, samples, DATA)
    task = TaskSpec(name="t", input=TensorInput())
    table = calibrate(net, (s.feeds for s in samples), data_digest=DATA)
    calibrated = CalibratedModel(IngestedModel(net, (), task), slices, 0.05, table)
    monitor = BuildMonitor(Budget())
    judges = Judges(task, slices, net, monitor)
    model = quantize_families(calibrated, ("x86-vnni", "arm64", "trt-gpu"), judges, machine("avx2"), monitor)
    assert list(model.families) == ["x86-vnni", "arm64", "trt-gpu"]
    full = {name: graphs.recipes["full"] for name, graphs in model.families.items()}
    assert model.basis_of("x86-vnni", "full", full["x86-vnni"]) is model.basis_of(
        "arm64", "full", full["arm64"]
    )
    assert model.basis_of("trt-gpu", "full", full["trt-gpu"]) is not model.basis_of(
        "arm64", "full", full["arm64"]
    )
    assert model.recipes("dynamic") == {}
    assert model.recipes(None) == {}
    assert np.isfinite([a.drop for a in model.judged("arm64").values()]).all()
