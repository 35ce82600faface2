"""A pipeline that is watched: what it shows, and that it is the same pipeline."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.run import RunSummary, run_stream
from edgectl.pipelines.view.live_view import LiveView


def watched(tmp_path: Path, view: LiveView, stop: threading.Event, values: dict[str, Any]) -> RunSummary:
    source = "synth://yard?fps=20&width=640&height=384"
    return run_stream(
        "surveillance",
        [],
        source,
        parse_config("surveillance", values),
        variants={"detector": make_variant(tmp_path / "blobs", box_task())},
        open_engine=lambda v: BoxEngine(lambda _: [(0.4, 0.3, 0.6, 0.8, 0.9, 0)]),
        on_event=view.heard,
        on_progress=lambda stats, share: view.update("run", stats),
        sinks=view.add("run", "surveillance", source, pictures=True),
        stop=stop,
    )


def test_what_nobody_may_see_is_not_on_the_page(tmp_path: Path) -> None:
    mask = {"privacy": {"masks": [{"polygon": [0, 0, 0.5, 0, 0.5, 1, 0, 1]}]}}
    stop = threading.Event()
    summaries: list[RunSummary] = []
    with LiveView("127.0.0.1", 0) as view:
        runner = threading.Thread(target=lambda: summaries.append(watched(tmp_path, view, stop, mask)))
        runner.start()
        try:
            for _ in range(30):
                answer = (
                    httpx.get(f"{view.url}streams/run/picture.jpg", timeout=30)
                    if view._board.streams
                    else None
                )
                if answer is not None and answer.status_code == 200:
                    break
                threading.Event().wait(0.1)
            assert answer is not None
            image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        finally:
            stop.set()
            runner.join()
    assert image is not None
    assert image.shape == (384, 640, 3)
    assert image[:, :310].max() < 12, "black, what was drawn included"
    assert image[:, 330:].mean() > 50
    [summary] = summaries
    assert summary.frames.in_flight == 0
    assert summary.frames.dropped.keys() <= {"superseded", "shutdown"}


def test_a_run_is_stopped_by_whoever_asks_and_gives_its_summary(tmp_path: Path) -> None:
    stop = threading.Event()
    with LiveView("127.0.0.1", 0) as view:
        threading.Timer(1.0, stop.set).start()
        summary = watched(tmp_path, view, stop, {})
    assert summary.frames.processed > 0
    assert "tracked_object:new" in summary.events


def test_without_its_extra_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:

    for name in [
        n
        for n in sys.modules
        if n.startswith(("starlette", "edgectl.pipelines.view.app", "edgectl.pipelines.view.server"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    import edgectl.pipelines.view as wing

    for module in ("app", "server"):
        monkeypatch.delattr(wing, module, raising=False)
    with pytest.raises(UsageError, match=r"starlette.*not installed") as e:
        LiveView("127.0.0.1", 0)
    assert e.value.hint == "pip install 'edgectl[view]'"
