import struct
from pathlib import Path

import pytest

from edgectl.core.bundle import requirement_met
from edgectl.core.errors import UsageError
from edgectl.device_profiles import machine as module
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import (
    Machine,
    best_profile,
    host_family,
    lower_float_requirement,
    missing_facts,
    probe,
)


def machine(**changes: object) -> Machine:
    values = {
        "arch": "x86_64",
        "cpu": "x",
        "isa": (),
        "cores": 2,
        "memory_mb": 2048,
        "runtimes": {"onnxruntime": "1.20"},
    }
    return Machine.model_validate(values | changes)


def test_this_machine_fits_the_cpu_profile() -> None:
    here = probe()
    assert missing_facts(load_profile("cpu"), here) == []
    assert f"arch:{here.arch}" in here.facts
    assert "onnxruntime" in here.runtimes


def test_an_orin_is_known_by_its_device_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tree / "model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tree / "compatible").write_bytes(b"nvidia,p3768\0nvidia,tegra234\0")
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nFeatures : fp asimd aes asimddp\n")
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.0, GCID: 1\n")
    orin = probe(tmp_path)
    assert (orin.sm, orin.l4t, orin.isa) == ("8.7", "36.4.0", ("dotprod", "neon"))
    assert {"sm:8.7", "isa:dotprod", "board:jetson"} <= orin.facts
    assert best_profile(orin).name == "jetson-orin-nano"


@pytest.mark.parametrize(
    ("changes", "family", "profile"),
    [
        ({"isa": ("avx2", "avx512_vnni")}, "x86-vnni", "cpu-x86-vnni"),
        ({"isa": ("avx2",)}, "x86-avx2", "cpu-x86-avx2"),
        ({"isa": ()}, None, "cpu"),
        ({"arch": "aarch64", "isa": ("dotprod", "neon")}, "arm64", "cpu-arm64"),
        ({"arch": "aarch64", "isa": ("neon",)}, None, "cpu"),
        ({"isa": ("avx2",), "sm": "8.9", "gpu": "L4"}, "x86-avx2", "desktop-gpu"),
        (
            {"arch": "aarch64", "isa": ("dotprod",), "sm": "11.0", "jetson": "NVIDIA Jetson AGX Thor"},
            "arm64",
            "jetson-thor",
        ),
    ],
)
def test_the_most_specific_profile_that_fits_is_taken(
    changes: dict[str, object], family: str | None, profile: str
) -> None:
    m = machine(**changes)
    assert host_family(m) == family
    assert best_profile(m).name == profile


def test_a_gpu_without_a_working_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert module._nvidia_smi() == (None, None, None)


AMD_CPUINFO = (
    "processor : 0\nvendor_id : AuthenticAMD\nmodel name : AMD EPYC\nflags : fpu avx2 avx512_vnni bf16\n"
)
"""What an emulated aarch64 process reads on an x86 host."""


def auxiliary_vector(*entries: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("=QQ", *entry) for entry in (*entries, (0, 0)))


def test_an_emulated_machine_has_neither_name_nor_instructions_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(AMD_CPUINFO)
    emulated = probe(tmp_path)
    assert (emulated.arch, emulated.cpu, emulated.isa) == ("aarch64", "unknown aarch64 CPU", ())


def test_an_emulated_machine_has_the_instructions_that_the_kernel_tells_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text(AMD_CPUINFO)
    asimd, asimddp, i8mm = 1 << 1, 1 << 20, 1 << 13
    vector = auxiliary_vector((6, 4096), (16, asimd | asimddp), (26, i8mm))
    (tmp_path / "proc/self/auxv").write_bytes(vector)
    emulated = probe(tmp_path)
    assert emulated.isa == ("dotprod", "i8mm", "neon")
    assert (host_family(emulated), best_profile(emulated).name) == ("arm64", "cpu-arm64")


@pytest.mark.parametrize(
    ("arch", "cpuinfo", "precision"),
    [
        ("x86_64", "flags : fpu avx2 avx512_bf16", "bfloat16"),
        ("x86_64", "flags : fpu avx2 amx_bf16", "bfloat16"),
        ("x86_64", "flags : fpu avx2 avx512_fp16", "float16"),
        ("aarch64", "Features : fp asimd asimdhp", "float16"),
        ("x86_64", "flags : fpu avx2 avx512_vnni bf16", None),
        ("aarch64", "Features : fp asimd asimddp bf16", None),
    ],
)
def test_a_float_below_float32_asks_for_the_instructions_of_its_architecture(
    arch: str, cpuinfo: str, precision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: arch)
    monkeypatch.setattr(module, "_providers", tuple)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo + "\n")
    facts = probe(tmp_path).facts
    met = [
        p
        for p in ("bfloat16", "float16")
        if (needs := lower_float_requirement(arch, p)) is not None and requirement_met(needs, facts)
    ]
    assert met == ([] if precision is None else [precision])


def test_the_auxiliary_vector_of_x86_is_not_read_as_that_of_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text(AMD_CPUINFO)
    (tmp_path / "proc/self/auxv").write_bytes(auxiliary_vector((16, (1 << 64) - 1), (26, (1 << 64) - 1)))
    found = probe(tmp_path)
    assert (found.cpu, found.isa) == ("AMD EPYC", ("avx2", "avx512_vnni"))


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("model name : ARMv8 Processor rev 1 (v8l)\nFeatures : asimd\n", "ARMv8 Processor rev 1 (v8l)"),
        ("CPU implementer : 0x41\nFeatures : asimd\nCPU part : 0xd42\n", "aarch64 CPU 0x41:0xd42"),
    ],
)
def test_an_arm_cpu_is_named_by_its_own_cpuinfo(
    cpuinfo: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\n{cpuinfo}")
    assert probe(tmp_path).cpu == name


def test_no_runtime_is_a_sentence_with_the_extra() -> None:
    with pytest.raises(UsageError, match="no inference runtime") as e:
        machine(runtimes={}).require_runtime()
    assert "edgectl[cpu]" in (e.value.hint or "")
    machine().require_runtime()
