"""What was drawn is checked by the models that read the file, and written into it whole or not at all."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from support.live_page import CONFIG

from edgectl.core.errors import EngineError, StorageError, UsageError
from edgectl.pipelines.host.config import load_config, parse_config, yaml_values
from edgectl.pipelines.host.live import shape_editor
from edgectl.pipelines.view.editor import ShapeEditor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gate.yaml"
    path.write_text(CONFIG)
    path.chmod(0o640)
    return path


@pytest.fixture
def editor(path: Path) -> ShapeEditor:
    made = shape_editor("surveillance", load_config("surveillance", path), path)
    assert made is not None
    return made


def request(editor: ShapeEditor, **changes: Any) -> bytes:
    now = editor.now()
    zones, lines = now["shapes"]["zones"], now["shapes"]["lines"]
    zones[0] |= changes
    return json.dumps({"shapes": {"zones": zones, "lines": lines}, "base": now["base"]}).encode()


def test_the_file_is_written_with_what_was_drawn_and_the_version_before_is_kept(
    editor: ShapeEditor, path: Path
) -> None:
    said = editor.save(request(editor, polygon=[0, 0.5, 1, 0.5, 1, 1]))
    assert yaml_values(path.read_text())["zones"]["yard"] == {
        "polygon": [0, 0.5, 1, 0.5, 1, 1],
        "classes": ["person"],
    }
    assert "# people only" in path.read_text()
    assert (path.parent / said["backup"]).read_text() == CONFIG
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(p.name for p in path.parent.iterdir()) == ["gate.yaml", "gate.yaml.bak"]
    # and what it says now can be drawn on again
    editor.save(request(editor, name="court"))
    assert yaml_values(path.read_text())["rules"][1]["loiter"]["zone"] == "court"


def test_checking_writes_nothing(editor: ShapeEditor, path: Path) -> None:
    assert "court:" in editor.check(request(editor, name="court"))["yaml"]
    assert path.read_text() == CONFIG
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_was_changed_meanwhile_is_left_alone(editor: ShapeEditor, path: Path) -> None:
    drawn = request(editor, polygon=[0, 0.5, 1, 0.5, 1, 1])
    path.write_text(CONFIG + "# by hand\n")
    with pytest.raises(UsageError, match="changed meanwhile"):
        editor.save(drawn)
    assert path.read_text() == CONFIG + "# by hand\n"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"polygon": [0, 0, 1, 1, 1, 0, 0, 1]}, "crosses itself"),
        ({"polygon": [0, 0, 1, 1]}, "3 to 256 corners"),
        ({"polygon": [0, 0, 1, 0, 9, 1]}, "9 is not relative to the frame"),
        ({"name": "no spaces"}, "no spaces"),
        ({"name": ""}, "name"),
        ({"was": None, "name": "other"}, "names zone 'yard', which does not exist"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(
    editor: ShapeEditor, path: Path, changes: dict[str, Any], told: str
) -> None:
    for call in (editor.check, editor.save):
        with pytest.raises(UsageError, match=told):
            call(request(editor, **changes))
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == CONFIG


@pytest.mark.parametrize(
    "sent", [b"", b"[]", b"{", b'{"shapes": {}, "base": "", "path": "/etc/passwd"}', b"\xff"]
)
def test_what_is_no_request_is_told(editor: ShapeEditor, sent: bytes) -> None:
    with pytest.raises(UsageError, match="what was drawn"):
        editor.save(sent)


def test_a_link_is_followed_and_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    editor = shape_editor("surveillance", load_config("surveillance", link), link)
    assert editor is not None
    editor.save(request(editor, name="court"))
    assert link.is_symlink()
    assert "court" in path.read_text()


def test_a_file_that_is_gone_or_broken_is_told(editor: ShapeEditor, path: Path) -> None:
    drawn = request(editor, name="court")
    path.write_text("zones: [")
    with pytest.raises(UsageError, match="not valid YAML"):
        editor.now()
    path.unlink()
    with pytest.raises(UsageError, match="cannot read"):
        editor.save(drawn)


def test_a_folder_that_cannot_be_written_leaves_the_file(
    editor: ShapeEditor, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("edgectl.pipelines.view.editor.atomic_write", full)
    with pytest.raises(StorageError):
        editor.save(request(editor, name="court"))
    assert path.read_text() == CONFIG


def test_without_a_file_the_yaml_can_be_copied_and_not_saved() -> None:
    editor = shape_editor("surveillance", parse_config("surveillance", yaml_values(CONFIG)))
    assert editor is not None
    assert editor.now()["file"] is None
    yaml = editor.check(request(editor, name="court"))["yaml"]
    assert parse_config("surveillance", yaml_values(yaml)).zones.keys() == {"court"}  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="without a configuration file"):
        editor.save(request(editor, name="court"))


def test_a_stream_without_pictures_has_none() -> None:
    assert shape_editor("speech", parse_config("speech", None)) is None


def test_what_was_drawn_reaches_the_stream_before_it_is_written(path: Path) -> None:
    heard: list[tuple[str, str, str]] = []

    def apply(text: str, name: str) -> str:
        heard.append((text, name, path.read_text()))
        return "zones.court: in force"

    editor = shape_editor("surveillance", load_config("surveillance", path), path, apply)
    assert editor is not None
    assert editor.save(request(editor, name="court"))["applied"] == "zones.court: in force"
    assert heard == [(path.read_text(), str(path), CONFIG)]


def test_what_the_stream_does_not_take_is_not_written(path: Path) -> None:
    def apply(text: str, name: str) -> str:
        raise EngineError("rule 'lurk' failed on the last minute")

    editor = shape_editor("surveillance", load_config("surveillance", path), path, apply)
    assert editor is not None
    with pytest.raises(EngineError, match="lurk"):
        editor.save(request(editor, name="court"))
    assert (path.read_text(), list(path.parent.iterdir())) == (CONFIG, [path])
