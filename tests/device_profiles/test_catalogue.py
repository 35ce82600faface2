from pathlib import Path

import pytest

from edgectl.core.errors import ProfileError
from edgectl.device_profiles.catalogue import load_profile, profile_names


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_valid(name: str) -> None:
    assert load_profile(name).name == name


def test_the_orin_family_inherits_and_overrides() -> None:
    base, nano, agx = (
        load_profile("jetson-orin"),
        load_profile("jetson-orin-nano"),
        load_profile("jetson-agx-orin"),
    )
    assert nano.gpu == base.gpu
    assert nano.tensorrt is not None
    assert base.tensorrt is not None
    assert (nano.tensorrt.min, nano.tensorrt.max) == (base.tensorrt.min, "10.99")
    assert agx.gpu is not None
    assert agx.gpu.dla_cores == 2
    assert agx.cpu.isa == base.cpu.isa
    assert nano.models != base.models


def test_an_unknown_profile_names_the_nearest_ones() -> None:
    with pytest.raises(ProfileError) as e:
        load_profile("jetson-orni")
    assert "jetson-orin" in (e.value.hint or "")


def test_a_file_of_the_users_own_may_inherit(tmp_path: Path) -> None:
    own = tmp_path / "gate-box.toml"
    own.write_text('inherits = "cpu-x86-avx2"\ndescription = "the box at the gate"\n[cpu]\nmax_threads = 1\n')
    profile = load_profile(str(own))
    assert (profile.name, profile.cpu.max_threads, profile.cpu.family) == ("gate-box", 1, "x86-avx2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inherits = 3", "must be the name"),
        ("description = [", "not TOML"),
        (f"description = {'9' * 5000}", "not TOML"),
        ('inherits = "cpu"\ndescription = "x"\nspeed = 3', "speed"),
        ('inherits = "cpu"\ndescription = "x"\nruntimes = ["tensorrt", "onnxruntime"]', "[gpu]"),
        ('inherits = "cpu"\ndescription = "x"\nruntimes = ["openvino"]', "fallback"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(ProfileError) as e:
        load_profile(str(own))
    assert says in e.value.message


def test_a_circle_of_files_is_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a.toml", tmp_path / "b.toml"
    a.write_text(f'inherits = "{b}"')
    b.write_text(f'inherits = "{a}"')
    with pytest.raises(ProfileError, match="circle"):
        load_profile(str(a))
