"""What a named task takes from the model, and what a user's file keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.ingest.fit_task import fit_background, fit_input
from edgectl.core.errors import UsageError
from edgectl.core.task import AudioInput, DecodeSpec, ImageInput, TaskSpec
from edgectl.pipelines.tasks import load_task


def takes(*dims: int | str, kind: int = TensorProto.FLOAT) -> ModelProto:
    info = [helper.make_tensor_value_info(n, kind, dims) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "net", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def picture(task: TaskSpec) -> tuple[str, int, int, str]:
    assert isinstance(task.input, ImageInput)
    return task.input.layout, task.input.height, task.input.width, task.input.dtype


@pytest.mark.parametrize("name", ["yolox", "yolov8", "fastestdet"])
def test_a_named_task_has_the_size_of_the_model(name: str) -> None:
    task = load_task(name)
    assert picture(fit_input(task, takes(1, 3, 416, 320), {})) == ("NCHW", 416, 320, "float32")
    assert picture(fit_input(task, takes("N", 416, 320, 3), {})) == ("NHWC", 416, 320, "float32")
    assert picture(fit_input(task, takes(1, 416, 320, 3, kind=TensorProto.UINT8), {})) == (
        "NHWC",
        416,
        320,
        "uint8",
    )


def test_what_the_model_leaves_open_is_the_task_s_or_the_user_s() -> None:
    assert picture(fit_input(load_task("yolox"), takes("N", 3, "H", "W"), {})) == (
        "NCHW",
        640,
        640,
        "float32",
    )
    assert picture(fit_input(load_task("yolox"), takes("N", 3, "H", 320), {})) == (
        "NCHW",
        640,
        320,
        "float32",
    )
    assert picture(fit_input(load_task("yolox"), takes("N", 3, "H", "W"), {"x": (1, 3, 256, 192)})) == (
        "NCHW",
        256,
        192,
        "float32",
    )


def test_a_file_that_inherits_a_task_gives_way_unless_it_says_the_size_itself(tmp_path: Path) -> None:
    (tmp_path / "plain.toml").write_text('inherits = "yolox"\nname = "mine"\nlabels = ["a"]\n')
    assert picture(fit_input(load_task(tmp_path / "plain.toml"), takes(1, 3, 416, 416), {}))[1:3] == (
        416,
        416,
    )
    (tmp_path / "sized.toml").write_text(
        'inherits = "yolox"\nname = "mine"\nlabels = ["a"]\n[input]\nwidth = 320\nheight = 320\n'
    )
    assert picture(fit_input(load_task(tmp_path / "sized.toml"), takes(1, 3, 416, 416), {}))[1:3] == (
        320,
        320,
    )


def test_a_size_that_no_camera_fills_is_refused() -> None:
    with pytest.raises(UsageError, match="has a size that task yolox cannot fill"):
        fit_input(load_task("yolox"), takes(1, 3, 4, 4), {})


def test_keyword_features_take_the_shape_of_the_model() -> None:
    def sound(*dims: int | str) -> tuple[tuple[int, ...] | None, int]:
        spec = fit_input(load_task("keyword"), takes(*dims), {}).input
        assert isinstance(spec, AudioInput)
        return spec.shape, spec.features.frames

    assert sound(1, 49, 10, 1) == ((1, 49, 10, 1), 49)
    assert sound("N", 1, 49, 10) == ((1, 1, 49, 10), 49)
    assert sound(1, 490) == ((1, 490), 49)
    assert sound(1, 980) == ((1, 49, 10, 1), 49)  # flat, and how many frames that is, nothing says
    assert sound(1, 1, 98, 10) == ((1, 1, 98, 10), 98)
    # other features: the model does not fit, and that is said
    assert sound(1, 49, 13) == ((1, 49, 10, 1), 49)


def test_the_adapting_is_no_part_of_what_is_written() -> None:
    assert "adapts" not in load_task("yolox").model_dump_json()
    assert "adapts" not in load_task("keyword").model_dump_json()


def detector(*labels: str, background: tuple[str, ...] = ()) -> TaskSpec:
    decode = DecodeSpec(kind="boxes-scores", boxes="boxes", scores="scores")
    return TaskSpec(
        name="ssd", input=ImageInput(width=64, height=64), decode=decode, labels=labels, background=background
    )


def scored(columns: int, winner: int, *, softmax: bool = True) -> list[dict[str, np.ndarray]]:
    """Three pictures of 200 boxes, of which ``winner`` wins all but five."""
    scores = np.full((1, 200, columns), 0.1 / (columns - 1), np.float32)
    scores[:, :, winner] = 0.9
    scores[:, :5] = 0.1 / (columns - 1)
    scores[:, :5, (winner + 1) % columns] = 0.9
    scores *= 1.0 if softmax else 0.7
    return [{"boxes": np.zeros((1, 200, 4), np.float32), "scores": scores}] * 3


def test_a_background_class_is_found_at_the_end_that_wins_nearly_every_box() -> None:
    for winner, end in ((0, "first"), (2, "last")):
        task, note = fit_background(detector("car", "person"), scored(3, winner))
        assert task.decode.background == end
        assert task.labels == ("car", "person")
        assert f"the {end} of 3 scores" in note


def test_a_label_that_means_background_is_no_label() -> None:
    task, _ = fit_background(detector("background", "face"), scored(2, 0))
    assert (task.decode.background, task.labels) == ("first", ("face",))
    task, _ = fit_background(detector("car", "nothing", background=("nothing",)), scored(2, 1))
    assert (task.decode.background, task.labels, task.background) == ("last", ("car",), ())
    TaskSpec.model_validate(task.model_dump())


def test_where_nothing_tells_the_end_the_user_is_asked() -> None:
    for outputs in (scored(3, 1), scored(3, 0, softmax=False)):
        with pytest.raises(UsageError, match="scores 3 classes, the task has 2 labels") as e:
            fit_background(detector("car", "person"), outputs)
        assert "background" in (e.value.hint or "")


def test_a_detector_without_one_and_what_the_user_says_stay() -> None:
    plain = detector("car", "person")
    assert fit_background(plain, scored(2, 0)) == (plain, "")
    said = plain.model_copy(update={"decode": plain.decode.model_copy(update={"background": "last"})})
    assert fit_background(said, scored(3, 0)) == (said, "")
