"""Another package adds a decoder, a rule, a source, a sink and a kind: a real wheel, installed by pip, found by
its entry points in fresh processes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.pipelines import bundle_of, tracks

from edgectl.core.task import TaskSpec
from edgectl.pipelines import Observation, RuleContext

ACME = '''
from __future__ import annotations
import time
from pathlib import Path
from urllib.parse import urlsplit
import numpy as np
from pydantic import Field
from edgectl.core.schema import Config
from edgectl.pipelines import (
    DecoderType, Detections, EndOfStream, Event, Frame, KindType, Notice, RuleConfig, RuleType, Sink, SinkOptions,
    SinkType, SourceInfo, SourceType, Stamp, VideoConfig, VideoPipeline, decoder_options, describe, expect, finish,
    only_output, parse_options,
)


class PointOptions(Config):
    size: float = Field(gt=0, le=1)


class Points:
    """``[1, N, 3]``: x, y (0..1), score; each is the middle of a square."""

    def __init__(self, task):
        self._spec, self._size = task.decode, decoder_options(PointOptions, task).size

    def __call__(self, outputs, meta):
        points = expect(only_output(outputs), (1, None, 3), "points")[0]
        scale = np.array([meta.input_width, meta.input_height])
        middle, half = points[:, :2] * scale, self._size / 2 * scale
        boxes = np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)
        return finish(boxes, points[:, 2], np.zeros(len(points), np.int32), self._spec, meta)


DECODER = DecoderType("detector", Points, "`[1, N, 3]` points", PointOptions)


class SpeedingConfig(RuleConfig):
    class Speeding(Config):
        px_s: float = Field(gt=0)

    speeding: Speeding


class Speeding:
    def __init__(self, config, labels):
        self._config, self._labels, self._last = config, labels, {}

    def step(self, now):
        events, places = [], {}
        for row, track in enumerate(now.tracks.ids.tolist()):
            x = float(now.tracks.xyxy[row, 0])
            if track in self._last:
                before, t = self._last[track]
                speed = (x - before) / (now.t - t)
                if speed > self._config.speeding.px_s:
                    data = {**describe(now.tracks, row, self._labels), "px_s": round(speed)}
                    events.append(Event("speeding", now.t, None, self._config.id, data))
            places[track] = (x, now.t)
        self._last = places
        if self._config.speeding.px_s == 99 and now.t > 1.45:
            1 / 0
        if self._config.speeding.px_s == 98 and now.t > 1.45:
            return [{"type": "speeding"}]
        if self._config.speeding.px_s == 97 and now.t > 1.45:
            return [Event("speeding", now.t, None, self._config.id, {"box": now.tracks.xyxy})]
        return events

    def snapshot(self):
        return {"last": self._last}

    def restore(self, state):
        self._last = {int(k): tuple(v) for k, v in state["last"].items()}


RULE = RuleType(SpeedingConfig, lambda config, context: Speeding(config, context.labels), "something is fast: `speeding`")


class RampOptions(Config):
    frames: int = 10


class Ramp:
    """Pictures that grow brighter."""

    decode_errors = corrupt_frames = 0
    outage = None

    def __init__(self, uri):
        self._uri, self._n = uri, 0
        self._frames = parse_options(RampOptions, urlsplit(uri).query, uri).frames

    def open(self):
        return SourceInfo(self._uri, "file", 96, 64, 10.0, False, self._frames)

    def read(self, timeout_s):
        if self._n == self._frames:
            raise EndOfStream(Notice("source", "ended", False, "start"))
        image = np.full((64, 96, 3), 40 + 5 * self._n, np.uint8)
        stamp = Stamp(self._n, self._n * 100_000_000, time.monotonic_ns(), self._n / 10, None, "synthetic")
        self._n += 1
        return Frame.of_bgr(image, stamp)

    def interrupt(self):
        pass

    def close(self):
        pass


SOURCE = SourceType((("ramp://", "pictures that grow brighter"),), video=lambda uri, patient: Ramp(uri))


class TallyOptions(SinkOptions):
    file: Path


class TallySink(Sink):
    name = "tally"

    def __init__(self, options, context):
        self._options, self._context, self._n = options, context, {}

    def write(self, output):
        for record in output.records:
            self._n[record["type"]] = self._n.get(record["type"], 0) + 1

    def close(self):
        self._options.file.write_text(f"{self._context.stream} {self._n.get('speeding')}")


SINK = SinkType(TallySink, "how many events of a type", TallyOptions)


class WatchConfig(VideoConfig):
    limit: int = Field(ge=1)


class Watcher:
    def __init__(self, limit):
        self._limit = limit

    def step(self, frame, tracks, t):
        return [Event("crowded", t, None, None, {"n": len(tracks)})] if len(tracks) >= self._limit else []

    def overlay(self, shown):
        return lambda image: None

    def counters(self):
        return {}

    def close(self):
        pass


def watch(args):
    return VideoPipeline("watch", args, args.config, lambda labels, info: Watcher(args.config.limit), 100.0)


KIND = KindType(("detector",), WatchConfig, watch, "counts heads")
'''

FAILS = ACME[: ACME.index("1 / 0")].count("\n") + 1
"""The line of the failing rule."""

ENTRY_POINTS = """
[edgectl.decoders]
acme-point = acme_edge:DECODER
[edgectl.rules]
speeding = acme_edge:RULE
broken = acme_broken:RULE
[edgectl.sources]
ramp = acme_edge:SOURCE
[edgectl.sinks]
tally = acme_edge:SINK
[edgectl.kinds]
watch = acme_edge:KIND
"""


def wheel(folder: Path, name: str, files: dict[str, str], entry_points: str) -> Path:
    """A pure wheel (PEP 427), by hand."""
    info = f"{name}-1.2.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entry_points,
    }
    path = folder / f"{name}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{f},,\n" for f in [*files, f"{info}/RECORD"]))
    return path


def install(folder: Path, *wheels: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--target",
            folder,
            *wheels,
        ],
        check=True,
        timeout=100,
    )


def brightness_net() -> bytes:
    """``[1, 3, 64, 96]`` → one point at (mean of the picture, 0.5) with the score 0.9."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["x"]),
        helper.make_node("Concat", ["x", "rest"], ["points"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 96])],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, [1, 1, 3])],
        [
            numpy_helper.from_array(np.array([1, 1, 1]), "shape"),
            numpy_helper.from_array(np.array([[[0.5, 0.9]]], np.float32), "rest"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@dataclass
class Place:
    folder: Path
    bundle: Path
    packages: Path | str

    def edgectl(self, *args: object, plugins: bool = True) -> subprocess.CompletedProcess[str]:
        env = os.environ | ({"PYTHONPATH": str(self.packages)} if plugins else {})
        command = [sys.executable, "-m", "edgectl.cli", *map(str, args)]
        return subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=100, check=False, cwd=self.folder
        )

    def run(self, kind: str, config: Any, source: str = "ramp://x?frames=20", **more: Any) -> Any:
        (self.folder / "config.yaml").write_text(json.dumps(config))
        return self.edgectl(
            "run", kind, "-b", self.bundle, "-s", source, "-c", "config.yaml", "--json", **more
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("plugins")
    task = TaskSpec.model_validate(
        {
            "name": "points",
            "input": {"kind": "image", "width": 96, "height": 64, "fit": "stretch"},
            "decode": {"kind": "acme-point", "size": 0.25},
            "labels": ["person"],
        }
    )
    place = Place(folder, bundle_of(folder / "bundle", task, brightness_net()), folder / "packages")
    modules = {"acme_edge.py": ACME, "acme_broken.py": "raise RuntimeError('no licence found')\n"}
    install(place.packages, wheel(folder, "acme_edge", modules, ENTRY_POINTS))
    return place


@pytest.mark.slow
def test_a_pipeline_of_another_packages_parts_runs(place: Place) -> None:
    rule = {"id": "fast", "speeding": {"px_s": 10}}
    done = place.run("surveillance", {"rules": [rule], "tally": {"file": str(place.folder / "tally.txt")}})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    fast = [r for r in result["records"] if r["type"] == "speeding"]
    # 5 of 255 grey levels in 0.1 s, on 96 pixels: 18.8 pixels a second
    assert {(r["rule"], r["px_s"]) for r in fast} <= {("fast", 18), ("fast", 19), ("fast", 20)}
    assert {(r["label"], r["track"], tuple(r["frame_size"])) for r in fast} == {("person", 1, (96, 64))}
    assert len(fast) >= 15
    assert result["frames"]["processed"] == 20
    assert (place.folder / "tally.txt").read_text() == f"run {len(fast)}"


@pytest.mark.slow
def test_a_kind_of_another_package_runs_with_its_own_configuration(place: Place) -> None:
    done = place.run("watch", {"limit": 1})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events"]["crowded"] >= 15
    done = place.run("watch", {})
    assert (done.returncode, "limit: it is missing" in done.stderr) == (2, True), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "source", "code", "words"),
    [
        (
            {"rules": [{"id": "a", "broken": {}}]},
            "ramp://x",
            2,
            "the rule 'broken' of the package acme-edge 1.2 cannot be used: RuntimeError: no licence found",
        ),
        (
            {"rules": [{"id": "a", "speeding": {"px_s": -1}}]},
            "ramp://x",
            2,
            "config.yaml:1: rules.0.speeding.px_s: it must be greater than 0",
        ),
        (
            {"rules": [{"id": "a", "speding": {}}]},
            "ramp://x",
            2,
            "config.yaml:1: rules.0.speding: there is no such rule: did you mean 'speeding'?",
        ),
        (
            {"rules": [{"id": "a", "speeding": {"px_s": 99}}]},
            "ramp://x?frames=20",
            7,
            f"rule 'a' failed at 1.500 s: ZeroDivisionError: division by zero next: look at acme_edge.py, line {FAILS}",
        ),
        (
            {"rules": [{"id": "a", "speeding": {"px_s": 98}}]},
            "ramp://x?frames=20",
            7,
            "rule 'a' failed at 1.500 s: TypeError: step must return a list of Event",
        ),
        (
            {"rules": [{"id": "a", "speeding": {"px_s": 97}}]},
            "ramp://x?frames=20",
            7,
            "rule 'a' failed at 1.500 s: TypeError: Object of type ndarray is not JSON serializable",
        ),
        ({"tally": {}}, "ramp://x", 2, "tally.file: it is missing"),
        ({}, "ramp://x?frame=3", 9, "parameters: frames"),
        ({}, "ramb://x", 9, "ramp://"),
    ],
)
def test_a_mistake_with_a_plug_in_is_one_sentence(
    place: Place, config: Any, source: str, code: int, words: str
) -> None:
    done = place.run("surveillance", config, source)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_debug_shows_the_traceback_of_a_rule_that_failed(place: Place) -> None:
    (place.folder / "config.yaml").write_text("rules: [{id: a, speeding: {px_s: 99}}]")
    done = place.edgectl(
        "run", "surveillance", "-b", place.bundle, "-s", "ramp://x?frames=20", "-c", "config.yaml", "--debug"
    )
    assert done.returncode == 7
    assert f'acme_edge.py", line {FAILS}, in step' in done.stderr


@pytest.mark.slow
def test_without_the_package_the_bundle_says_which_decoder_is_missing(place: Place) -> None:
    done = place.run("surveillance", {}, "synth://yard?seconds=1&paced=0", plugins=False)
    assert done.returncode == 2
    assert "there is no decoder 'acme-point'" in done.stderr


PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    return str(found)


@pytest.mark.slow
def test_the_rule_of_the_documentation_works_as_it_stands(place: Place) -> None:
    points = "\n".join(re.findall(r'^fast = "(.*)"$', block("toml"), re.M))
    package = wheel(
        place.folder, "acme_rules", {"acme_rules.py": block("python")}, f"[edgectl.rules]\nfast = {points}\n"
    )
    install(place.folder / "documented", package)
    packages = os.pathsep.join(map(str, (place.packages, place.folder / "documented")))
    config = place.folder / "fast.yaml"
    config.write_text(block("yaml").replace("200", "10"))
    done = dataclasses.replace(place, packages=packages).edgectl(
        "run", "surveillance", "-b", place.bundle, "-s", "ramp://x?frames=20", "-c", config, "--json"
    )
    assert done.returncode == 0, done.stderr
    fast = [r for r in json.loads(done.stdout)["records"] if r["type"] == "fast"]
    assert [(r["rule"], r["label"]) for r in fast] == [("runner", "person")]
    assert fast[0]["px_s"] in (18, 19, 20)


def test_the_rule_of_the_documentation_goes_on_from_a_snapshot() -> None:
    space: dict[str, Any] = {"__name__": "acme_rules"}
    exec(compile(block("python"), "acme_rules.py", "exec"), space)
    config = space["FastConfig"].model_validate({"id": "r", "fast": {"px_s": 100}})
    context = RuleContext(("person",))
    steps = [Observation(tracks((1, 10.0 * i, 500), (2, 500, 900 - 30.0 * i)), i / 5) for i in range(10)]
    whole = space["FastRule"](config, context)
    events = [e for now in steps for e in whole.step(now)]
    assert [(e.t_s, e.data["track"], e.data["px_s"]) for e in events] == [(0.2, 2, 150)]
    for at in (1, 5):
        first, second = space["FastRule"](config, context), space["FastRule"](config, context)
        begun = [e for now in steps[:at] for e in first.step(now)]
        second.restore(json.loads(json.dumps(first.snapshot())))
        assert begun + [e for now in steps[at:] for e in second.step(now)] == events
