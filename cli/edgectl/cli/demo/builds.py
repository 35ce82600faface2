"""The engines of the demo: the reference models, built for this machine, and the bad release."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgectl.builder.build import BuildProgress, BuildReport, build_bundle
from edgectl.cli.demo.bad import slow_copy
from edgectl.core.files import atomic_write
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

__all__ = ["CALIBRATION", "MODELS", "build_bad", "build_reference"]

CALIBRATION = {
    "yard-detector": "synth://yard?seed=101&paced=0&fps=2&seconds=24",
    "road-detector": "synth://road?seed=101&paced=0&fps=2&seconds=24",
    "kiosk-keyword": "synth://kiosk?seed=101&paced=0&seconds=60",
}
"""Seeds that no model was trained on and no camera of the demo shows."""


@dataclass(frozen=True)
class Model:
    """A reference model and what the demo calls the release made of it."""

    name: str
    release: str
    slot: str


MODELS = (
    Model("yard-detector", "gate", "gate-detector"),
    Model("road-detector", "dash", "dash-detector"),
    Model("kiosk-keyword", "words", "kiosk-words"),
)


def build_reference(
    name: str,
    release: str,
    version: str,
    out: Path,
    *,
    minutes: float,
    progress: Callable[[BuildProgress], None],
) -> BuildReport:
    """Build a reference model for this machine."""
    ours = reference(name)
    return _build(
        ours.model, ours.task, CALIBRATION[name], release, version, out, minutes=minutes, progress=progress
    )


_BAD_CALIBRATION = "synth://yard?seed=101&paced=0&fps=1&seconds=20"
_BAD_PROFILE = b"""\
inherits = "cpu"
description = "One thread of ONNX Runtime"
runtimes = ["onnxruntime"]
[cpu]
max_threads = 1
"""
"""Fewer pictures, one runtime, one thread: nobody will use this one for long."""


def build_bad(
    release: str, version: str, out: Path, *, minutes: float, progress: Callable[[BuildProgress], None]
) -> BuildReport:
    """The yard detector, several times as slow (:mod:`edgectl.cli.demo.bad`), built in good faith."""
    ours = reference("yard-detector")
    model, profile = out.parent / f"{release}-{version}.onnx", out.parent / "plain.toml"
    atomic_write(model, slow_copy(ours.model))
    atomic_write(profile, _BAD_PROFILE)
    return _build(
        model,
        ours.task,
        _BAD_CALIBRATION,
        release,
        version,
        out,
        minutes=minutes,
        progress=progress,
        profile=str(profile),
    )


def _build(
    model: Path,
    task: Path,
    calibration: str,
    release: str,
    version: str,
    out: Path,
    *,
    minutes: float,
    progress: Callable[[BuildProgress], None],
    profile: str = "cpu",
) -> BuildReport:
    return build_bundle(
        model,
        profiles=[profile],
        task=load_task(str(task)),
        calibration=calibration,
        out=out,
        max_drop=0.02,
        minutes=minutes,
        name=release,
        version=version,
        progress=progress,
    )
