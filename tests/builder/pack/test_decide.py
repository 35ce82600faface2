"""``edgectl bench --decide``: the order of a bundle's variants is decided again, and the bundle stays
valid."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builder.nets import Save, residual_net
from typer.testing import CliRunner

from edgectl.builder.build import build_bundle
from edgectl.builder.pack import bench, package
from edgectl.builder.pack.bench import BenchReport, BenchRow, bench_bundle
from edgectl.builder.pack.decide import Decision, _measured_again, decide, rewrite
from edgectl.cli.main import app
from edgectl.core.bundle import Bundle, GoldenSpec, Preference, Recipe, VariantConfig, select
from edgectl.core.errors import BusyError, StorageError, UsageError
from edgectl.core.measured import Conditions, Context, ContextRun, Measured, ProcessRun, Standing
from edgectl.core.memory import EngineMemory
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.machine import probe
from edgectl.engines.measure.processes import MeasuredEngine, ProcessTimes
from edgectl.engines.timing import Ratio

TENSOR = TaskSpec(name="tensor", input=TensorInput())
MEASURED = Measured(
    p10_ms=1, p50_ms=1, n=9, machine="m", threads=1, runtime_version="r", conditions=Conditions(load=0)
)


def config(
    variant: str,
    preferences: tuple[Preference, ...] = (),
    *,
    profile: str = "cpu",
    fallback: bool = False,
    measured: bool = True,
    runtime: str = "onnxruntime",
) -> VariantConfig:
    return VariantConfig(
        name="n",
        version="1",
        profile=profile,
        variant=variant,
        runtime=runtime,
        task=TENSOR,
        inputs=(),
        outputs=(),  # type: ignore[arg-type]
        recipe=Recipe(family="x", precision="int8" if "int8" in variant else "float32"),
        preferences=preferences,
        fallback=fallback,
        golden=GoldenSpec(samples=1, tolerances={}),
        measured=MEASURED if measured else None,
    )


def row(
    variant: str, standing: Standing | None, ratio: float = 0.8, *, profile: str = "cpu", **change: object
) -> BenchRow:
    contexts = (
        ContextRun(context=Context.ALONE, p50_ms=1, ratio=ratio, low=ratio, high=ratio, standing=standing),
    )
    made = BenchRow(
        profile,
        variant,
        "onnxruntime",
        1,
        ratio=Ratio(ratio, ratio, ratio, 9),
        contexts=contexts,
        standing=standing,
    )
    return replace(made, **change)  # type: ignore[arg-type]


def report(*rows: BenchRow, busy: tuple[str, ...] = ()) -> BenchReport:
    return BenchReport("m", 0.0, None, rows, busy)


UNDECIDED = [
    config("onnxruntime-float32", ("fast", "accurate", "low-power")),
    config("onnxruntime-int8"),
    config("cpu-float32", fallback=True),
]
FLOATS = (row("onnxruntime-float32", Standing.EQUAL, 1.0), row("cpu-float32", None, 1.0))


def placed(d: Decision) -> list[tuple[str, tuple[Preference, ...]]]:
    return [(p.variant, p.preferences) for p in d.order]


def test_what_was_undecided_and_is_faster_comes_first() -> None:
    d = decide(UNDECIDED, report(*FLOATS, row("onnxruntime-int8", Standing.FASTER)))
    assert placed(d) == [
        ("onnxruntime-int8", ("fast",)),
        ("onnxruntime-float32", ("accurate", "low-power")),
        ("cpu-float32", ()),
    ]
    assert d.changed
    assert d.sentences == (
        "cpu: onnxruntime-int8 comes first: 0.80 × alone [0.80, 0.80] the time of cpu-float32",
    )


@pytest.mark.parametrize(
    ("standing", "says"), [(Standing.EQUAL, "equal to float"), (Standing.SLOWER, "slower than float")]
)
def test_what_is_not_faster_leaves_the_bundle(standing: Standing, says: str) -> None:
    d = decide(UNDECIDED, report(*FLOATS, row("onnxruntime-int8", standing)))
    assert placed(d) == [("onnxruntime-float32", ("fast", "accurate", "low-power")), ("cpu-float32", ())]
    assert says in d.sentences[-1]


def test_int8_that_shipped_first_and_is_not_faster_here_gives_its_preferences_to_float() -> None:
    configs = [
        config("onnxruntime-int8", ("fast", "low-power")),
        config("cpu-float32", ("accurate",), fallback=True),
    ]
    d = decide(configs, report(FLOATS[1], row("onnxruntime-int8", Standing.EQUAL)))
    assert placed(d) == [("cpu-float32", ("fast", "accurate", "low-power"))]
    kept = decide(configs, report(FLOATS[1], row("onnxruntime-int8", Standing.FASTER)))
    assert placed(kept) == [(c.variant, c.preferences) for c in configs]
    assert not kept.changed


def test_a_busy_machine_decides_nothing() -> None:
    d = decide(UNDECIDED, report(*FLOATS, row("onnxruntime-int8", Standing.FASTER), busy=("others",)))
    assert (d.order, d.sentences, d.undecided, d.changed) == ((), (), ("others",), False)


def test_float_takes_over_what_the_accurate_engine_was_and_not_a_faster_one_that_loses_more() -> None:
    configs = [
        config("onnxruntime-int8", ("fast", "low-power")),
        config("onnxruntime-int8-accurate", ("accurate",)),
        config("cpu-float32", fallback=True),
    ]
    d = decide(
        configs,
        report(
            FLOATS[1],
            row("onnxruntime-int8", Standing.FASTER),
            row("onnxruntime-int8-accurate", Standing.EQUAL),
        ),
    )
    assert placed(d) == [("onnxruntime-int8", ("fast", "low-power")), ("cpu-float32", ("accurate",))]


def test_an_engine_whose_runtime_is_not_here_keeps_its_place_and_preference() -> None:
    configs = [
        config("openvino-int8", ("fast",), runtime="openvino"),
        config("onnxruntime-int8", ("fast",)),
        config("cpu-float32", ("accurate",), fallback=True),
    ]
    rows = (
        row("openvino-int8", None, skipped="this machine lacks runtime:openvino"),
        row("onnxruntime-int8", Standing.SLOWER),
        FLOATS[1],
    )
    d = decide(configs, report(*rows))
    assert placed(d) == [("openvino-int8", ("fast",)), ("cpu-float32", ("fast", "accurate"))]
    assert d.sentences[-1] == "cpu: openvino-int8 did not run here and stays as it was"


def test_too_few_calls_on_a_quiet_machine_take_nothing_out_of_the_bundle() -> None:
    d = decide(UNDECIDED, report(*FLOATS, row("onnxruntime-int8", Standing.UNDECIDED)))
    assert placed(d) == [(c.variant, c.preferences) for c in UNDECIDED]
    assert "--seconds" in d.sentences[0]


def test_nothing_is_decided_by_what_was_told_against_no_float_of_the_profile() -> None:
    unmeasured = [
        row("cpu-float32", None, skipped="does not run"),
        row("onnxruntime-float32", Standing.FASTER),
    ]
    d = decide(
        UNDECIDED,
        report(*unmeasured, row("onnxruntime-int8", None), row("onnxruntime-int8", Standing.SLOWER)),
    )
    assert placed(d) == [(c.variant, c.preferences) for c in UNDECIDED]


def test_other_profiles_what_did_not_run_and_smaller_pictures_stay_as_they_are() -> None:
    others = [
        config("tensorrt-int8", profile="orin", measured=False),
        config("cpu-int8", profile="orin", measured=False, fallback=True),
        config("onnxruntime-int8-small-input", ("small-input",)),
    ]
    configs = [*others, *UNDECIDED]
    rows = (
        *FLOATS,
        row("onnxruntime-int8", Standing.SLOWER),
        row("onnxruntime-int8-small-input", Standing.SLOWER),
        row("tensorrt-int8", None, profile="orin", skipped="this machine lacks sm:8.7"),
    )
    d = decide(configs, report(*rows))
    assert placed(d)[:2] == [("tensorrt-int8", ()), ("cpu-int8", ())]
    assert ("onnxruntime-int8-small-input", ("small-input",)) in placed(d)


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from(list(Standing)), st.floats(0.3, 2)), min_size=1, max_size=4),
    st.booleans(),
    st.data(),
)
def test_whatever_was_measured_no_preference_is_lost_and_only_what_is_faster_goes_before_float(
    found: list[tuple[Standing, float]], float_first: bool, data: st.DataObject
) -> None:
    preferences: list[Preference] = ["fast", "accurate", "low-power"]
    names = [f"onnxruntime-int8-{i}" for i in range(len(found))]
    owner = {preference: data.draw(st.sampled_from([*names, "cpu-float32"])) for preference in preferences}
    all_configs = [
        config(n, tuple(r for r in preferences if owner[r] == n), fallback=n == "cpu-float32")
        for n in [*names, "cpu-float32"]
    ]
    if float_first:
        all_configs.insert(0, config("onnxruntime-float32"))
    rows = [row(n, s, r) for n, (s, r) in zip(names, found, strict=True)]
    d = decide(all_configs, report(*FLOATS, *rows))
    standing = {n: s for n, (s, _) in zip(names, found, strict=True)}
    if Standing.UNDECIDED in standing.values():
        assert not d.changed
        return
    assert owner["accurate"] in [p.variant for p in d.order if "accurate" in p.preferences] or not any(
        "int8" in p.variant for p in d.order if "accurate" in p.preferences
    )
    assert {r for p in d.order for r in p.preferences} == set(preferences)
    assert sum("fast" in p.preferences for p in d.order) == 1
    assert all(standing.get(p.variant, Standing.FASTER) is Standing.FASTER for p in d.order)
    first = next(p for p in d.order if "fast" in p.preferences)
    assert (first.variant in names) == any(s is Standing.FASTER for s, _ in found)
    if first.variant in names:
        assert d.order[0] == first
    assert any(p.variant == "cpu-float32" for p in d.order)


def timed(int8: float, *, others: float = 0.0) -> Callable[..., dict[str, ProcessTimes]]:
    """Instead of processes: what each contender takes, by the bytes of its engine; float is the longest."""

    def measure(
        contenders: dict[str, MeasuredEngine], feeds: object, *, seconds: float, enough: object = None
    ) -> dict[str, ProcessTimes]:
        def one(name: str) -> ProcessTimes:
            ms = tuple((int8 if "int8" in name else 10.0) * np.random.default_rng(1).normal(1, 0.001, 144))
            return ProcessTimes(
                (0.1,) * 3,
                (50.0,) * 3,
                (1.0,) * 3,
                ms,
                ms,
                1,
                block=4,
                paced_ms=ms,
                paced_block=4,
                others=(others,) * 3,
                steal=(0.0,) * 3,
                cores=2,
            )

        return {name: one(name) for name in contenders}

    return measure


@pytest.fixture
def undecided(save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of a build on a machine that stays busy: float first, int8 behind it."""
    from edgectl.builder.search import machine

    def busy(
        contenders: dict[str, MeasuredEngine], feeds: object, *, seconds: float, enough: object
    ) -> dict[str, ProcessTimes]:
        names = {n: ("int8" if not n.startswith("float") else n) for n in contenders}
        found = timed(9.0, others=1.9)({v: contenders[k] for k, v in names.items()}, feeds, seconds=seconds)
        return {k: found[v] for k, v in names.items()}

    monkeypatch.setattr(machine, "measure_in_processes", busy)
    monkeypatch.setattr(machine, "wait_until_quiet", lambda seconds: False)
    monkeypatch.setattr(
        "edgectl.builder.search.shortlist.may_be_faster", lambda o: o.possible and o.standing is None
    )
    built = build_bundle(
        save(residual_net(channels=64)),
        profiles=["cpu"],
        task=TENSOR,
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.2,
        minutes=0.1,
        precisions=["float32", "int8"],
    )
    assert [c.cause.value for why in built.causes.values() for c in why][:1] == ["undecided"]
    assert any("edgectl bench DIR --decide" in n for n in built.notes)
    return tmp_path / "out"


def first_here(root: Path) -> str:
    machine = probe()
    return select(
        Bundle(root).variants, machine.facts, profile="cpu", runtimes=machine.runtimes, prefer="fast"
    ).config.variant


def test_a_bundle_is_decided_when_the_machine_is_quiet_and_stays_valid(
    undecided: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle(undecided)
    assert "float32" in first_here(undecided)
    assert "int8" in " ".join(v.config.variant for v in before.variants)
    said = CliRunner().invoke(app, ["bundle", "inspect", str(undecided)])
    assert "undecided: the machine was busy (other processes took 1.9 of 2 cores)" in said.output
    still = bench_bundle(undecided, seconds=0.1, measure=timed(8.0, others=1.9))
    assert decide([v.config for v in before.variants], still).undecided == (
        "other processes took 1.9 of 2 cores",
    )
    quiet = bench_bundle(undecided, seconds=0.1, measure=timed(8.0))
    decision = decide([v.config for v in before.variants], quiet)
    digest = rewrite(undecided, decision, quiet)
    after = Bundle(undecided)
    assert after.verify() > 0
    assert after.digest == digest != before.digest
    assert (after.name, after.version) == (before.name, before.version)
    assert "int8" in first_here(undecided)
    shipped = next(v for v in after.variants if "fast" in v.config.preferences)
    assert shipped.config.measured is not None
    assert shipped.config.measured.standing is Standing.FASTER
    assert shipped.config.measured.ratio_to_float == pytest.approx(0.8)
    inspected = json.loads(CliRunner().invoke(app, ["bundle", "inspect", str(undecided), "--json"]).output)
    assert inspected["decided"] == list(decision.sentences)
    assert not any(c["cause"] == "undecided" for why in inspected["causes"].values() for c in why)
    again = bench_bundle(undecided, seconds=0.1, measure=timed(9.8))  # and back, without a trace of the other
    rewrite(undecided, decide([v.config for v in after.variants], again), again)
    assert not any("int8" in v.config.variant for v in Bundle(undecided).variants)
    assert Bundle(undecided).verify() > 0
    assert "float32" in first_here(undecided)


class Cut(BaseException):
    """The process is killed: nothing that it would still have done is done."""


@pytest.mark.parametrize("at", range(4))
def test_a_kill_at_any_step_leaves_the_old_bundle_or_the_new_one(
    undecided: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    quiet = bench_bundle(undecided, seconds=0.1, measure=timed(8.0))
    decision = decide([v.config for v in Bundle(undecided).variants], quiet)
    steps: list[str] = []

    def cut_after(name: str, do: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kw: object) -> object:
            # the process is gone: cleaning up does not happen either
            if len(steps) > at:
                return None
            done = do(*args, **kw)
            steps.append(name)
            if len(steps) > at:
                raise Cut
            return done

        return step

    monkeypatch.setattr(Path, "rename", cut_after("rename", Path.rename))
    monkeypatch.setattr(
        package,
        "exchange",
        cut_after("exchange", getattr(package, "exchange", None) or (lambda *_: None)),
        raising=False,
    )
    monkeypatch.setattr(package, "fsync_dir", cut_after("fsync", package.fsync_dir))
    with contextlib.suppress(Cut):
        rewrite(undecided, decision, quiet)
    assert steps
    assert Bundle(undecided).verify() > 0


def test_a_bundle_that_was_built_anew_meanwhile_is_not_touched(undecided: Path) -> None:
    quiet = bench_bundle(undecided, seconds=0.1, measure=timed(8.0))
    decision = decide([v.config for v in Bundle(undecided).variants], quiet)
    rewrite(undecided, decision, quiet)
    new = Bundle(undecided).digest
    with pytest.raises(BusyError, match="written anew"):
        rewrite(undecided, decision, quiet)
    assert Bundle(undecided).digest == new


def test_each_profile_is_told_against_its_own_fallback(save: Save, npz: Path, tmp_path: Path) -> None:
    mine = tmp_path / "slow.toml"
    mine.write_text('inherits = "cpu"\ndescription = "the same"\n')
    build_bundle(
        save(residual_net()),
        profiles=["cpu", str(mine)],
        task=TENSOR,
        calibration=str(npz),
        out=tmp_path / "out",
        minutes=0.05,
    )
    found = bench_bundle(tmp_path / "out", seconds=0.1, measure=timed(8.0))
    own = [r for r in found.rows if r.skipped is None and r.variant == "cpu-float32"]
    assert [(r.profile, r.standing) for r in own] == [("cpu", None), ("slow", None)]


def test_where_folders_cannot_be_swapped_the_new_bundle_still_takes_the_place(
    undecided: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = bench_bundle(undecided, seconds=0.1, measure=timed(8.0))
    decision = decide([v.config for v in Bundle(undecided).variants], quiet)
    monkeypatch.setattr(package, "exchange", lambda *_: False)
    assert rewrite(undecided, decision, quiet) == Bundle(undecided).digest
    assert [p.name for p in undecided.parent.iterdir() if p.name.startswith(".out")] == []


def test_a_full_disk_leaves_the_bundle_as_it_was(undecided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Bundle(undecided)
    quiet = bench_bundle(undecided, seconds=0.1, measure=timed(8.0))
    decision = decide([v.config for v in before.variants], quiet)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package, "_put", full)
    with pytest.raises(StorageError):
        rewrite(undecided, decision, quiet)
    assert Bundle(undecided).digest == before.digest
    assert Bundle(undecided).verify() > 0
    assert [p.name for p in undecided.parent.iterdir() if p.name.startswith(".out")] == []


def test_the_command_says_undecided_and_ends_with_its_own_code(
    undecided: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Bundle(undecided).digest
    monkeypatch.setattr(
        bench.bench_bundle,
        "__kwdefaults__",
        {**bench.bench_bundle.__kwdefaults__, "measure": timed(8.0, others=1.9)},
    )
    result = CliRunner().invoke(app, ["bench", str(undecided), "--decide", "--seconds", "0.1", "--json"])
    assert result.exception is not None
    assert getattr(result.exception, "exit_code", result.exit_code) == 13
    assert json.loads(result.stdout)["decision"]["undecided"] == ["other processes took 1.9 of 2 cores"]
    assert Bundle(undecided).digest == digest
    refused = CliRunner().invoke(app, ["bench", str(undecided), "--decide", "--threads", "2"])
    assert isinstance(refused.exception, UsageError) or refused.exit_code == 2


@pytest.mark.parametrize(("batch", "known"), [(1, 7), (4, 5)])
def test_what_it_took_of_memory_is_what_was_measured_last(batch: int, known: int) -> None:
    def taking(n: int) -> EngineMemory:
        return EngineMemory(source="measured", resident_bytes=n, peak_bytes=n)

    fresh = ProcessRun(
        runs=5, cold_start_s=1, rss_mb=90, cpu_ms=1, gap_ms=33, p50_ms=1, busy=1, n=9, memory=taking(7)
    )
    before = config("int8").model_copy(update={"memory": taking(5), "batch": batch, "expected_rss_mb": 80.0})
    after = _measured_again(before, row("int8", Standing.FASTER, fresh=fresh))
    assert after.memory == taking(known), "full calls were not measured again"
    assert after.expected_rss_mb == 90
    assert _measured_again(before, row("int8", Standing.FASTER)) == before
