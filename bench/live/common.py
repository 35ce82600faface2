"""What the benches of live video share: clips, engines, streams, intervals."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from support.pipelines import make_variant
from ten_objects import TenObjects

from edgectl.builder.variants.batched import open_batch
from edgectl.core.bundle import LAYER_ENGINE, Preference, Variant
from edgectl.engines.base import Engine
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import load_1m
from edgectl.models.catalogue import reference
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.engine_pool import EnginePool

__all__ = [
    "RULES",
    "Slowed",
    "TenObjects",
    "clip_1080p",
    "clip_idle",
    "detector",
    "interval",
    "opened",
    "parser",
    "percentiles",
    "pss_mb",
    "quiet_process",
    "report",
    "stream",
]

RULES: dict[str, Any] = {
    "zones": {
        "left": {"polygon": [0.05, 0.1, 0.5, 0.1, 0.5, 0.95, 0.05, 0.95]},
        "right": {"polygon": [0.5, 0.1, 0.95, 0.1, 0.95, 0.95, 0.5, 0.95]},
    },
    "rules": [{"id": "gate", "line": [0.5, 0.0, 0.5, 1.0]}],
    "govern": {"on": False},
}
"""Two zones and a line. What is lost under load is measured, not avoided."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", type=Path, help="write the figures there, too")
    return p


def clip_1080p(folder: Path, *, fps: int = 30, seconds: int = 10, size: str = "1920x1080") -> Path:
    """H.264 as a camera sends it: no B-frames, a key frame a second, three reference frames, 4 Mbit/s."""
    path = folder / f"clip-{size}-{fps}.mp4"
    source = f"testsrc2=size={size}:rate={fps}:duration={seconds}"
    codec = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-refs", "3", "-b:v", "4M"]
    codec += ["-g", str(fps), "-pix_fmt", "yuv420p"]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *codec, str(path)],
        check=True,
    )
    return path


def clip_idle(folder: Path, *, fps: int = 15, seconds: int = 10, size: str = "1920x1080") -> Path:
    """A scene in which nothing moves but the noise of the sensor, H.264 like :func:`clip_1080p`'s."""
    path = folder / f"idle-{size}-{fps}.mp4"
    still = f"testsrc2=size={size}:rate={fps}:duration=1,trim=end_frame=1,loop=loop=-1:size=1"
    source = f"{still},setpts=N/{fps}/TB,noise=alls=6:allf=t"
    codec = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-refs", "3", "-b:v", "4M"]
    codec += ["-g", str(fps), "-pix_fmt", "yuv420p", "-r", str(fps), "-t", str(seconds)]
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *codec, str(path)], check=True
    )
    return path


def detector(folder: Path, model: Path | None, batch: int = 1) -> Variant:
    """FastestDet from its file, or edgectl's own yard detector; for so many pictures a call."""
    ours = reference("yard-detector")
    task, name = ("fastestdet", "fastestdet") if model is not None else (str(ours.task), "yard")
    blob = (ours.model if model is None else model).read_bytes()
    variant = make_variant(folder, load_task(task), open_batch(blob) if batch > 1 else blob, name=name)
    variant.config = variant.config.model_copy(update={"batch": batch})
    return variant


def opened(variant: Variant) -> Engine:
    """In its runtime, on one thread."""
    settings = variant.config.session.model_copy(update={"threads": 1})
    return open_model(variant.need(LAYER_ENGINE).read_bytes(), settings, runtime=variant.config.runtime)


class Slowed:
    """An engine that takes :attr:`seconds`: it sleeps, as one on an accelerator does."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self.inputs, self.outputs, self.runtime = engine.inputs, engine.outputs, engine.runtime
        self._outputs: dict[str, NDArray[Any]] | None = None
        self._engine = engine
        self.seconds = seconds

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._outputs is None:
            self._outputs = dict(self._engine.run(feeds))
        time.sleep(self.seconds)
        return self._outputs

    def close(self) -> None:
        self._engine.close()


def stream(
    name: str,
    source: str,
    variant: Variant,
    config: Mapping[str, Any] | None = None,
    *,
    pool: EnginePool | None = None,
    wrap: Callable[[Engine], Any] = lambda engine: engine,
    emit: Callable[[dict[str, Any]], None] = lambda record: None,
    seconds: float | None = None,
    lighter: Mapping[Preference, Variant] | None = None,
) -> Any:
    """A surveillance stream that is not started. ``.times`` will be stage → ns of every frame."""
    pipeline: Any = make_pipeline(
        "surveillance",
        PipelineArgs(
            name,
            source,
            {"detector": PartVariant(variant, lighter=lighter or {})},
            parse_config("surveillance", dict(config or RULES)),
            emit,
            lambda v: wrap(opened(v)),
            seconds=seconds,
            pool=pool or EnginePool(),
        ),
    )
    times: list[dict[str, int]] = []
    record = pipeline.tracer.record_all

    def note(stages: Any) -> None:
        stages = list(stages)
        if len(stages) > 1:
            times.append(dict(stages))
        record(stages)

    pipeline.tracer.record_all = note
    pipeline.times = times
    return pipeline


def quiet_process() -> None:
    """What edgectl's own processes set before they start streams."""
    sys.setswitchinterval(0.0005)
    cv2.setNumThreads(1)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 95, 99)}


def interval(values: Sequence[float], statistic: Callable[[Any], float] = np.median) -> dict[str, float]:
    """The statistic, and its 95 % interval by bootstrap."""
    rng = np.random.default_rng(0)
    array = np.asarray(values, float)
    made = [statistic(rng.choice(array, len(array))) for _ in range(1000)]
    low, high = np.percentile(made, [2.5, 97.5])
    return {
        "is": round(float(statistic(array)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def pss_mb(pid: int | str = "self", *, own: bool = False) -> float:
    """Proportional set size, MB (10^6 bytes). ``own``: without the pages of files, of which a process has a larger or
    smaller share as others that map them come and go."""
    wanted = ("Pss_Anon:", "Pss_Shmem:") if own else ("Pss:",)
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(wanted)]
    assert len(found) == len(wanted), "smaps_rollup is another one than expected"
    return sum(found)


def report(figures: dict[str, Any], path: Path | None) -> None:
    figures = {**figures, "load_1m": load_1m(), "cores": os.cpu_count()}
    text = json.dumps(figures, indent=2)
    print(text)
    if path:
        path.write_text(text + "\n")
