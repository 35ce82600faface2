"""Named tasks and task files: all load, mistakes are one sentence with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import UsageError
from edgectl.core.task import AudioInput, ImageInput
from edgectl.pipelines.tasks import load_task, task_names, usable_tasks


def test_every_named_task_loads_except_the_bases() -> None:
    assert set(task_names()) >= {
        "fastestdet",
        "yolov8",
        "yolox",
        "edge-detector",
        "silero-vad",
        "keyword",
        "tensor",
    }
    assert set(task_names()) - set(usable_tasks()) == {"edge-detector", "classifier", "semantic"}
    for name in usable_tasks():
        assert load_task(name).name == name


def test_the_facts_of_the_real_models() -> None:
    detector = load_task("fastestdet")
    assert isinstance(detector.input, ImageInput)
    assert (detector.input.width, detector.input.color, detector.input.fit) == (352, "bgr", "stretch")
    assert len(detector.labels) == 80
    assert detector.labels[2] == "car"
    keyword = load_task("keyword")
    assert isinstance(keyword.input, AudioInput)
    assert keyword.input.shape == (1, 49, 10, 1)
    assert keyword.background == ("silence", "unknown")


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no task 'yolov9'") as caught:
        load_task("yolov9")
    assert "yolov8" in str(caught.value.hint)


def test_a_base_says_how_to_use_it() -> None:
    with pytest.raises(UsageError, match="base") as caught:
        load_task("edge-detector")
    assert "inherits" in str(caught.value.hint)


def test_a_file_inherits_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("person\nvehicle\n\n")
    file = tmp_path / "yard.toml"
    file.write_text(
        'inherits = "edge-detector"\nname = "yard"\nlabels = "names.txt"\n[input]\nwidth = 320\nheight = 192\n[decode]\nscore = 0.4\n'
    )
    task = load_task(file)
    assert task.labels == ("person", "vehicle")
    assert isinstance(task.input, ImageInput)
    assert (task.input.width, task.input.height, task.input.color) == (320, 192, "bgr")
    assert (task.decode.kind, task.decode.score, task.decode.iou) == ("fastestdet", 0.4, 0.45)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "this is not TOML"),
        (f"name = {'9' * 5000}", "this is not TOML"),
        ('inherits = "nothing"\nname = "x"', "no task 'nothing'"),
        ('inherits = 3\nname = "x"', "no task name"),
        ('name = "x"\n[input]\nkind = "image"\nwidth = 4\nheight = 64', "width"),
        ('name = "x"\nlabels = "missing.txt"\n[input]\nkind = "tensor"', "cannot read"),
        ('name = "x"\n[input]\nkind = "tensor"\n[decode]\nkind = "yolov8"', "needs labels"),
        ('inherits = "yolov8"\n[decode]\nkind = "yolov9"', "no decoder 'yolov9'"),
        (
            'inherits = "yolov8"\n[decode]\nbackground = "last"',
            r"decode\.background: there is no such setting",
        ),
        ('inherits = "keyword"\n[decode]\nsoftmax = 3', r"decode\.softmax"),
        ('inherits = "tensor"\n[decode]\nsoftmax = true', r"decode\.softmax: there is no such setting"),
        ('name = "x"\ncolour = 1\n[input]\nkind = "tensor"', "colour"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_task(file)
    assert "\n" not in caught.value.message


def test_a_missing_file_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_task("nowhere/x.toml")
