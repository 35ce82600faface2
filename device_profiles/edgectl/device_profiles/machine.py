"""What this machine really is: CPU and its instruction sets, memory, runtimes, Jetson module, NVIDIA GPU.

Read from ``/proc``, ``/etc/nv_tegra_release``, the device tree and ``nvidia-smi``. Nothing is guessed: what
cannot be read is absent from ``facts``. Native runtimes are looked up, not imported (importing TensorRT costs
seconds and a context).
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Literal

import psutil

from edgectl.core.bundle import requirement_met
from edgectl.core.errors import ProfileError, UsageError
from edgectl.core.schema import Config
from edgectl.device_profiles.catalogue import load_profile, profile_names
from edgectl.device_profiles.schema import DeviceProfile

__all__ = [
    "RUNTIME_HINT",
    "Machine",
    "best_profile",
    "host_family",
    "lower_float_requirement",
    "missing_facts",
    "probe",
    "runtime_distributions",
]

# Architecture → its flag in /proc/cpuinfo → fact. Only what decides between kernels.
_ISA = {
    "x86_64": {
        "avx2": "avx2",
        "avx512f": "avx512f",
        "avx512_vnni": "avx512_vnni",
        "avx_vnni": "avx_vnni",
        "amx_int8": "amx_int8",
        "avx512_bf16": "avx512_bf16",
        "amx_bf16": "amx_bf16",
        "avx512_fp16": "avx512_fp16",
        "amx_fp16": "amx_fp16",
    },
    "aarch64": {"asimd": "neon", "asimddp": "dotprod", "asimdhp": "fp16", "i8mm": "i8mm", "bf16": "bf16"},
}
_LOWER_FLOAT = {
    ("x86_64", "bfloat16"): "isa:avx512_bf16|isa:amx_bf16",
    ("x86_64", "float16"): "isa:avx512_fp16|isa:amx_fp16",
    ("aarch64", "float16"): "isa:fp16",
}
_FLAGS = {"x86_64": "flags", "aarch64": "Features"}
_HWCAP = {16: {1: "asimd", 10: "asimdhp", 20: "asimddp"}, 26: {13: "i8mm", 14: "bf16"}}
"""AT_HWCAP and AT_HWCAP2 of an aarch64 process: bit → flag (Linux, ``uapi/asm/hwcap.h``)."""
_TEGRA_SM = {"tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
_RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
}
"""Module → runtime. Several distributions bring one (``onnxruntime``, ``onnxruntime-gpu``, NVIDIA's for Jetson …)."""


RUNTIME_HINT = "pip install 'edgectl[cpu]', or 'edgectl[gpu]' on a machine with an NVIDIA GPU (one of them); a Jetson takes NVIDIA's onnxruntime-gpu"
"""The next step where no runtime is installed."""


class Machine(Config):
    """One machine as found. ``facts`` are what the ``requires`` of a variant are compared with."""

    arch: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    memory_mb: int
    runtimes: dict[str, str]
    """Runtime → version, for those that are installed."""
    distributions: dict[str, tuple[str, ...]] = {}
    """Runtime → the installed distributions that bring its module; two of them overwrite each other's
    files."""
    providers: tuple[str, ...] = ()
    """Execution providers of the installed ONNX Runtime."""
    jetson: str | None = None
    """Model from the device tree, e.g. ``NVIDIA Jetson Orin Nano Developer Kit``."""
    l4t: str | None = None
    gpu: str | None = None
    sm: str | None = None
    driver: str | None = None

    @property
    def facts(self) -> frozenset[str]:
        facts = {
            f"arch:{self.arch}",
            *(f"isa:{i}" for i in self.isa),
            *(f"runtime:{r}" for r in self.runtimes),
        }
        if self.sm:
            facts.add(f"sm:{self.sm}")
        if self.jetson:
            facts.add("board:jetson")
        if "CUDAExecutionProvider" in self.providers:
            facts.add("provider:CUDA")
        if "tensorrt" in self.runtimes:
            facts.add(f"trt:{self.runtimes['tensorrt'].split('.')[0]}")
        return frozenset(facts)

    def require_runtime(self) -> None:
        """Raises :class:`UsageError` where no inference runtime is installed: what runs anywhere needs
        ONNX Runtime."""
        if "onnxruntime" not in self.runtimes:
            raise UsageError(
                "no inference runtime is installed here, so no engine can run", hint=RUNTIME_HINT
            )

    @property
    def summary(self) -> str:
        """One line for measurement records: never a host name."""
        return f"{self.jetson or self.cpu}, {self.arch}, {self.cores} cores" + (
            f", {self.gpu}" if self.gpu else ""
        )


def probe(root: Path = Path("/")) -> Machine:
    """Look at this machine. ``root`` is where ``proc`` and ``etc`` are read (tests point it elsewhere)."""
    cpuinfo = _text(root / "proc/cpuinfo")
    arch = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    flags = _flags(arch, cpuinfo, _bytes(root / "proc/self/auxv"))
    model = _text(root / "proc/device-tree/model").rstrip("\0\n")
    compatible = _text(root / "proc/device-tree/compatible")
    tegra = next((sm for chip, sm in _TEGRA_SM.items() if chip in compatible), None)
    gpu, sm, driver = _nvidia_smi() if tegra is None else ("Tegra", tegra, None)
    release = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", _text(root / "etc/nv_tegra_release"))
    distributions = runtime_distributions()
    runtimes = {runtime: importlib.metadata.version(names[0]) for runtime, names in distributions.items()}
    return Machine(
        arch=arch,
        cpu=_cpu_name(arch, cpuinfo) or model or f"unknown {arch} CPU",
        isa=tuple(sorted(fact for flag, fact in _ISA.get(arch, {}).items() if flag in flags)),
        cores=len(psutil.Process().cpu_affinity() or [])
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count() or 1,
        memory_mb=psutil.virtual_memory().total >> 20,
        runtimes=runtimes,
        distributions=distributions,
        providers=_providers() if "onnxruntime" in runtimes else (),
        jetson=model if "Jetson" in model or tegra else None,
        l4t=f"{release[1]}.{release[2]}" if release else None,
        gpu=gpu,
        sm=sm,
        driver=driver,
    )


def host_family(machine: Machine) -> Literal["x86-vnni", "x86-avx2", "arm64"] | None:
    """The CPU kernel family of a machine; None where int8 kernels gain nothing (no dot products, no AVX2)."""
    isa = set(machine.isa)
    if machine.arch == "x86_64":
        if isa & {"avx512_vnni", "avx_vnni"}:
            return "x86-vnni"
        return "x86-avx2" if "avx2" in isa else None
    return "arm64" if machine.arch == "aarch64" and "dotprod" in isa else None


def lower_float_requirement(arch: str, precision: Literal["bfloat16", "float16"]) -> str | None:
    """What a CPU must have so that OpenVINO computes in this precision itself; None where no CPU of this
    architecture does."""
    return _LOWER_FLOAT.get((arch, precision))


def missing_facts(profile: DeviceProfile, machine: Machine) -> list[str]:
    """What a machine lacks to be what a profile says; empty if the profile fits."""
    needs = [profile.arch_requirement]
    # with a GPU the CPU is the fallback
    needs += [profile.sm_requirement] if profile.gpu is not None else profile.cpu.isa
    return [n for n in needs if not requirement_met(n, machine.facts)]


def best_profile(machine: Machine) -> DeviceProfile:
    """The most specific shipped profile that this machine fits. ``cpu`` fits every 64-bit machine.

    Order: named in the device tree (longest name first), then GPU, then instruction set. Raises
    :class:`ProfileError`.
    """
    fitting = [p for p in map(load_profile, profile_names()) if not missing_facts(p, machine)]
    if not fitting:
        raise ProfileError(
            f"no profile fits this machine ({machine.summary})", hint="write one: docs/profiles"
        )

    def specificity(p: DeviceProfile) -> tuple[int, int, int, int]:
        named = max((len(m) for m in p.models if m in (machine.jetson or "")), default=0)
        return named, p.gpu is not None, len(p.cpu.isa), p.cpu.family == host_family(machine)

    return max(fitting, key=specificity)


def runtime_distributions() -> dict[str, tuple[str, ...]]:
    """Runtime → distributions, the one whose name is the module's first. A module that no distribution
    brings is not installed."""
    found: dict[str, set[str]] = {
        _RUNTIMES[module]: set(names)
        for module, names in importlib.metadata.packages_distributions().items()
        if module in _RUNTIMES
    }
    for runtime, name in (*((r, r) for r in _RUNTIMES.values()), ("onnxruntime", "onnxruntime-gpu")):
        # JetPack's does not list its files, nor does Python 3.10 look there
        for distribution in importlib.metadata.distributions(name=name):
            found.setdefault(runtime, set()).add(distribution.metadata["Name"])
    return {
        r: tuple(sorted(found[r], key=lambda name: (name != r, name)))
        for r in _RUNTIMES.values()
        if r in found
    }


def _providers() -> tuple[str, ...]:
    """What ONNX Runtime can use here, asked in a child: whoever probes need not carry the runtime from
    then on."""
    code = "import json, onnxruntime; print(json.dumps(onnxruntime.get_available_providers()))"
    try:
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        return tuple(json.loads(out.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as e:
        raise ProfileError(
            f"ONNX Runtime is installed and cannot be imported: {e}",
            hint="`edgectl doctor` looks at how it is installed",
        ) from e


def _nvidia_smi() -> tuple[str | None, str | None, str | None]:
    """Name, compute capability and driver of the first GPU; Nones where there is no working driver."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None, None
    fields = [f.strip() for f in out.splitlines()[0].split(",")] if out.strip() else []
    return (fields[0], fields[1], fields[2]) if len(fields) == 3 else (None, None, None)


def _flags(arch: str, cpuinfo: str, auxv: bytes) -> set[str]:
    """What the CPU can do, in the words of /proc/cpuinfo.

    Emulated (qemu-user), a process may read the /proc/cpuinfo of its host, which is of another architecture.
    What its auxiliary vector says is its own.
    """
    flags = set(_field(cpuinfo, _FLAGS[arch]).split()) if arch in _FLAGS else set()
    if arch == "aarch64":
        for kind, value in struct.iter_unpack("=QQ", auxv[: len(auxv) // 16 * 16]):
            flags |= {flag for bit, flag in _HWCAP.get(kind, {}).items() if value >> bit & 1}
    return flags


def _cpu_name(arch: str, cpuinfo: str) -> str:
    """By /proc/cpuinfo; "" where that says no name, or is of another architecture."""
    if arch in _FLAGS and not _field(cpuinfo, _FLAGS[arch]):
        return ""
    if name := _field(cpuinfo, "model name"):
        return name
    maker, part = _field(cpuinfo, "CPU implementer"), _field(cpuinfo, "CPU part")
    return f"{arch} CPU {maker}:{part}" if maker and part else ""


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()[: 1 << 20]
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")


def _field(cpuinfo: str, names: str) -> str:
    match = re.search(rf"^(?:{names})\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""
