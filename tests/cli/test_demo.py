"""The demo is the product's own test of itself: build, deliver, run, roll out, roll back. Real processes,
embedded broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from edgectl.cli.demo.bad import slow_copy
from edgectl.engines.finalise.open import open_model
from edgectl.models import reference
from edgectl.pipelines.synth import open_scene


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_shows_what_it_claims(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "edgectl.cli", "demo", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads(run.stdout)
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
    assert len(result["videos"]) == 4
    for video in result["videos"]:
        with av.open(str(tmp_path / video)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 50


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
