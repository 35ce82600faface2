"""Class maps of pixels: PNG files of class numbers, in each layout; what is wrong with them; mean IoU by them."""

import contextlib
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.ingest.labelled_samples import LabelledSamples
from edgectl.builder.judge.labelled import FloatByLabels, LabelledJudge
from edgectl.builder.judge.suspects import explain_nothing
from edgectl.builder.truth import class_maps
from edgectl.builder.truth.class_maps import read_class_indices
from edgectl.builder.truth.labelled import LabelledSet, TrueClasses
from edgectl.builder.truth.layouts import read_labels, truth_kind
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import DataError, UsageError
from edgectl.core.task import DecodeSpec, ImageInput, TaskSpec
from edgectl.engines.base import Engine
from edgectl.engines.finalise.open import open_model

SIDE = 16
TASK = TaskSpec(
    name="ground",
    input=ImageInput(width=SIDE, height=SIDE, fit="stretch"),
    decode=DecodeSpec(kind="semantic"),
    labels=("road", "grass", "sky"),
    metric="pixels",
)
COLOURS = np.asarray([[0, 0, 255], [0, 255, 0], [255, 0, 0]], np.uint8)  # BGR: red, green, blue


def png(indices: np.ndarray, *, depth: int = 8, colour: int = 3, palette: bool = True, cut: int = 0) -> bytes:
    """A PNG by hand: an encoder that writes palettes is not always there."""
    height, width = indices.shape
    bits = ((indices[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(height, -1)
    rows = np.packbits(bits.astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + r.tobytes() for r in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colours = bytes(np.random.default_rng(0).integers(0, 256, 3 << depth).astype(np.uint8))
    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
    ]
    parts += [chunk(b"PLTE", colours)] if palette and colour == 3 else []
    data = b"".join([*parts, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")])
    return data[: len(data) - cut]


def ground(n: int, seed: int = 0) -> list[np.ndarray]:
    return [np.random.default_rng((seed, i)).integers(0, 3, (SIDE, SIDE)).astype(np.uint8) for i in range(n)]


def write(folder: Path, maps: list[np.ndarray], masks: str = "masks") -> Path:
    for name in ("images", masks):
        (folder / name).mkdir(parents=True)
    for i, m in enumerate(maps):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), COLOURS[np.minimum(m, 2)])
        (folder / masks / f"{i}.png").write_bytes(png(m))
    return folder


def read(path: Path, **more: object) -> LabelledSet:
    found = read_labels(str(path), TASK, **more)  # type: ignore[arg-type]
    assert found is not None
    return found


def net(*, confuses: float = 0.0) -> ModelProto:
    """Names red road, green grass and blue sky; ``confuses``: how much of grass looks like road."""
    w = np.eye(3, dtype=np.float32)
    w[0, 1] = confuses
    node = helper.make_node("Conv", ["image", "w"], ["y"], name="conv")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "ground",
        [value("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [value("y", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [numpy_helper.from_array(w.reshape(3, 3, 1, 1), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def engine(model: ModelProto) -> Engine:
    return open_model(model.SerializeToString(), SessionSettings())


def samples(folder: Path, task: TaskSpec = TASK) -> LabelledSamples:
    return LabelledSamples(
        read(folder), task, (TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), dtype="float32"),)
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_indices_are_read_whatever_their_colours(tmp_path: Path, depth: int, colour: int) -> None:
    indices = np.random.default_rng(depth).integers(0, 1 << depth, (9, 13)).astype(np.uint8)
    (tmp_path / "m.png").write_bytes(png(indices, depth=depth, colour=colour))
    assert np.array_equal(read_class_indices(tmp_path / "m.png"), indices)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"GIF89a", "is no PNG file"),
        (png(np.zeros((2, 2), np.uint8), cut=20), "cannot be decoded"),
        (png(np.zeros((2, 2), np.uint8))[:40], "cannot be decoded"),
        (png(np.zeros((2, 6), np.uint8), colour=2), "has colours"),
        (png(np.zeros((2, 2), np.int64), depth=16, colour=0), "16 bits a pixel"),
        (
            png(np.zeros((2, 2), np.uint8))[:16] + struct.pack(">II", 1 << 16, 1 << 16) + bytes(20),
            "65536x65536 pixels",
        ),
    ],
)
def test_what_is_no_class_map_is_said(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "m.png").write_bytes(data)
    with pytest.raises(DataError, match=sentence):
        read_class_indices(tmp_path / "m.png")


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_flipped_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    data = bytearray(png(ground(1)[0]))
    data[at % len(data)] ^= flip
    path = tmp_path_factory.mktemp("flip") / "m.png"
    path.write_bytes(data)
    with contextlib.suppress(DataError):
        assert read_class_indices(path).dtype == np.uint8


def test_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.png").write_bytes(png(ground(1)[0]))
    monkeypatch.setattr(class_maps, "_MOST_BYTES", 50)
    with pytest.raises(DataError, match="more than 0 MiB"):
        read_class_indices(tmp_path / "m.png")


@pytest.mark.parametrize("masks", ["masks", "labels", "annotations"])
def test_pictures_and_class_maps_side_by_side(tmp_path: Path, masks: str) -> None:
    found = read(write(tmp_path, ground(3), masks))
    assert (found.kind, found.layout, len(found.items), found.classes) == (
        "pixels",
        "class maps",
        3,
        (0, 1, 2),
    )
    assert [i.path.name for i in found.items] == ["0.png", "1.png", "2.png"]
    assert "places in the model's labels" in found.notes[0]
    assert truth_kind(TASK) == "pixels"


def test_the_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", ground(3))
    found = read(folder / "masks", pictures=folder / "images")
    assert [i.path.parent.name for i in found.items] == ["images"] * 3
    (folder / "images" / "1.png").unlink()
    with pytest.raises(DataError, match="1 of 3 pictures"):
        read(folder)


def test_the_folders_of_cityscapes(tmp_path: Path) -> None:
    left, fine = tmp_path / "leftImg8bit" / "val" / "ulm", tmp_path / "gtFine" / "val" / "ulm"
    for folder in (left, fine):
        folder.mkdir(parents=True)
    for i, m in enumerate(ground(2)):
        cv2.imwrite(str(left / f"ulm_{i}_leftImg8bit.png"), COLOURS[m])
        (fine / f"ulm_{i}_gtFine_labelTrainIds.png").write_bytes(png(m, colour=0))
        (fine / f"ulm_{i}_gtFine_color.png").write_bytes(b"not read")
    assert [i.path.name for i in read(tmp_path).items] == ["ulm_0_leftImg8bit.png", "ulm_1_leftImg8bit.png"]


def test_classes_are_matched_by_their_names(tmp_path: Path) -> None:
    folder = write(tmp_path, [np.full((SIDE, SIDE), n % 2, np.uint8) for n in range(9)])
    (folder / "classes.txt").write_text("Sky\nroad\nlava\n")
    with pytest.raises(DataError, match="lava"):
        read(folder)
    found = read(folder, known_only=True)
    assert [i.truth.to for i in found.items if isinstance(i.truth, TrueClasses)] == [(2, 0, -1)] * 9
    assert "lava" in found.notes[0]


def test_more_names_than_a_byte_tells_apart_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, ground(9))
    (folder / "classes.txt").write_text("sky\n" * 257)
    with pytest.raises(DataError, match=r"classes\.txt names 257 classes; a byte a pixel tells 256 apart"):
        read(folder, known_only=True)


def test_float_that_is_right_reaches_one_and_a_variant_loses_what_it_confuses(tmp_path: Path) -> None:
    maps = ground(12)
    maps[0][:4] = 255  # not judged, whatever the model says there
    of = FloatByLabels(TASK, samples(write(tmp_path, maps)), engine(net()))
    assert of.about.values == {"mean_iou": 1.0, "pixel_accuracy": 1.0}
    assert not of.knows_nothing
    judged = LabelledJudge(of).judge(engine(net(confuses=2.0)))
    # all grass is called road: IoU of road 1/2, of grass 0, of sky 1
    assert judged.drop == pytest.approx(0.5, abs=0.02)
    assert judged.low > 0.4
    assert judged.values["float_mean_iou"] == 1.0
    assert LabelledJudge(of).judge(engine(net())).drop == 0.0


def test_labels_that_are_one_too_many_are_told(tmp_path: Path) -> None:
    maps = [np.where(m == 2, 0, m + 1).astype(np.uint8) for m in ground(12)]
    moved = [np.where(m == 0, 255, m).astype(np.uint8) for m in maps]
    folder = write(tmp_path, ground(12))
    for i, m in enumerate(moved):
        (folder / "masks" / f"{i}.png").write_bytes(png(m))
    of = FloatByLabels(TASK, samples(folder), engine(net()))
    assert of.knows_nothing
    assert "moved by -1" in explain_nothing(of, engine(net())).message


def test_numbers_and_sizes_that_do_not_fit_are_said(tmp_path: Path) -> None:
    folder = write(tmp_path, ground(9))
    (folder / "masks" / "4.png").write_bytes(png(np.full((SIDE, SIDE), 7, np.uint8)))
    with pytest.raises(DataError, match=r"4\.png has pixels of class 7, and there are 3 classes"):
        FloatByLabels(TASK, samples(folder), engine(net()))
    (folder / "masks" / "4.png").write_bytes(png(np.zeros((SIDE, SIDE + 1), np.uint8)))
    with pytest.raises(DataError, match=r"4\.png has 17x16 pixels, its picture 16x16"):
        FloatByLabels(TASK, samples(folder), engine(net()))


def test_a_folder_of_pictures_alone_is_data_and_other_tasks_take_no_class_maps(tmp_path: Path) -> None:
    folder = write(tmp_path, ground(2))
    assert read_labels(str(folder / "images"), TASK) is None
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UsageError, match="annotations of COCO"):
        read_labels(str(tmp_path / "a.json"), TASK)
