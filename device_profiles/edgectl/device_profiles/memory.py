"""How much memory this process and its children may still take: of the machine, of each control group around it, and of
the GPU. What is read here is judged in :mod:`edgectl.device_profiles.admission`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgectl.device_profiles.admission import MemoryBound, MemoryRoom

__all__ = ["gpu_bound", "host_bounds", "memory_room"]

_KIB, _MIB = 1 << 10, 1 << 20
_MAX_BYTES = 1 << 16
_NO_LIMIT = 1 << 60
"""The kernel's own word for "no limit" in version 1 is the largest multiple of a page."""


@dataclass(frozen=True)
class _Files:
    """What a version of control groups calls its files, and the lines of ``memory.stat``."""

    limits: tuple[str, ...]
    usage: str
    prefix: str


_V2 = _Files(("memory.max", "memory.high"), "memory.current", "")
_V1 = _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")


def memory_room(root: Path = Path("/"), *, gpu: bool = False, unified: bool = False) -> MemoryRoom:
    """What this process and those that it starts may still take. ``gpu``: ask the driver, too (a process of its own, tens of
    milliseconds). ``unified``: the GPU's memory is the machine's. Swap does not count: an engine that is swapped out is
    of no use."""
    return MemoryRoom(host_bounds(root), gpu_bound() if gpu and not unified else None, unified)


def host_bounds(root: Path = Path("/")) -> tuple[MemoryBound, ...]:
    """The machine's, and that of every control group with a limit from the own one up. ``root`` is where ``proc`` and
    ``sys`` are read. Empty where nothing can be read."""
    info = _numbers(root / "proc/meminfo")
    bounds = []
    if "MemAvailable:" in info and "MemTotal:" in info:
        bounds.append(MemoryBound(info["MemAvailable:"] * _KIB, info["MemTotal:"] * _KIB, "this machine"))
    return (*bounds, *_group_bounds(root))


def gpu_bound() -> MemoryBound | None:
    """Of the first NVIDIA GPU, by its driver; None where there is none, or it has no memory of its own."""
    command = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        free, total = (int(n) * _MIB for n in out.splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return MemoryBound(free, total, "the GPU")


def _group_bounds(root: Path) -> Iterator[MemoryBound]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            # beside version 1 it lies below, without the memory controller
            mounts, files = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], _V2
        elif "memory" in controllers.split(","):
            mounts, files = ["sys/fs/cgroup/memory"], _V1
        else:
            continue
        for mount in mounts:
            yield from _upwards(root / mount, PurePosixPath(path), files)


def _upwards(mount: Path, path: PurePosixPath, files: _Files) -> Iterator[MemoryBound]:
    """From the own group to the topmost that can be seen. In a container the mount itself is the container's group, and
    ``path`` may be one of the host that does not exist here."""
    if not path.is_absolute() or ".." in path.parts:
        path = PurePosixPath("/")
    for group in (path, *path.parents):
        folder = mount / group.relative_to("/")
        limits = [n for name in files.limits if (n := _number(folder / name)) is not None and n < _NO_LIMIT]
        usage = _number(folder / files.usage)
        if limits and usage is not None:
            used = max(0, usage - _reclaimable(_numbers(folder / "memory.stat"), files.prefix))
            yield MemoryBound(max(0, min(limits) - used), min(limits), f"the cgroup {group}")


def _reclaimable(stat: dict[str, int], prefix: str) -> int:
    """Of a group's memory what the kernel takes back before it kills, as MemAvailable counts it for the machine: cached
    files that nobody has mapped, and caches of its own."""

    def of(name: str) -> int:
        return stat.get(prefix + name, 0)

    # what several share in memory lies on neither list of files
    mapped = max(0, (of("file_mapped") or of("mapped_file")) - of("shmem"))
    return max(0, of("active_file") + of("inactive_file") - mapped) + of("slab_reclaimable")


def _numbers(path: Path) -> dict[str, int]:
    """First word of each line → the number behind it."""
    found = {}
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdecimal():
            found[words[0]] = int(words[1])
    return found


def _number(path: Path) -> int | None:
    """None for ``max``, and for what is not there."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as f:
            return f.read(_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
