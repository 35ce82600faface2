"""Graphs whose weights stay in files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.builder.large import beside, large_net

from edgectl.builder.graph import real_inputs
from edgectl.builder.large import hollow
from edgectl.builder.large.hollow import closed, opened, read_hollow, weights_beside
from edgectl.core.errors import ModelError


def test_large_weights_stay_where_they_are_and_small_ones_come_along(tmp_path: Path) -> None:
    model = large_net()
    path = beside(model, tmp_path / "m")
    found = read_hollow(path, tmp_path)
    own = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    read = [w.values() for w in found.weights.values()]
    assert len(read) == 2
    assert np.array_equal(read[0], own["layer_weight"])
    assert np.array_equal(read[1], own["layer"])
    kept = {t.name for t in found.graph.graph.initializer if t.data_location != TensorProto.EXTERNAL}
    assert kept == {"flat", "back", "bias"}
    assert found.files.keys() == {"weights.bin"}
    assert weights_beside(path) >= sum(a.nbytes for a in (own["layer"], own["layer_weight"]))


def test_files_of_one_name_in_several_folders_and_of_small_weights_are_told_apart(tmp_path: Path) -> None:
    path = beside(large_net(), tmp_path / "m")
    model = onnx.load(path, load_external_data=False)
    for name, large in (("a", True), ("b", False)):
        t = next(t for t in model.graph.initializer if t.name == ("layer" if large else "flat"))
        data = numpy_helper.to_array(next(w for w in large_net().graph.initializer if w.name == t.name))
        (path.parent / name).mkdir()
        (path.parent / name / "w").write_bytes(data.tobytes())
        t.ClearField("raw_data")
        del t.external_data[:]
        t.data_location = TensorProto.EXTERNAL
        t.external_data.add(key="location", value=f"{name}/w")
    path.write_bytes(model.SerializeToString())
    assert read_hollow(path, tmp_path).files.keys() == {"weights.bin", "a/w", "b/w"}


def test_large_weights_inside_the_file_are_moved_out(tmp_path: Path) -> None:
    path = tmp_path / "inside.onnx"
    path.write_bytes(large_net().SerializeToString())
    found = read_hollow(path, tmp_path)
    assert [w.file.name for w in found.weights.values()] == ["inside.bin"] * 2
    want = numpy_helper.to_array(large_net().graph.initializer[2])
    assert np.array_equal(next(iter(found.weights.values())).values(), want)
    assert found.files == {}


def test_the_open_form_and_back_is_the_same_graph(tmp_path: Path) -> None:
    found = read_hollow(beside(large_net(), tmp_path / "m"), tmp_path)
    back = closed(opened(found.graph, found.weights), found.weights)
    by_name = lambda m: {t.name: t for t in m.graph.initializer}  # noqa: E731
    assert by_name(back) == by_name(found.graph)
    assert [i.name for i in back.graph.input] == ["x"]
    onnx.checker.check_model(opened(found.graph, found.weights))


def test_weights_that_are_listed_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = large_net()
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
    )
    found = read_hollow(beside(model, tmp_path / "m"), tmp_path)
    assert [i.name for i in real_inputs(found.graph)] == ["x"]
    assert len(found.weights) == 2
    onnx.checker.check_model(opened(found.graph, found.weights))


@pytest.mark.parametrize(("shape", "length"), [([192, 193], None), ([192, 192], "40000"), ([-1, 192], None)])
def test_a_weight_that_is_not_what_its_shape_says_is_refused(
    tmp_path: Path, shape: list[int], length: str | None
) -> None:
    path = beside(large_net(), tmp_path / "m")
    model = onnx.load(path, load_external_data=False)
    t = next(t for t in model.graph.initializer if t.name == "layer")
    t.dims[:] = shape
    for e in t.external_data:
        if e.key == "length" and length is not None:
            e.value = length
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="not what its shape says"):
        read_hollow(path, tmp_path)


def test_more_than_is_allowed_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = beside(large_net(), tmp_path / "m")
    monkeypatch.setattr(hollow, "MAX_LARGE_BYTES", 1 << 17)
    with pytest.raises(ModelError, match="external weights; at most 0 MiB are read"):
        read_hollow(path, tmp_path)
    assert not (tmp_path / "inside.bin").exists()


def test_weights_in_nodes_are_read_only_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = large_net()
    weight = next(t for t in model.graph.initializer if t.name == "layer")
    node = helper.make_node("Constant", [], ["layer"], name="constant", value=weight)
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, node)
    path = beside(model, tmp_path / "m")
    data = numpy_helper.to_array(weight).tobytes()
    (tmp_path / "m" / "more.bin").write_bytes(data)
    lazy = onnx.load(path, load_external_data=False)
    t = lazy.graph.node[0].attribute[0].t
    t.ClearField("raw_data")
    del t.external_data[:]
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value="more.bin")
    path.write_bytes(lazy.SerializeToString())
    kept = read_hollow(path, tmp_path).graph.graph
    assert numpy_helper.to_array(kept.node[0].attribute[0].t).tobytes() == data
    monkeypatch.setattr(hollow, "_MAX_INSIDE", 1 << 10)
    with pytest.raises(ModelError, match="in nodes or in bodies of loops"):
        read_hollow(path, tmp_path)


def test_many_small_weights_are_read_only_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = beside(large_net(), tmp_path / "m")
    monkeypatch.setattr(hollow, "SMALL_BYTES", 1 << 20)
    assert read_hollow(path, tmp_path).weights == {}
    monkeypatch.setattr(hollow, "_MAX_INSIDE", 1 << 18)
    with pytest.raises(ModelError, match="weights of less than 1024 KiB each"):
        read_hollow(path, tmp_path)
