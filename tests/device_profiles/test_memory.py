"""What is free of memory: read from /proc and from control groups of both versions, in folders made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.memory import MIB
from edgectl.device_profiles import memory as module
from edgectl.device_profiles.admission import MemoryBound
from edgectl.device_profiles.memory import gpu_bound, host_bounds, memory_room

MEMINFO = "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    3000000 kB\n"
MACHINE = MemoryBound(3000000 * 1024, 8000000 * 1024, "this machine")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(name: str, limit: object, used: int, **more: object) -> dict[str, str]:
    """Of version 2, in MiB."""
    at = f"sys/fs/cgroup/{name}".rstrip("/")
    limit = f"{limit * MIB}\n" if isinstance(limit, int) else f"{limit}\n"
    files = {f"{at}/memory.max": limit, f"{at}/memory.current": f"{used * MIB}\n"}
    return files | {f"{at}/{k.replace('_', '.', 1)}": str(v) for k, v in more.items()}


def test_a_machine_without_groups_or_limits_is_bounded_by_what_is_available(tmp_path: Path) -> None:
    assert host_bounds(tmp_path) == ()
    write(tmp_path, {"proc/meminfo": MEMINFO})
    assert host_bounds(tmp_path) == (MACHINE,)
    write(tmp_path, {"proc/self/cgroup": "0::/a/b\n", **group("a", "max", 10), **group("a/b", "max", 10)})
    assert host_bounds(tmp_path) == (MACHINE,), "max is no limit"


def test_every_group_from_the_own_one_up_is_a_bound(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/edgectl.slice/agent.service\n",
            **group("edgectl.slice/agent.service", 512, 200, memory_high=f"{400 * MIB}\n"),
            **group("edgectl.slice", 1024, 900),
            **group("other.slice", 1, 1),
        },
    )
    assert host_bounds(tmp_path) == (
        MACHINE,
        MemoryBound(200 * MIB, 400 * MIB, "the cgroup /edgectl.slice/agent.service"),
        MemoryBound(124 * MIB, 1024 * MIB, "the cgroup /edgectl.slice"),
    )


def test_cached_files_that_nobody_has_mapped_count_as_free(tmp_path: Path) -> None:
    stat = f"anon {100 * MIB}\nfile {90 * MIB}\nfile_mapped {20 * MIB}\ninactive_file {50 * MIB}\nactive_file {40 * MIB}\nslab_reclaimable {5 * MIB}\n"
    write(tmp_path, {"proc/self/cgroup": "0::/a\n", **group("a", 300, 250, memory_stat=stat)})
    assert host_bounds(tmp_path) == (MemoryBound((300 - 250 + 70 + 5) * MIB, 300 * MIB, "the cgroup /a"),)


@pytest.mark.parametrize(("mapped", "free"), [(80, 70), (110, 40), (20, 70)])
def test_shared_memory_that_is_mapped_is_no_mapped_file(tmp_path: Path, mapped: int, free: int) -> None:
    stat = f"file {150 * MIB}\nshmem {80 * MIB}\nfile_mapped {mapped * MIB}\nactive_file {30 * MIB}\ninactive_file {40 * MIB}\n"
    write(tmp_path, {"proc/self/cgroup": "0::/a\n", **group("a", 200, 190, memory_stat=stat)})
    assert host_bounds(tmp_path)[0].free == (200 - 190 + free) * MIB


def test_over_its_limit_a_group_has_nothing_free(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/a\n", **group("a", 300, 320)})
    assert host_bounds(tmp_path)[0].free == 0


@pytest.mark.parametrize("path", ["/", "/../../host/docker-1"])
def test_in_a_container_the_mount_is_the_containers_group(tmp_path: Path, path: str) -> None:
    write(tmp_path, {"proc/self/cgroup": f"0::{path}\n", **group("", 256, 100)})
    write(tmp_path, group("../../host/docker-1", 7, 7))
    assert host_bounds(tmp_path) == (MemoryBound(156 * MIB, 256 * MIB, "the cgroup /"),)


def test_version_1_beside_version_2(tmp_path: Path) -> None:
    v1 = "sys/fs/cgroup/memory"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "9:name=systemd:/x\n4:cpu,memory:/docker/7\n0::/x\n",
            f"{v1}/docker/7/memory.limit_in_bytes": f"{300 * MIB}\n",
            f"{v1}/docker/7/memory.usage_in_bytes": f"{250 * MIB}\n",
            f"{v1}/docker/7/memory.stat": f"cache 1\nactive_file 7\ntotal_inactive_file {30 * MIB}\ntotal_active_file 0\ntotal_mapped_file {10 * MIB}\n",
            f"{v1}/memory.limit_in_bytes": "9223372036854771712\n",
            f"{v1}/memory.usage_in_bytes": f"{900 * MIB}\n",
        },
    )
    assert host_bounds(tmp_path) == (MemoryBound(70 * MIB, 300 * MIB, "the cgroup /docker/7"),)


def test_what_cannot_be_read_is_no_bound(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: many kB\nMemAvailable:\n\0\n",
            "proc/self/cgroup": "nonsense\n::\n0::relative\n0::/a\n",
            **group("a", 300, 100, memory_stat="inactive_file x\n\n"),
        },
    )
    (tmp_path / "sys/fs/cgroup/a/memory.current").write_text("\xff\n")
    assert host_bounds(tmp_path) == ()


def test_this_machine_tells() -> None:
    room = memory_room()
    assert room.host[0].where == "this machine"
    assert 0 < room.host[0].free <= room.host[0].total


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("print('71, 80995')", MemoryBound(71 * MIB, 80995 * MIB, "the GPU")),
        ("print('[N/A], [N/A]')", None),
        ("raise SystemExit(9)", None),
        ("", None),
    ],
)
def test_the_gpus_memory_is_what_its_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, found: MemoryBound | None
) -> None:
    import sys

    (tmp_path / "nvidia-smi").write_text(f"#!{sys.executable}\n{says}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_bound() == found
    asked = []
    monkeypatch.setattr(module, "gpu_bound", lambda: asked.append(1) or found)
    assert memory_room(gpu=True).gpu == found
    assert memory_room(gpu=True, unified=True).gpu is memory_room().gpu is None
    assert asked == [1], "the driver is not asked in vain"
