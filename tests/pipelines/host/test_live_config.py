"""Configuration files of streams that run, read again."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from edgectl.core.errors import ConfigError, EngineError, UsageError
from edgectl.pipelines.host.live_config import LiveConfig
from edgectl.pipelines.kinds.base import Pipeline
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig
from edgectl.pipelines.kinds.config_change import Reconfigured
from edgectl.pipelines.kinds.difference import NewStartNeeded


class Double:
    """A pipeline that takes what it is told to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.answer = Reconfigured(("zones.yard",), True)
        self.taken: list[tuple[PipelineConfig, Mapping[str, Any]]] = []

    def configure(self, config: PipelineConfig, told: Mapping[str, Any]) -> Reconfigured:
        if self.error is not None:
            raise self.error
        self.taken.append((config, told))
        return self.answer


@pytest.fixture
def pipeline() -> Double:
    return Double()


@pytest.fixture
def running(tmp_path: Path, pipeline: Double) -> LiveConfig:
    (tmp_path / "c.yaml").write_text("update_s: 3\nzones:\n  y: {polygon: [0,0,1,0,1,1]}\n")
    running = LiveConfig("surveillance", tmp_path / "c.yaml", lambda c: c.model_copy(update={"budget_ms": 9}))
    running.runs(cast(Pipeline, pipeline))
    return running


def test_the_file_is_read_again_with_what_else_was_given(running: LiveConfig, pipeline: Double) -> None:
    assert running.reload() == "zones.yard: in force"
    ((config, told),) = pipeline.taken
    assert isinstance(config, VideoConfig)
    assert (config.update_s, config.budget_ms) == (3, 9)
    assert told["name"] == "c.yaml"
    assert told["digest"].startswith("sha256:")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Reconfigured((), True), "nothing has changed"),
        (Reconfigured(("a",), False), "a: in force from the camera's next frame on"),
        (Reconfigured(tuple("abcdefghijk"), True), "a, b, c, d, e, f, g, h …: in force"),
    ],
)
def test_what_came_of_it_is_one_sentence(
    running: LiveConfig, pipeline: Double, answer: Reconfigured, said: str
) -> None:
    pipeline.answer = answer
    assert running.reload() == said


def test_a_mistake_has_file_and_line_and_reaches_no_stream(
    running: LiveConfig, pipeline: Double, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("update_s: 3\nzones:\n  y: {polygon: [0,0]}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3: zones\.y\.polygon: a polygon is"):
        running.reload()
    (tmp_path / "c.yaml").unlink()
    with pytest.raises(UsageError, match="cannot read"):
        running.reload()
    assert not pipeline.taken


def test_what_the_stream_finds_wrong_has_file_and_line(running: LiveConfig, pipeline: Double) -> None:
    pipeline.error = UsageError("zone 'y' names class 'dragon'", key=("zones", "y"))
    with pytest.raises(ConfigError, match=r"c\.yaml:3: zones\.y: zone 'y' names class 'dragon'"):
        running.reload()


def test_what_needs_a_new_start_is_said_and_drawn_all_the_same(running: LiveConfig, pipeline: Double) -> None:
    pipeline.error = NewStartNeeded("flow.mode cannot change while the stream runs")
    with pytest.raises(NewStartNeeded):
        running.reload()
    said = "It holds from the next start on: flow.mode cannot change while the stream runs."
    assert running.draw("update_s: 4", "c.yaml") == said
    pipeline.error = EngineError("the stream is not running")
    assert (
        running.draw("update_s: 4", "c.yaml") == "It holds from the next start on: the stream is not running."
    )
    pipeline.error = UsageError("no")
    with pytest.raises(UsageError, match="no"):
        running.draw("update_s: 4", "c.yaml")


def test_a_stream_that_does_not_run_yet_or_has_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without a configuration file"):
        LiveConfig("surveillance", None).reload()
    with pytest.raises(NewStartNeeded, match="does not run yet"):
        LiveConfig("surveillance", None).apply("", "c.yaml")


def test_of_two_that_read_the_file_at_once_the_later_text_holds(
    running: LiveConfig, pipeline: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter(["update_s: 4\n", "update_s: 5\n"])
    others: list[threading.Thread] = []

    def read(path: Path) -> str:
        text = next(texts)
        if not others:
            # somebody saves the file, and asks again
            others.append(threading.Thread(target=running.reload))
            others[0].start()
            others[0].join(0.5)
        return text

    monkeypatch.setattr("edgectl.pipelines.host.live_config.read_bounded_text", read)
    running.reload()
    others[0].join()
    assert [cast(VideoConfig, config).update_s for config, _ in pipeline.taken] == [4, 5]
