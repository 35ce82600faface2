from pathlib import Path

import pytest

from edgectl.core.errors import UsageError
from edgectl.device_profiles import machine as module
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import Machine, best_profile, host_family, missing_facts, probe


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


def test_an_emulated_machine_has_no_instructions_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor : 0\nmodel name : AMD EPYC\nflags : fpu avx2 avx512_vnni\n"
    )
    emulated = probe(tmp_path)
    assert (emulated.arch, emulated.isa) == ("aarch64", ())


def test_no_runtime_is_a_sentence_with_the_extra() -> None:
    with pytest.raises(UsageError, match="no inference runtime") as e:
        machine(runtimes={}).require_runtime()
    assert "edgectl[cpu]" in (e.value.hint or "")
    machine().require_runtime()
