"""Variants that only a device can run: what ships first after it has compiled and measured them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.builder.devices import LocalDevice, machine_of
from support.builder.nets import residual_net
from tests.builder.conftest import Save
from tests.engines.conftest import trt_double  # noqa: F401

from edgectl.builder import build_bundle
from edgectl.builder.budget import Budget
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.pack import on_device
from edgectl.builder.pack.on_device import finalised_on_devices, ordered, without
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.bundle import Bundle, Precision, Recipe, Runtime, SessionSettings
from edgectl.core.errors import LinkError
from edgectl.core.measured import Conditions, Standing
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import probe
from edgectl.engines.measure.job import GoldenFigures
from edgectl.engines.measure.job_child import MeasureResult
from edgectl.engines.measure.processes import ProcessTimes

ORIN = machine_of(
    "ARMv8",
    arch="aarch64",
    isa=("dotprod", "neon"),
    runtimes={"onnxruntime": "1.2", "tensorrt": "10.3.0.30"},
    sm="8.7",
)


def draft(
    variant: str, precision: Precision, runtime: Runtime = "tensorrt", *, fallback: bool = False
) -> VariantDraft:
    return VariantDraft(
        profile="jetson-orin",
        variant=variant,
        runtime=runtime,
        requires=(),
        model=variant.encode(),
        recipe=Recipe(family="float", precision=precision),
        precision=precision,
        session=SessionSettings(),
        fallback=fallback,
    )


INT8, FLOAT16, EIGHT = draft("trt-int8", "int8"), draft("trt-float16", "float16"), draft("trt8-int8", "int8")
CPU = draft("cpu-int8", "int8", "onnxruntime", fallback=True)


def times(ms: float, *, others: float = 0.0) -> ProcessTimes:
    calls = tuple(
        float(x) for x in ms * (1 + 0.001 * np.random.default_rng(int(ms * 10)).standard_normal(132))
    )
    return ProcessTimes(
        (0.1,) * 3,
        (50.0,) * 3,
        (ms,) * 3,
        calls,
        calls,
        1,
        block=4,
        paced_ms=calls[:72],
        paced_block=4,
        others=(others,) * 3,
        steal=(0.0,) * 3,
        cores=6,
    )


def result(failed: dict[str, str] | None = None, others: float = 0.0, **ms: float) -> MeasureResult:
    measured = {n.replace("_", "-"): times(t, others=others) for n, t in ms.items()}
    return MeasureResult(
        processes=measured,
        golden={n: GoldenFigures(worst_cosine=1.0, kind="plan", runtime="tensorrt 10.3") for n in measured},
        failed=failed or {},
        conditions=Conditions(load=0.2, power_mode="0001"),
        seconds=9.0,
    )


def order(r: MeasureResult) -> list[tuple[str, Standing | None]]:
    found = ordered([INT8, EIGHT, FLOAT16, CPU], r, ORIN)
    return [(d.variant, d.measured.standing if d.measured else None) for d in found]


def test_int8_that_is_faster_there_goes_first_with_its_figures_and_their_context() -> None:
    found = ordered([INT8, EIGHT, FLOAT16, CPU], result(trt_int8=4.0, trt_float16=8.0, cpu_int8=40.0), ORIN)
    assert [d.variant for d in found] == ["trt-int8", "trt-float16", "trt8-int8", "cpu-int8"]
    m = found[0].measured
    assert m is not None
    assert m.standing is Standing.FASTER
    assert m.ratio_to_float == pytest.approx(0.5, abs=0.01)
    assert (m.machine, m.runtime_version, m.conditions.power_mode) == (ORIN.summary, "tensorrt 10.3", "0001")
    assert m.fresh is not None
    assert found[2].measured is None, "TensorRT 8 is not there"


def test_int8_that_is_not_surely_faster_comes_after_float_and_a_slower_one_not_at_all() -> None:
    assert order(result(trt_int8=8.0, trt_float16=8.0, cpu_int8=40.0)) == [
        ("trt-float16", None),
        ("trt-int8", Standing.EQUAL),
        ("trt8-int8", None),
        ("cpu-int8", Standing.SLOWER),
    ]
    assert [n for n, _ in order(result(trt_int8=9.0, trt_float16=8.0, cpu_int8=40.0))] == [
        "trt-float16",
        "trt8-int8",
        "cpu-int8",
    ]
    busy = order(result(trt_int8=7.0, trt_float16=8.0, cpu_int8=40.0, others=3.0))
    assert busy[:2] == [("trt-float16", None), ("trt-int8", Standing.UNDECIDED)]


def test_what_the_device_refuses_leaves_the_bundle_and_the_fallback_stays() -> None:
    failed = {"trt-int8": "compiling failed", "cpu-int8": "died by SIGILL"}
    assert order(result(failed, trt_float16=8.0)) == [
        ("trt-float16", None),
        ("trt8-int8", None),
        ("cpu-int8", None),
    ]
    everything = dict.fromkeys(("trt-int8", "trt-float16", "cpu-int8"), "no")
    assert [n for n, _ in order(result(everything))] == ["trt8-int8", "cpu-int8"]


def test_what_fails_its_golden_check_leaves_its_preferences_to_the_next_and_a_fallback_stays() -> None:
    fast = replace(INT8, preferences=("fast", "low-power"))
    accurate = replace(FLOAT16, preferences=("accurate",))
    found = without([fast, accurate, CPU], {"trt-int8", "cpu-int8"})
    assert [(d.variant, d.preferences) for d in found] == [
        ("trt-float16", ("accurate", "fast", "low-power")),
        ("cpu-int8", ()),
    ]
    assert without([fast, accurate, CPU], {}) == [fast, accurate, CPU]
    only = without([fast, CPU], {"trt-int8"})
    assert [(d.variant, d.preferences) for d in only] == [("cpu-int8", ("fast", "low-power"))]


class Lost:
    """A device that is gone by the time it is asked."""

    name, profile, machine = "orin-1", "jetson-orin", ORIN

    def measure(self, job: object, files: object) -> MeasureResult:
        raise LinkError("orin-1 is not connected")


def test_lost_device_costs_its_figures_and_what_came_only_to_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_device, "make_variant", lambda identity, d: None)
    monkeypatch.setattr(on_device, "_job", lambda *a: (None, None))
    monitor = BuildMonitor(Budget())
    found = finalised_on_devices(
        None,  # type: ignore[arg-type]
        [INT8, EIGHT, FLOAT16, CPU],
        [load_profile("jetson-orin")],
        [Lost(), Lost()],
        monitor,
    )
    assert found == [INT8, EIGHT, CPU]
    assert monitor.notes == ["jetson-orin: nothing was measured on orin-1: orin-1 is not connected"] * 2


def test_profiles_without_a_device_stay_as_they_are() -> None:
    monitor = BuildMonitor(Budget())
    drafts = [INT8, CPU]
    assert finalised_on_devices(None, drafts, [load_profile("jetson-orin")], [], monitor) == drafts  # type: ignore[arg-type]
    assert monitor.notes == []


@pytest.mark.slow
def test_a_jetson_bundle_is_finalised_on_its_device_and_says_so(
    save: Save,
    npz: Path,
    tmp_path: Path,
    trt_double: Callable[..., None],
) -> None:
    """The device is this machine, its TensorRT the double: plans are compiled and checked by the finaliser, whose figures
    of time say nothing here."""
    trt_double(version="10.3.0.30")
    device = LocalDevice(tmp_path / "device", "orin-1", "jetson-orin", ORIN)
    report = build_bundle(
        save(residual_net()),
        profiles="jetson-orin",
        task=TaskSpec(name="tensor", input=TensorInput()),
        calibration=str(npz),
        max_drop=0.05,
        minutes=0.05,
        out=tmp_path / "out",
        devices=[device],
    )
    assert any(n == f"jetson-orin: measured on orin-1 ({ORIN.summary})" for n in report.notes), report.notes
    by_name = {v.config.variant: v.config for v in Bundle(tmp_path / "out").variants}
    assert by_name["tensorrt-float16"].measured is not None
    assert by_name["tensorrt-float16"].measured.ratio_to_float == 1.0
    assert list((tmp_path / "device" / "cache").glob("*.plan"))
    for v in by_name.values():
        there = v.runtime == "tensorrt" and any("trt:10" in r for r in v.requires)
        if there:
            assert v.measured is not None, v.variant
            assert v.measured.machine == ORIN.summary != probe().summary
