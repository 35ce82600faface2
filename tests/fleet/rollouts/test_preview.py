"""What a rollout would do, over a real bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.bundle import make_bundle
from support.simulated_fleet import OLD, SPEC, SimulatedFleet

from edgectl.core.bundle import Bundle, Variant
from edgectl.core.bundle.config_release import ConfigBundle, ConfigRelease
from edgectl.core.states import State
from edgectl.core.transfer.limits import Rates
from edgectl.core.wire import ReportedSlot
from edgectl.fleet.client.config_writer import write_config
from edgectl.fleet.rollouts.declared import declared_loss
from edgectl.fleet.rollouts.preview import preview
from edgectl.fleet.rollouts.values import MaxUnavailable, Ramp, Wave

FACTS = frozenset({"arch:x86_64", "runtime:onnxruntime"})


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    return list(Bundle(make_bundle(tmp_path / "b", size=300_000, requires=("arch:x86_64",))).variants)


def fleet(n: int, **view: object) -> SimulatedFleet:
    sim = SimulatedFleet(n)
    for name in sim.views:
        sim.views[name] = replace(sim.views[name], profile="cpu", facts=FACTS, **view)  # type: ignore[arg-type]
    return sim


def size(variants: list[Variant]) -> int:
    return sum(d.size for d in variants[0].descriptors())


def test_waves_bytes_and_least_time_add_up(variants: list[Variant]) -> None:
    sim = fleet(40)
    sim.off("d1")
    for i in range(40):
        sim.views[f"d{i}"] = replace(sim.views[f"d{i}"], labels={"site": "north" if i < 30 else "south"})
    spec = SPEC.model_copy(
        update={
            "soak_s": 600.0,
            "strata": ("label.site",),
            "waves": (Wave(share=0.25, soak_s=60.0, approval=True), Wave(share=1.0)),
            "in_flight": 10,
        }
    )
    p = preview(spec, sim.views, variants)
    assert (p.devices, p.online, p.current, p.unfit, p.absent) == (40, 39, 0, {}, ())
    assert [w.devices for w in p.waves] == [2, 8, 30]
    assert [w.approval for w in p.waves] == [False, True, False]
    assert p.waves[2].strata == {"north": 22, "south": 8} or sum(p.waves[2].strata.values()) == 30
    assert p.waves[2].at_once == 10
    assert p.upload_bytes == size(variants)
    assert p.received_bytes == 40 * size(variants) == sum(w.bytes for w in p.waves)
    assert p.peak_bytes == 10 * size(variants)
    assert size(variants) <= p.peak_site_bytes <= p.peak_bytes
    assert [w.least_s for w in p.waves] == [60 + 600, 60 + 60, 3 * 60]
    assert p.least_s == 660 + 120 + 180
    assert p.warnings == ()


def test_rate_ramp_and_limits_of_the_line_make_it_longer(variants: list[Variant]) -> None:
    sim = fleet(21)
    spec = SPEC.model_copy(update={"canary": 1, "soak_s": 0.0, "per_minute": 5})
    assert [w.least_s for w in preview(spec, sim.views, variants).waves] == [60, 60 + 3 * 60]
    ramp = Ramp(start=2, factor=2, every=2)
    spec = SPEC.model_copy(update={"canary": 1, "soak_s": 0.0, "waves": (Wave(share=1.0, ramp=ramp),)})
    # 2, then 4, then 16 or more in the third minute
    assert preview(spec, sim.views, variants).waves[1].least_s == 60 + 2 * 60
    spec = SPEC.model_copy(update={"canary": 1, "soak_s": 0.0})
    slow = preview(spec, sim.views, variants, Rates(device=1000))
    assert slow.waves[0].least_s == pytest.approx(60 + size(variants) / 1000)
    by_site = preview(spec, sim.views, variants, Rates(site=1000, device=10**9))
    assert by_site.waves[1].least_s == pytest.approx(60 + 20 * size(variants) / 1000)


def test_site_limits_how_many_are_busy_at_once(variants: list[Variant]) -> None:
    sim = fleet(20)
    for i in range(20):
        sim.views[f"d{i}"] = replace(sim.views[f"d{i}"], labels={"site": f"s{i % 2}"})
    spec = SPEC.model_copy(update={"max_unavailable": MaxUnavailable(share=0.2)})
    assert preview(spec, sim.views, variants).waves[1].at_once == 4


def test_device_on_which_no_variant_runs_is_told_with_what_it_lacks(variants: list[Variant]) -> None:
    sim = fleet(3)
    sim.views["d2"] = replace(sim.views["d2"], facts=frozenset({"arch:aarch64", "runtime:tensorrt"}))
    p = preview(SPEC, sim.views, variants)
    assert p.unfit == {"d2": "cpu/float needs arch:x86_64, runtime:onnxruntime"}
    assert p.received_bytes == 2 * size(variants)
    assert any(w.startswith("1 of 3 devices cannot run it") for w in p.warnings)


def test_device_that_runs_it_already_receives_nothing(variants: list[Variant]) -> None:
    sim = fleet(2)
    slot = ReportedSlot(state=State.COMMITTED, gen=1, digest=SPEC.digest, active=SPEC.digest)
    sim.views = {n: replace(v, reported={"gate": slot}) for n, v in sim.views.items()}
    p = preview(SPEC, sim.views, variants)
    assert (p.current, p.received_bytes, p.upload_bytes) == (2, 0, 0)
    assert p.warnings[0] == "every device runs m@2 already"


def test_slot_of_the_other_type_cannot_take_the_release(variants: list[Variant]) -> None:
    sim = fleet(3)
    sim.views["d2"] = replace(sim.views["d2"], config_slots=frozenset({"gate"}))
    p = preview(SPEC, sim.views, variants)
    assert p.unfit == {"d2": "its slot gate holds a configuration"}
    assert p.received_bytes == 2 * size(variants)


def test_configuration_goes_only_to_slots_of_configurations(tmp_path: Path) -> None:
    text = b"update_s: 1\n"
    write_config(tmp_path, ConfigRelease(name="rules", version="1", kind="surveillance"), text)
    document = ConfigBundle(tmp_path).document
    sim = fleet(2, streams={"yard": "surveillance"})
    sim.views["d1"] = replace(sim.views["d1"], config_slots=frozenset({"gate"}))
    assert preview(SPEC, sim.views, document).unfit == {"d0": "its slot gate holds an engine"}


def test_named_canary_that_is_not_selected_is_told(variants: list[Variant]) -> None:
    spec = SPEC.model_copy(update={"canary_devices": ("d0", "ghost")})
    assert (
        "ghost: named as canaries, and not selected or never seen"
        in preview(spec, fleet(3).views, variants).warnings
    )


def test_policy_that_selects_nobody_says_so(variants: list[Variant]) -> None:
    sim = fleet(4)
    p = preview(SPEC.model_copy(update={"labels": {"site": "mars"}}), sim.views, variants)
    assert (p.devices, p.least_s) == (0, 0.0)
    assert p.warnings == ("no device is selected; 4 of 4 have slot gate",)
    p = preview(SPEC.model_copy(update={"slot": "voice"}), sim.views, variants)
    assert p.warnings == ("no device has slot voice",)


def test_named_device_that_was_never_there_is_told(variants: list[Variant]) -> None:
    p = preview(SPEC.model_copy(update={"devices": ("d0", "ghost")}), fleet(2).views, variants)
    assert (p.devices, p.absent) == (1, ("ghost",))


def test_nobody_of_the_canary_is_there(variants: list[Variant]) -> None:
    sim = fleet(2)
    for name in list(sim.views):
        sim.off(name)
    assert "no canary is online: nothing begins until one is" in preview(SPEC, sim.views, variants).warnings


def test_gates_say_what_so_few_devices_cannot_show(variants: list[Variant]) -> None:
    spec = SPEC.model_copy(update={"canary": 1})
    said = preview(spec, fleet(20).views, variants).gates
    assert (
        said[0]
        == "a canary of 1 finds, 9 times in 10, what fails on 90% of devices: only what nearly always fails"
    )
    assert said[1].startswith(
        "after wave 1 (20 devices) the limit of 5% finds, 9 times in 10, what fails on 30%"
    )
    assert said[2] == "1 % of failures against 5 % cannot be told with 20 devices: it takes 132"
    many = preview(spec, fleet(140).views, variants).gates
    assert not any("cannot be told" in line for line in many)
    deaf = spec.model_copy(update={"max_canary_failures": 1, "max_latency_ratio": None})
    said = preview(deaf, fleet(2).views, variants).gates
    assert said[0] == "1 canaries, 1 of which may fail: the canary finds nothing"
    assert (
        said[1] == "after wave 1 2 devices are too few to prove any failure rate" or "the limit of" in said[1]
    )
    assert said[-1] == "latency is not judged"


FLOAT = {"float_ap50": 0.78, "samples": 200.0, "objects": 900.0}


def declaring(variant: Variant, **accuracy: float) -> list[Variant]:
    config = variant.config.model_copy(update={"accuracy": FLOAT | accuracy})
    return [Variant(variant.blobs, variant.digest, variant.manifest, config)]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"ap50": 0.71}, True),
        ({"ap50": 0.755}, False),
        ({"ap50": 0.80}, False),
        ({"ap50": 0.71, "objects": 901.0}, False),
        ({"ap": 0.1}, False),
    ],
)
def test_release_that_declares_less_accuracy_than_what_devices_have_is_told_of(
    variants: list[Variant], now: dict[str, float], told: bool
) -> None:
    sim = fleet(3)
    sim.views = {
        n: replace(v, reported={SPEC.slot: ReportedSlot(state=State.COMMITTED, active=OLD)})
        for n, v in sim.views.items()
    }
    before = {OLD: declaring(variants[0], ap50=0.76)}
    warnings = preview(SPEC, sim.views, declaring(variants[0], **now), before=before).warnings
    words = [w for w in warnings if "declares" in w]
    assert words == (
        ["on 3 devices cpu/float declares ap50 0.710 by labels, 0.760 was that of 1.0.0"] if told else []
    )


def test_error_that_rises_is_a_loss(variants: list[Variant]) -> None:
    old, new = ({"word_error": e, "float_word_error": 0.1} for e in (0.1, 0.16))
    assert declared_loss(declaring(variants[0], **new)[0], declaring(variants[0], **old)[0]) is not None
    assert declared_loss(declaring(variants[0], **old)[0], declaring(variants[0], **new)[0]) is None
