"""One order of variants for a profile, from devices that may differ."""

from __future__ import annotations

import pytest
from support.builder.devices import FakeDevice, FakeElsewhere, machine_of
from support.builder.fakes import Behaviour, FakeMachine
from tests.builder.search.test_elsewhere import Zoo, chosen

from edgectl.builder.request import check_devices
from edgectl.builder.variants.on_devices import GroupChoice, groups_of, one_choice
from edgectl.builder.variants.smaller_input import SmallerInput
from edgectl.core.errors import UsageError
from edgectl.device_profiles.catalogue import load_profile


def group(name: str, zoo: Zoo) -> GroupChoice:
    fake = FakeMachine(zoo)
    device = FakeDevice(fake, name=name)
    return GroupChoice(device, (name,), chosen(zoo, FakeElsewhere(device), fake))


def zoo(full: float, no_head: float) -> Zoo:
    return {
        ("float", "onnxruntime"): Behaviour(10.0),
        ("full", "onnxruntime"): Behaviour(full),
        ("no-head", "onnxruntime"): Behaviour(no_head),
    }


def test_devices_of_equal_hardware_are_one_group_whatever_the_kernel_keeps_of_their_memory() -> None:
    fake = FakeMachine({})
    devices = [
        FakeDevice(fake, name=n, machine=m)
        for n, m in (
            ("a", machine_of(memory_mb=3951)),
            ("b", machine_of("another board")),
            ("c", machine_of(memory_mb=3964)),
            ("d", machine_of(runtimes={"onnxruntime": "2.0"})),
        )
    ]
    assert [[d.name for d in g] for g in groups_of(devices)] == [["a", "c"], ["b"], ["d"]]


def test_groups_that_agree_have_nothing_to_say() -> None:
    found, said = one_choice([group("a", zoo(4.0, 6.0)), group("b", zoo(3.0, 8.0))])
    assert found.device.name == "a"
    assert said == ()


def test_what_is_faster_than_float_everywhere_goes_first_and_the_others_are_told() -> None:
    one, two = group("a", zoo(2.0, 4.0)), group("b", zoo(12.0, 4.0))
    names = [g.choice.winner.candidate.name for g in (one, two)]
    assert names[0].startswith("full/")
    assert names[1].startswith("no-head/")
    found, said = one_choice([one, two])
    first = found.choice.winner.candidate
    assert said[0] == f"a alone would have {names[0]} first"
    assert said[1] == f"b alone would have {names[1]} first"
    if first.is_float:  # no-head was not measured to the end where full is twice as fast
        assert "float goes first" in said[2]
    else:
        assert first.name == names[1]


def test_where_nothing_is_faster_everywhere_float_goes_first_and_every_preference_stays() -> None:
    fast, slow = group("a", zoo(4.0, 11.0)), group("b", zoo(14.0, 14.0))
    assert slow.choice.winner.candidate.is_float
    found, said = one_choice([fast, slow])
    assert found.choice.winner.candidate.is_float
    assert found.choice.picks[0].preferences[0] == "fast"
    assert said[-1] == "nothing is faster than float on all of them: float goes first"
    assert {x for p in found.choice.picks for x in p.preferences} == {"fast", "accurate", "low-power"}
    assert all(p.preferences for p in found.choice.picks)


def test_device_of_no_profile_and_what_only_this_machine_measures_are_refused_before_the_build() -> None:
    profiles = [load_profile("cpu")]
    device = FakeDevice(FakeMachine({}), profile="jetson-orin")
    with pytest.raises(
        UsageError, match="device bench-1 is of profile jetson-orin, which is not built for: cpu"
    ):
        check_devices([device], profiles, (1,), None)
    cpu = FakeDevice(FakeMachine({}))
    check_devices([cpu], profiles, (1,), None)
    for batches, smaller in (((1, 4), None), ((1,), SmallerInput(0.5, 0.1))):
        with pytest.raises(UsageError, match="measured on this machine only"):
            check_devices([cpu], profiles, batches, smaller)
        check_devices([], profiles, batches, smaller)
