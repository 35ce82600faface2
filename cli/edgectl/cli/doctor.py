"""``edgectl doctor``: is this machine ready, and if not, what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgectl.cli._printer import Printer, table

if TYPE_CHECKING:
    from rich.table import Table

    from edgectl.device_profiles.machine import Machine

__all__ = ["Check", "doctor", "runtime_check"]


@dataclass(frozen=True)
class Check:
    """``ok``, ``missing`` (something optional is not there) or ``broken`` (something needed does not
    work)."""

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    next_step: str = ""


def doctor(
    state_dir: Annotated[
        Path, typer.Option("--state", help="Folder that the agent would keep its state in.")
    ] = Path(),
    *,
    out: Printer,
) -> None:
    """Check Python, runtimes, decoders, disk, clock and devices of this machine. Exit 1 if something
    needed is broken."""
    checks = [check for part in _PARTS for check in part(state_dir)]

    def shown() -> Table:
        from rich.text import Text

        t = table("check", "", "what was found", "next step")
        colour = {"ok": "green", "missing": "yellow", "broken": "red"}
        for c in checks:
            t.add_row(c.name, Text(c.state, colour[c.state]), c.detail, c.next_step)
        return t

    broken = any(c.state == "broken" for c in checks)
    out.result({"ok": not broken, "checks": checks}, shown)
    if broken:
        raise typer.Exit(1)


def _python(_: Path) -> Iterator[Check]:
    current = ".".join(str(n) for n in sys.version_info[:3])
    good = sys.version_info >= (3, 10)
    yield Check(
        "python", "ok" if good else "broken", current, "" if good else "edgectl needs Python 3.10 or newer"
    )


def _engine(_: Path) -> Iterator[Check]:
    """How the runtime is installed, then one real inference: a broken ONNX Runtime imports well."""
    from edgectl.core.errors import ProfileError
    from edgectl.device_profiles.machine import probe, runtime_distributions

    names = runtime_distributions().get("onnxruntime", ())
    if len(names) != 1:
        yield from _installed(names)
        return
    try:
        machine = probe()
    except ProfileError as e:
        yield Check("runtime", "broken", e.message, f"pip install --force-reinstall {names[0]}")
        return
    cuda = _inference("cuda") if "CUDAExecutionProvider" in machine.providers else None
    yield runtime_check(machine, cuda)
    failure = _inference("cpu")
    step = f"pip install --force-reinstall {names[0]}" if failure else ""
    yield Check(
        "onnxruntime", "broken" if failure else "ok", failure or "a reference model ran on the CPU", step
    )


def _installed(names: Sequence[str]) -> Iterator[Check]:
    from edgectl.device_profiles.machine import RUNTIME_HINT

    if not names:
        yield Check(
            "runtime",
            "missing",
            "no inference runtime: needed for build, run, bench and agent run",
            RUNTIME_HINT,
        )
    if len(names) > 1:
        step = f"pip uninstall -y {' '.join(names)}, then pip install 'edgectl[cpu]' or 'edgectl[gpu]'"
        yield Check(
            "runtime",
            "broken",
            f"{' and '.join(names)} write the same files: the last one installed wins",
            step,
        )


def runtime_check(machine: Machine, cuda: str | None) -> Check:
    """What there is to say of the one installed ONNX Runtime. ``cuda``: what an inference on the GPU failed
    with; "" if it ran, None if it was not tried (the installed ONNX Runtime has no CUDA provider).
    """
    name = machine.distributions["onnxruntime"][0]
    found = f"{name} {machine.runtimes['onnxruntime']}"
    if machine.jetson is not None and "CUDAExecutionProvider" not in machine.providers:
        step = "install NVIDIA's onnxruntime-gpu for this JetPack in its place, if CUDA is wanted beside TensorRT"
        return Check("runtime", "missing", f"{found} of the package index has no CUDA on a Jetson", step)
    if cuda == "":
        return Check("runtime", "ok", f"{found}: a reference model ran on the GPU")
    if "gpu" in name or cuda is not None:
        if machine.gpu is None:
            step = f"pip uninstall -y {name}, then pip install 'edgectl[cpu]'; or mend the driver, if there is a GPU"
            return Check(
                "runtime", "broken", f"{found} is for an NVIDIA GPU, and nvidia-smi finds none", step
            )
        why = cuda or "it has no CUDA provider"
        return Check(
            "runtime",
            "broken",
            f"{found} cannot use {machine.gpu}: {why}",
            "install the CUDA and cuDNN that it asks for",
        )
    if machine.gpu is not None:
        step = f"pip uninstall -y {name}, then pip install 'edgectl[gpu]'"
        return Check("runtime", "missing", f"{found} leaves {machine.gpu} unused", step)
    return Check("runtime", "ok", found)


def _inference(provider: Literal["cpu", "cuda"]) -> str:
    """Run a reference model once; what it failed with, "" if it ran."""
    import numpy as np

    from edgectl.core.bundle import SessionSettings
    from edgectl.core.errors import EdgectlError
    from edgectl.engines.finalise.open import open_model
    from edgectl.models import references

    try:
        engine = open_model(references()[0].model.read_bytes(), SessionSettings(provider=provider))
        spec = engine.inputs[0]
        engine.run({spec.name: np.zeros(spec.shape, dtype=spec.dtype)})
        engine.close()
    except EdgectlError as e:
        return e.message
    return ""


def _video(_: Path) -> Iterator[Check]:
    import av

    wanted = ("h264", "hevc", "mjpeg")
    lacking = [c for c in wanted if c not in av.codecs_available]
    if lacking:
        yield Check(
            "video decoders", "broken", f"FFmpeg lacks {', '.join(lacking)}", "install the av wheel from PyPI"
        )
    else:
        yield Check("video decoders", "ok", f"{', '.join(wanted)} (PyAV {av.__version__})")


def _optional(_: Path) -> Iterator[Check]:
    import importlib.util
    from importlib.metadata import PackageNotFoundError, version

    for module, package, extra, use in (
        ("onnx", "onnx", "builder", "edgectl build"),
        ("openvino", "openvino", "openvino", "a second CPU runtime"),
        ("tensorrt", "tensorrt", "tensorrt", "TensorRT engines"),
        (
            "tensorrt_rtx",
            "tensorrt-rtx-cu12",
            "rtx",
            "TensorRT-RTX engines, and NVIDIA's compiler in edgectl build",
        ),
        ("sqlalchemy", "SQLAlchemy", "fleet", "edgectl controller"),
        ("amqtt", "amqtt", "broker", "edgectl broker run"),
    ):
        if module == "tensorrt_rtx" and platform.machine() != "x86_64":
            continue  # there is none
        if importlib.util.find_spec(module) is None:
            step = f"pip install 'edgectl[{extra}]'"
            if module == "tensorrt" and Path("/etc/nv_tegra_release").exists():
                step = "JetPack has it: apt-get install python3-libnvinfer, and a venv made with --system-site-packages"
            yield Check(module, "missing", f"needed for {use}", step)
            continue
        try:
            yield Check(module, "ok", version(package))
        except PackageNotFoundError:
            yield Check(module, "ok", "installed")


def _programs(_: Path) -> Iterator[Check]:
    for program, use, package in (
        ("mosquitto", "a production broker for one site", "mosquitto"),
        ("arecord", "mic:// sources", "alsa-utils"),
    ):
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        yield Check(
            program,
            "ok" if path else "missing",
            path or f"needed for {use}",
            "" if path else f"apt-get install {package}",
        )


def _disk(state_dir: Path) -> Iterator[Check]:
    folder = state_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free_mb = shutil.disk_usage(folder).free >> 20
    enough, writable = free_mb >= 512, os.access(folder, os.W_OK)
    if not writable:
        yield Check(
            "disk", "broken", f"{folder} cannot be written", "choose another --state or fix its permissions"
        )
    else:
        yield Check(
            "disk",
            "ok" if enough else "broken",
            f"{free_mb:,} MB free at {folder}",
            "" if enough else "free at least 512 MB",
        )


def _memory(_: Path) -> Iterator[Check]:
    """Every bound on what engines may take: of the machine, and of each control group with a limit."""
    from edgectl.device_profiles.admission import RESERVE_MB
    from edgectl.device_profiles.memory import host_bounds

    for bound in host_bounds():
        enough = bound.free >> 20 > RESERVE_MB
        yield Check(
            "memory",
            "ok" if enough else "broken",
            f"{bound.free >> 20:,} of {bound.total >> 20:,} MiB free ({bound.where})",
            "" if enough else f"engines keep {RESERVE_MB} MiB free: stop what else runs, or raise the limit",
        )


def _devices(_: Path) -> Iterator[Check]:
    cameras = sorted(Path("/dev").glob("video*"))
    usable = [str(c) for c in cameras if os.access(c, os.R_OK | os.W_OK)]
    if cameras and not usable:
        yield Check(
            "cameras",
            "broken",
            f"{len(cameras)} found, none may be opened",
            "add this user to the group 'video'",
        )
    else:
        yield Check(
            "cameras",
            "ok" if usable else "missing",
            ", ".join(usable) or "no /dev/video*; rtsp:// and files need none",
        )


def _machine(_: Path) -> Iterator[Check]:
    from edgectl.core.errors import ProfileError
    from edgectl.device_profiles.machine import best_profile, probe

    try:
        machine = probe()
        yield Check("machine", "ok", f"{machine.summary}; profile {best_profile(machine).name}")
    except ProfileError as e:
        yield Check("machine", "broken", e.message, e.hint or "")


def _sensors(_: Path) -> Iterator[Check]:
    """What the governor can go by."""
    from edgectl.pipelines.stream.machine import machine_state

    state = machine_state()
    told = [
        f"{state.temperature_c:.0f} °C" if state.temperature_c is not None else "",
        f"{state.memory_mb:,.0f} MiB available" if state.memory_mb is not None else "",
        "on battery" if state.on_battery else "",
        f"power mode {state.power_mode}" if state.power_mode is not None else "",
    ]
    missing = f"not told here: {', '.join(state.untold)}" if state.untold else ""
    yield Check("sensors", "ok", "; ".join(t for t in (*told, missing) if t))


_PARTS: tuple[Callable[[Path], Iterator[Check]], ...] = (
    _python,
    _machine,
    _engine,
    _video,
    _optional,
    _programs,
    _disk,
    _memory,
    _devices,
    _sensors,
)
