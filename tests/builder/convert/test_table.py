"""What a source is, told from its name and a few bytes; and what to do with those that nothing here reads."""

from __future__ import annotations

import importlib
import os
import pickle
import zipfile
from pathlib import Path

import pytest
from support.builder.converting import TFLITE

from edgectl.builder.build import build_bundle
from edgectl.builder.convert.convert import source_name
from edgectl.builder.convert.source import check_archive, digest_source
from edgectl.builder.convert.table import FRAMEWORKS, framework_of
from edgectl.core.errors import EdgectlError, ModelError, UsageError


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)
    return path


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """One of each, as far as telling them apart goes."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    (tmp_path / "net.bin").write_bytes(TFLITE)
    (tmp_path / "pipeline.joblib").write_bytes(pickle.dumps(1))
    return {
        "tflite": tmp_path / "net.bin",
        "exported_program": archive(tmp_path / "a.pt2", **{"a/archive_format": b"pt2"}),
        "torchscript": archive(tmp_path / "b.pt", **{"b/constants.pkl": b"", "b/code/__torch__.py": b""}),
        "ultralytics_checkpoint": archive(
            tmp_path / "c.pt", **{"c/data.pkl": b"\x80\x02cultralytics.nn.tasks\n"}
        ),
        "keras_file": archive(tmp_path / "d.keras", **{"config.json": b"{}"}),
        "saved_model": tmp_path / "saved",
        "sklearn_pickle": tmp_path / "pipeline.joblib",
        "module_function": Path("package.module:function"),
    }


def test_each_source_is_of_one_framework(sources: dict[str, Path]) -> None:
    assert tuple(sources) == FRAMEWORKS
    modules = {n: importlib.import_module(f"edgectl.builder.convert.inside.{n}") for n in FRAMEWORKS}
    for name, source in sources.items():
        assert [n for n, m in modules.items() if m.applies(str(source))] == [name]
        found = framework_of(str(source))
        assert found is not None
        assert found[0] == name


def test_every_file_of_a_framework_has_the_same_shape() -> None:
    for name in FRAMEWORKS:
        module = importlib.import_module(f"edgectl.builder.convert.inside.{name}")
        assert set(module.__all__) >= {"CODE", "NAME", "NEEDS", "applies", "convert", "opened"}
        assert module.CODE in ("none", "inside", "users")
        assert all(bring.startswith("pip install ") for bring in module.NEEDS.values())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.engine", "give the ONNX file that it was made of"),
        ("model.plan", "give the ONNX file that it was made of"),
        ("model.xml", "give the model that `ovc` made it of"),
        ("model.pth", "give module:function"),
        ("model.pt", "give module:function"),
        ("model.ckpt", "give module:function"),
        ("model.safetensors", "safetensors.torch.load_file"),
        ("MODEL.SAFETENSORS", "safetensors.torch.load_file"),
        ("model.h5", "save('FILE.keras')"),
        ("model.pb", "--graphdef"),
        ("model.mlmodel", "to ONNX"),
        ("model.caffemodel", "to ONNX"),
    ],
)
def test_what_nothing_reads_is_told_what_to_do_instead(name: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x02}q\x00." * 3)
    with pytest.raises(ModelError) as e:
        build_bundle(path, profiles="cpu", random_calibration=True, out=tmp_path / "out")
    assert told in (e.value.hint or "")
    assert name in e.value.message
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no SavedModel: it has no saved_model.pb"):
        framework_of(str(tmp_path))


@pytest.mark.parametrize("source", ["package.module:", ":function", "package:a.b", "a-b:c"])
def test_what_is_nearly_a_function_is_told_how_to_write_it(source: str) -> None:
    with pytest.raises(UsageError, match=r"neither a file nor package.module:function"):
        framework_of(source)


def test_onnx_files_and_files_that_are_not_there_are_left_to_their_reader(tmp_path: Path) -> None:
    assert framework_of("model.onnx") is None
    assert framework_of(str(tmp_path / "absent.tflite")) is None
    (tmp_path / "model").write_bytes(b"\x08\x08")
    assert framework_of(str(tmp_path / "model")) is None


def test_a_path_that_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*: File name too long"):
        build_bundle("x" * 300, profiles="cpu", random_calibration=True, out=tmp_path / "out", name="net")


@pytest.mark.parametrize(
    ("flags", "method"), [(1, 0), (0, 99)], ids=["encrypted", "packed in a way that nobody knows"]
)
def test_an_archive_that_cannot_be_looked_into_is_one_sentence(
    flags: int, method: int, tmp_path: Path
) -> None:
    path = archive(tmp_path / "a.pt", **{"a/data.pkl": b"ultralytics"})
    data = bytearray(path.read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(start) + at
        data[place] |= flags
        data[place + 2] |= method
    path.write_bytes(data)
    with pytest.raises(ModelError, match="a pickle of PyTorch: weights without their graph"):
        build_bundle(path, profiles="cpu", random_calibration=True, out=tmp_path / "out")


def test_a_release_is_called_by_its_file_folder_or_function() -> None:
    names = ("a/yolo.tflite", "a/Saved_Model", "pkg.nets.yolo:make_small", "net.onnx")
    assert [source_name(Path(n)) for n in names] == ["yolo", "Saved_Model", "make_small", "net"]


def test_the_digest_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    def made(name: str, files: dict[str, bytes]) -> str:
        for path, data in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
        return digest_source(tmp_path / name).digest

    files = {"saved_model.pb": b"graph", "variables/a": b"1", "variables/b": b"2"}
    first = made("first", files)
    assert first == made("again", dict(reversed(files.items())))
    assert first != made("other", {**files, "variables/b": b"3"})
    assert first != made("renamed", {"saved_model.pb": b"graph", "variables/a": b"1", "variables/c": b"2"})
    assert first != made("moved", {"saved_model.pb": b"graph", "variables/a": b"1", "b": b"2"})
    assert digest_source(tmp_path / "first").size == 7


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_a_folder_that_leaves_itself_is_refused(what: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").touch()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("not for the model")
    if what == "link":
        (model / "assets").symlink_to(tmp_path / "secret" / "key")
    elif what == "folder":
        (model / "assets").symlink_to(tmp_path / "secret")
    else:
        os.mkfifo(model / "assets")
    with pytest.raises(ModelError, match=r"leaves the folder|is no plain file"):
        build_bundle(model, profiles="cpu", random_calibration=True, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("member", ["../../outside", "/outside", "a/../../outside", "..\\outside"])
def test_an_archive_with_a_member_outside_is_refused(member: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt2", **{"a/archive_format": b"pt2", member: b""})
    with pytest.raises(ModelError, match="a member that leaves its folder"):
        build_bundle(path, profiles="cpu", random_calibration=True, out=tmp_path / "out")


def test_a_bomb_is_refused_by_what_it_says_that_it_holds(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt2", **{"a/archive_format": b"pt2"})
    size = (5 << 30) // 2
    # in the central directory, which is what unpackers believe
    with zipfile.ZipFile(path, "a") as z:
        for n in range(2):
            info = zipfile.ZipInfo(f"a/{n}")
            z.writestr(info, b"")
            z.filelist[-1].file_size = size
    with pytest.raises(ModelError, match="unpacks to 3 files of 5120 MiB"):
        check_archive(path)


def test_an_archive_that_is_cut_short_is_one_sentence(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.keras", **{"config.json": b"{}", "metadata.json": b"{}"})
    path.write_bytes(path.read_bytes()[:-30] + bytes(8))
    with pytest.raises(EdgectlError) as e:
        build_bundle(path, profiles="cpu", random_calibration=True, out=tmp_path / "out")
    assert "\n" not in e.value.message
