"""The Python that README and docs/python.md show runs as it stands."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest

from edgectl.models import reference
from edgectl.pipelines import EndOfStream, Frame, open_source

ROOT = Path(__file__).resolve().parent.parent
YARD = "synth://yard?seed=1&fps=10&seconds=7&paced=0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``gate.onnx``, its task and a clip of what it sees."""
    folder = tmp_path_factory.mktemp("python")
    yard = reference("yard-detector")
    shutil.copy(yard.model, folder / "gate.onnx")
    shutil.copy(yard.task, folder / "gate.toml")
    with av.open(str(folder / "gate.mp4"), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.bit_rate = 640, 360, 8_000_000
        for frame in frames(YARD):
            picture = av.VideoFrame.from_ndarray(frame.bgr(), format="bgr24")
            clip.mux(stream.encode(picture))
        clip.mux(stream.encode())
    return folder


def frames(uri: str) -> list[Frame]:
    source = open_source(uri)
    source.open()
    found = []
    with contextlib.suppress(EndOfStream):
        while (frame := source.read(1.0)) is not None:
            found.append(frame)
    source.close()
    return found


def python_of(page: Path) -> str:
    """Its blocks in order. A build takes the least time instead of its default, five minutes."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    assert blocks
    return re.sub(r"(calibration=\"gate\.mp4\",)", r"\1 minutes=0.1,", "\n".join(blocks))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("README.md", r"cpu-float32 .*tracked_object person.*"),
        ("docs/python.md", r"line_crossing|in \[|out \["),
    ],
)
def test_what_a_page_shows_runs(page: str, shown: str, folder: Path) -> None:
    script = folder / "page.py"
    script.write_text(python_of(ROOT / page))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(shown, done.stdout, re.S), done.stdout
