"""Options of ``edgectl build`` as they reach the builder, and what a defect looks like with and without
``--debug``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgectl.builder import build as builder
from edgectl.builder.convert.options import ConvertOptions
from edgectl.cli.main import app
from edgectl.core.errors import ModelError, UsageError

COMMAND = ["build", "m.onnx", "--profile", "cpu", "--task", "tensor", "--random-calibration"]


def call(*options: str) -> Any:
    return CliRunner().invoke(app, [*COMMAND, *options], standalone_mode=False)


def test_shapes_may_be_given_for_several_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def stop(model: Path, **options: Any) -> None:
        seen.update(options)
        raise ModelError("stop")

    monkeypatch.setattr(builder, "build_bundle", stop)
    assert isinstance(call("--shape", "x=1,3,32,32", "--shape", "y=1,4").exception, ModelError)
    assert seen["shapes"] == {"x": (1, 3, 32, 32), "y": (1, 4)}
    assert isinstance(call("--shape", "x").exception, UsageError)


def test_which_python_converts_and_whether_the_source_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stop(model: Path, **options: Any) -> None:
        seen.append(options["convert"])
        raise ModelError("stop")

    monkeypatch.setattr(builder, "build_bundle", stop)
    call()
    call("--convert-python", "tf/bin/python", "--trust-source")
    assert seen == [ConvertOptions(), ConvertOptions(Path("tf/bin/python"), trust_source=True)]


@pytest.mark.parametrize("debug", [True, False])
def test_the_traceback_of_a_defect_is_printed_with_debug_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("t2")

    root, ours = logging.getLogger(), logging.getLogger("edgectl")
    handlers, level = list(root.handlers), ours.level
    monkeypatch.setattr(builder, "_build", broken)
    try:
        with pytest.raises(ModelError, match="broke: KeyError: 't2'"):
            app([*COMMAND, *(["--debug"] if debug else [])], standalone_mode=False)
    finally:
        root.handlers[:] = handlers
        ours.setLevel(level)
    assert ("Traceback (most recent call last)" in capsys.readouterr().err) == debug
