from __future__ import annotations

import json
from pathlib import Path

from edgectl.pipelines.stream.timeline import Timeline


def test_a_trace_has_a_track_for_each_thread_and_times_in_microseconds(tmp_path: Path) -> None:
    timeline = Timeline(3)
    timeline.add("capture-gate", "pre", "gate", 6, 0, 1)
    timeline.add("engine-yard", "engine", "yard", 2, 5_000_000, 9_000_000)
    timeline.add("capture-gate", "pre", "gate", 7, 1_000_000, 1_500_000)
    timeline.add("analysis-gate", "decode", "gate", 7, 9_000_000, 9_100_000)
    path = tmp_path / "trace.json"
    timeline.write(path)
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(names.values()) == {"capture-gate", "engine-yard", "analysis-gate"}
    spans = [(names[e["tid"]], e["name"], e["ts"], e["dur"], e["args"]) for e in events if e["ph"] == "X"]
    assert spans == [
        ("capture-gate", "pre", 1000, 500, {"stream": "gate", "frame": 7}),
        ("engine-yard", "engine", 5000, 4000, {"frames": 2}),
        ("analysis-gate", "decode", 9000, 100, {"stream": "gate", "frame": 7}),
    ]
