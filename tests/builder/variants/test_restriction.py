"""What a user lets compete, what that makes of the candidates and families, and what cannot be had."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from support.builder.generated import mlp
from support.builder.models import quantized_model, trial_of
from support.builder.nets import images, residual_net

from edgectl.builder.ingest.model import IngestedModel
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import FamilyGraphs
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.matmul import rewrite_matmuls
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.variants import buildable, competitors
from edgectl.builder.variants.buildable import check_buildable
from edgectl.builder.variants.choose import families_of
from edgectl.builder.variants.restriction import UNRESTRICTED, Restriction, parse_restriction
from edgectl.core.errors import UsageError
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import Machine, probe

DATA = "sha256:" + "0" * 64


def asked(precisions: str = "", runtimes: str = "") -> Restriction:
    return parse_restriction([precisions] if precisions else [], [runtimes] if runtimes else [])


def machine(*isa: str, openvino: bool = True) -> Machine:
    runtimes = {"onnxruntime": "1", **({"openvino": "2"} if openvino else {})}
    found = {"arch": "x86_64", "isa": ("avx2", *isa), "runtimes": runtimes, "providers": (), "cpu": "a CPU"}
    return probe().model_copy(update=found)


def test_several_are_named_at_once_or_one_after_the_other() -> None:
    assert parse_restriction(["int8,bfloat16"], []) == parse_restriction(["int8", "bfloat16"], [])
    assert parse_restriction([], []) == UNRESTRICTED
    assert asked("int8, bfloat16", "openvino").asked == "--precision bfloat16,int8 --runtime openvino"


@pytest.mark.parametrize(
    ("precisions", "runtimes", "said", "hint"),
    [
        ("int9", "", "--precision int9: there is no such precision", "did you mean 'int8'"),
        ("int8,", "", "--precision : there is no such precision", "there are: float32, "),
        ("", "openvin", "--runtime openvin: there is no such runtime", "did you mean 'openvino'"),
        ("", "tensorrt", "--runtime tensorrt: cpu has no such runtime", "there are: onnxruntime, openvino"),
    ],
)
def test_what_there_is_not_is_one_sentence(precisions: str, runtimes: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as e:
        asked(precisions, runtimes).check([load_profile("cpu")])
    assert e.value.message == said
    assert (e.value.hint or "").startswith(hint)


@pytest.mark.parametrize(
    ("restriction", "families"),
    [
        (asked(), ("trt-gpu", "arm64", "x86-vnni")),
        (asked("int8"), ("trt-gpu", "arm64", "x86-vnni")),
        (asked("float32,float16,bfloat16"), ()),
        (asked("int4"), ("arm64", "x86-vnni")),  # TensorRT gets none of 4 bits
        (asked(runtimes="tensorrt"), ("trt-gpu",)),
        (asked(runtimes="openvino"), ("x86-vnni",)),
        (asked(runtimes="onnxruntime"), ("arm64", "x86-vnni")),
    ],
)
def test_families_are_written_for_what_may_run_them(
    restriction: Restriction, families: tuple[str, ...]
) -> None:
    profiles = [load_profile("jetson-orin"), load_profile("cpu")]
    assert families_of(profiles, machine("avx512_vnni"), residual_net(), restriction) == families


def _names(
    restriction: Restriction, monkeypatch: pytest.MonkeyPatch, native: tuple[str, ...] = (), *isa: str
) -> set[str]:
    """Of a model of products, which has int8 and int4 forms."""
    monkeypatch.setattr(competitors, "native_floats", lambda: native)
    graph, family = mlp(1), FAMILIES["x86-vnni"]
    rng = np.random.default_rng(0)
    table = calibrate(graph, [{"x": rng.standard_normal((1, 48)).astype(np.float32)}] * 2, data_digest=DATA)
    recipes = {
        "full": quantize(graph, table, family),
        "weights-4": rewrite_matmuls(graph, "weights-4", family),
    }
    model = quantized_model(graph, table=table, families={"x86-vnni": FamilyGraphs(recipes, {}, ())})
    trial = trial_of(model, machine("avx512_vnni", *isa), restriction)
    return {c.name for c in competitors.competitors(model, trial, load_profile("cpu"))}


def test_every_float_of_the_cpu_competes_alone_and_beside_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = _names(asked(), monkeypatch, ("bf16",), "avx512_bf16")
    assert everything == {
        f"{recipe}/{how}"
        for recipe in ("float", "full", "weights-4")
        for how in ("onnxruntime/1", "openvino/1", "openvino/1/bf16")
    }


@pytest.mark.parametrize(
    ("native", "isa"), [((), "avx512_bf16"), (("bf16",), "avx512_vnni"), (("f16",), "amx_bf16")]
)
def test_what_the_runtime_would_emulate_or_no_device_can_be_asked_for_does_not_compete(
    native: tuple[str, ...], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [n for n in _names(asked(), monkeypatch, native, isa) if n.endswith("16")]


@pytest.mark.parametrize(
    ("restriction", "names"),
    [
        (asked("float32"), {"float/onnxruntime/1", "float/openvino/1"}),
        (asked("int8"), {"float/onnxruntime/1", "full/onnxruntime/1", "full/openvino/1"}),
        (asked("int4"), {"float/onnxruntime/1", "weights-4/onnxruntime/1", "weights-4/openvino/1"}),
        (asked("bfloat16"), {"float/onnxruntime/1", "float/openvino/1/bf16"}),
        (
            asked("int8,bfloat16", "openvino"),
            {"float/onnxruntime/1", "float/openvino/1/bf16", "full/openvino/1", "full/openvino/1/bf16"},
        ),
        (asked("int8", "onnxruntime"), {"float/onnxruntime/1", "full/onnxruntime/1"}),
    ],
)
def test_the_fallback_competes_whatever_is_asked_for(
    restriction: Restriction, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _names(restriction, monkeypatch, ("bf16",), "amx_bf16") == names


def _told(
    restriction: Restriction, *profiles: str, graph: ModelProto | None = None, openvino: bool = True
) -> list[str]:
    model = IngestedModel(graph or residual_net(), (), TaskSpec(name="t", input=TensorInput()))
    return check_buildable(
        restriction,
        [load_profile(p) for p in profiles or ("cpu",)],
        machine("avx512_vnni", openvino=openvino),
        model,
    )


@pytest.mark.parametrize(
    ("restriction", "profile", "why", "hint"),
    [
        (
            asked("bfloat16"),
            "cpu",
            "OpenVINO says that this CPU does not compute in it (a CPU)",
            "float32, int8",
        ),
        (asked("bfloat16"), "jetson-orin", "is not tried in this build", "float32, float16, int8"),
        (asked("int4"), "cpu", "less than half of the weights belong to matrix products", "float32, int8"),
        (asked("int4", "tensorrt"), "jetson-orin", "less than half", "float32, float16, int8"),
        (asked("float16"), "cpu", "OpenVINO says", "float32, int8"),
    ],
)
def test_where_nothing_of_it_can_be_built_one_sentence_says_why_and_what_can(
    restriction: Restriction, profile: str, why: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(competitors, "native_floats", lambda: ())
    with pytest.raises(UsageError, match=r"nothing of --precision .* can be built here") as e:
        _told(restriction, profile)
    assert why in e.value.message
    assert e.value.hint == f"what can: {hint}"


def test_a_runtime_that_is_not_installed_cannot_be_built_for() -> None:
    with pytest.raises(
        UsageError, match=r"nothing of --runtime openvino .*pip install 'edgectl\[openvino\]'"
    ):
        _told(asked(runtimes="openvino"), openvino=False)
    graph = residual_net()
    uint8 = quantize(graph, calibrate(graph, images(2), data_digest=DATA), FAMILIES["x86-vnni"]).model
    with pytest.raises(UsageError, match=r"tensorrt: it does not take codes of uint8"):
        _told(asked(runtimes="tensorrt"), "jetson-orin", graph=uint8)


def test_what_is_left_of_it_is_built_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(competitors, "native_floats", lambda: ())
    monkeypatch.setattr(buildable, "has_compiler", lambda: False)
    assert _told(asked()) == []
    assert _told(asked("int4"), graph=mlp(2)) == []
    assert _told(asked("float16"), "jetson-orin") == []
    (bfloat16,) = _told(asked("int8,bfloat16"))
    assert bfloat16.startswith("--precision bfloat16: OpenVINO says that this CPU does not compute in it")
    (rtx,) = _told(asked(runtimes="tensorrt,tensorrt-rtx"), "desktop-gpu")
    assert rtx == "--runtime tensorrt-rtx: NVIDIA's compiler is not installed (pip install 'edgectl[rtx]')"
