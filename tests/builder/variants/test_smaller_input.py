"""A variant for a smaller picture, judged against what float sees at full size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from support.builder.nets import Save, residual_net

from edgectl.builder.build import build_bundle
from edgectl.builder.variants import smaller_input
from edgectl.builder.variants.smaller_input import SmallerInput, parse_smaller_input
from edgectl.core.bundle import Bundle
from edgectl.core.errors import UsageError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0.75", SmallerInput(0.75)), ("0.5:0.05", SmallerInput(0.5, 0.05)), ("0.5:0", SmallerInput(0.5, 0.0))],
)
def test_option_is_a_factor_and_what_it_may_lose(text: str, wanted: SmallerInput) -> None:
    assert parse_smaller_input(text) == wanted


@pytest.mark.parametrize("text", ["", "half", "1", "0.01", "0.5:x", "0.5:2", "0.5:-1", "nan", "0.5:nan"])
def test_option_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="smaller-input"):
        parse_smaller_input(text)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_device_gets_the_smaller_picture_only_if_it_asks_for_it(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smaller_input, "WORTH", 1e9)  # here, today, it is
    task = TaskSpec(name="net", metric="top1", input=ImageInput(width=32, height=32))
    build_bundle(
        save(residual_net()),
        profiles=["cpu", "jetson-orin"],
        task=task,
        calibration=None,
        random_calibration=True,
        out=tmp_path / "b",
        minutes=1.5,  # on a busy machine, too, time is left for the smaller picture
        smaller=SmallerInput(0.5),
    )
    bundle, machine = Bundle(tmp_path / "b"), probe()
    bundle.verify()
    small = bundle.select(machine.facts, profile="cpu", runtimes=machine.runtimes, prefer="small-input")
    spec = small.config.task.input
    assert isinstance(spec, ImageInput)
    assert (spec.width, spec.height) == (16, 16)
    assert small.config.preferences == ("small-input",)
    engine = open_engine(small)
    assert engine.inputs[0].shape == (1, 3, 16, 16)
    check_golden(engine, small)
    engine.close()
    for preference in (None, "fast", "accurate", "low-power"):
        assert (
            "small-input"
            not in bundle.select(
                machine.facts, profile="cpu", runtimes=machine.runtimes, prefer=preference
            ).config.preferences
        )
    assert "tensorrt-int8-float16-small-input" in {v.config.variant for v in bundle.variants}


@pytest.mark.slow
def test_a_float16_model_as_it_came_takes_no_smaller_picture_and_is_no_candidate_there(
    tmp_path: Path, save: Save
) -> None:
    task = TaskSpec(name="net", metric="top1", input=ImageInput(width=32, height=32))
    model = residual_net()
    for t in model.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float16), t.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    built = build_bundle(
        save(model),
        profiles=["cpu"],
        task=task,
        calibration=None,
        random_calibration=True,
        out=tmp_path / "b",
        minutes=1,
        smaller=SmallerInput(0.5),
    )
    named = {key: {o.candidate.graph.recipe for o in found} for key, found in built.candidates.items()}
    assert {"smaller picture" in key: "as-received-float16" in names for key, names in named.items()} == {
        True: False,
        False: True,
    }


def test_model_that_takes_no_picture_says_so(tmp_path: Path) -> None:
    r = reference("kiosk-keyword")
    with pytest.raises(UsageError, match="one float picture"):
        build_bundle(
            r.model,
            profiles=["cpu"],
            task=load_task(str(r.task)),
            calibration=None,
            random_calibration=True,
            out=tmp_path / "b",
            minutes=0.5,
            smaller=SmallerInput(0.5),
        )
    assert not list(tmp_path.iterdir())
