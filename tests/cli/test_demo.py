"""The demo is the product's own test of itself: build, deliver, run, roll out, roll back. Real processes,
embedded broker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from edgectl.cli.demo.bad import slow_copy
from edgectl.cli.demo.patience import Patience
from edgectl.cli.demo.whole import Built, speed
from edgectl.engines.finalise.open import open_model
from edgectl.models import reference
from edgectl.pipelines.synth import open_scene

STANDS_STILL_S = 300.0


def run_while_it_moves(*arguments: str, folder: Path) -> str:
    """What a command prints that may take as long as it writes something into ``folder``.

    A demo gives up by itself what stands still; this is for one that hangs altogether.
    """
    out, err = folder / "out", folder / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgectl.cli", *arguments], cwd=folder, stdout=stdout, stderr=stderr
        )
    patience = Patience(STANDS_STILL_S)
    try:
        while not exited(process, within_s=1.0):
            assert not patience.over(written(folder)), f"nothing moves: {err.read_text()}"
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out.read_text() + err.read_text()
    return out.read_text()


def exited(process: subprocess.Popen[bytes], within_s: float) -> bool:
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def written(folder: Path) -> dict[Path, int]:
    """The sizes of all files; one may go while we look."""
    sizes = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    return sizes


@pytest.mark.slow
@pytest.mark.timeout(0)  # two minutes, and twenty on a machine with eight times the work
def test_the_demo_shows_what_it_claims(tmp_path: Path) -> None:
    result = json.loads(run_while_it_moves("demo", "--json", folder=tmp_path))
    assert [r["state"] for r in result["good"]] == ["done", "done", "done"]
    assert result["bad"]["state"] == "stopped"
    assert sorted(m["outcome"] for m in result["bad"]["members"].values()) == [
        "restored",
        "waiting",
        "waiting",
    ]
    assert all(n > 0 for n in result["frames_of_others_during_bad"].values())
    assert len(result["frames_of_others_during_bad"]) == 4
    assert {r["release"] for r in result["rows"] if r["device"].startswith("gate")} == {"gate@1.0.0"}
    cameras = {r["stream"]: r["processed"] for r in result["rows"] if r["device"] == "gate-1"}
    assert cameras.keys() == {"yard", "drive", "door"}
    assert all(cameras.values())
    assert len(result["workers_mb"]) == 1
    assert result["page"].startswith("http://127.0.0.1:")
    assert len(result["videos"]) == 4
    for video in result["videos"]:
        with av.open(str(tmp_path / video)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 50


@pytest.mark.parametrize(
    ("ratio", "cause", "said"),
    [
        (0.5, None, "1.20 ms, 2.0 times as fast as float"),
        (1.0, "undecided", "1.20 ms; int8 does not ship first: undecided"),
        (None, None, "not measured"),
    ],
)
def test_a_build_says_how_fast_it_is_or_why_float_ships(
    ratio: float | None, cause: str | None, said: str
) -> None:
    assert speed(Built("gate@1.0.0", "sha256:0", "onnxruntime-int8", 1.2, ratio, 3.0), cause) == said


def test_the_bad_release_answers_right_and_works_many_times_as_much() -> None:
    import cv2
    import numpy as np

    ours = reference("yard-detector")
    good, bad = open_model(ours.model.read_bytes()), open_model(slow_copy(ours.model))
    image = (
        cv2.resize(open_scene("yard", seed=4).render(90), (320, 192))
        .transpose(2, 0, 1)[None]
        .astype(np.float32)
        / 255
    )
    np.testing.assert_allclose(
        good.run({"image": image})["output"], bad.run({"image": image})["output"], atol=1e-5
    )
