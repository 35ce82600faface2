"""What an engine inspector says, counted; nothing that is not understood counts as success."""

from __future__ import annotations

import json

import pytest

from edgectl.core.errors import EngineError
from edgectl.engines.finalise.plan_layers import read_layers


def layer(datatype: str, kind: str = "CaskConvolution", name: str = "conv") -> dict[str, object]:
    return {"Name": name, "LayerType": kind, "Outputs": [{"Name": "o", "Format/Datatype": datatype}]}


def test_layers_are_counted_by_the_type_of_their_output() -> None:
    said = [
        layer("Thirty-two wide channel vectorized row major Int8 format"),
        layer("Row major linear FP16 format"),
        layer("Sixteen wide channel vectorized row major FP16 format where channel % 16 == 0"),
        layer("Row major linear FP32"),
        layer("Row major linear FP32", kind="Reformat"),
        {
            "Name": "{ForeignNode[Conv_0...Relu_9]}",
            "LayerType": "DLA",
            "Outputs": [{"Format/Datatype": "CHW32 Int8"}],
        },
        {"Name": "[DlaLayer] {ForeignNode[Conv_11]}", "LayerType": "", "Outputs": []},
        layer("INT32 something"),
    ]
    n = read_layers(json.dumps({"Layers": said}))
    assert (n.total, n.int8, n.float16, n.float32, n.reformats, n.dla, n.other) == (8, 1, 2, 1, 1, 2, 1)


def test_a_plan_without_details_has_layers_of_no_known_type() -> None:
    n = read_layers(json.dumps({"Layers": ["conv1 + relu1", "conv2"], "Bindings": ["x"]}))
    assert (n.total, n.other, n.int8) == (2, 2, 0)


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"Layers": 3}', "Layer(Convolution): conv1"])
def test_anything_else_is_an_error(said: str) -> None:
    with pytest.raises(EngineError, match="engine inspector"):
        read_layers(said)
