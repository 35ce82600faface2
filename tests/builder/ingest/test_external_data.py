"""Weights that lie beside a model: read where they are its own, refused in a sentence otherwise."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.builder.nets import residual_net

from edgectl.builder.ingest import read
from edgectl.builder.ingest.read import read_model
from edgectl.core.errors import ModelError


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as e:
        read_model(path)
    assert "\n" not in e.value.message
    return e.value.message


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "", "link.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = residual_net()
    t = model.graph.initializer[0]
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    t.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert "outside its own folder" in refused(folder / "m.onnx")


@pytest.mark.parametrize("location", ["a\0b", "a" * 5000, "\x1b[31mred"])
def test_a_name_that_no_file_has_is_one_plain_sentence(tmp_path: Path, location: str) -> None:
    t = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10], data_location=TensorProto.EXTERNAL)
    t.external_data.add(key="location", value=location)
    model = helper.make_model(helper.make_graph([], "g", [], [], [t]))
    with pytest.raises(ModelError, match=r"(needs|cannot read) its weights in") as e:
        read.external_tensors(model, tmp_path / "m.onnx")
    assert e.value.message.isprintable()
    assert len(e.value.message) < 200


def test_external_data_beside_the_model_is_read_and_missing_is_said(tmp_path: Path) -> None:
    onnx.save(
        residual_net(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    loaded = read_model(tmp_path / "m.onnx")
    want = {t.name: numpy_helper.to_array(t) for t in residual_net().graph.initializer}
    assert all(np.array_equal(numpy_helper.to_array(t), want[t.name]) for t in loaded.graph.initializer)
    (tmp_path / "w.bin").unlink()
    assert "'w.bin', which is not there" in refused(tmp_path / "m.onnx")


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.none(), st.integers(0, 5000).map(str), st.text("0123456789-+ e.", max_size=25)),
    st.one_of(st.none(), st.integers(0, 5000).map(str), st.text("0123456789-+ e.", max_size=25)),
)
def test_external_data_lies_inside_its_file_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, offset: str | None, length: str | None
) -> None:
    folder = tmp_path_factory.mktemp("external")
    (folder / "w.bin").write_bytes(bytes(4000))
    t = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", offset), ("length", length)):
        if value is not None:
            t.external_data.add(key=key, value=value)
    model = helper.make_model(helper.make_graph([], "g", [], [], [t]))
    try:
        found = read.external_tensors(model, folder / "m.onnx")
    except ModelError as e:
        said = e.message
    else:
        said = ""
        assert found[0].offset >= 0 <= found[0].length
        assert found[0].offset + found[0].length <= 4000
    assert "\n" not in said
    whole = [int(n) if n is not None and n.isdecimal() and len(n) < 19 else None for n in (offset, length)]
    fits = (offset is None or whole[0] is not None) and (length is None or whole[1] is not None)
    fits = fits and (whole[0] or 0) + (whole[1] or 0) <= 4000
    assert fits == (not said)
