"""Engines measured in new processes, for real but with a tiny model: what is reported, and what a failure
costs."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.variants import weighty_model
from tests.engines.conftest import small_model

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.core.measured import Context, Standing
from edgectl.core.memory import MIB, EngineMemory
from edgectl.engines.child import Conversation
from edgectl.engines.measure import processes
from edgectl.engines.measure.called import next_frame
from edgectl.engines.measure.conditions import CpuTimes, read_conditions
from edgectl.engines.measure.contexts import busy_because, calls_in_a_row
from edgectl.engines.measure.memory import median_memory
from edgectl.engines.measure.processes import (
    MeasuredEngine,
    ProcessTimes,
    evidence,
    measure_in_processes,
    measure_memory,
    standing_of,
    summarise_processes,
)

FEEDS = [{"x": np.zeros((1, 3, 8, 8), np.float32)}, {"x": np.ones((1, 3, 8, 8), np.float32)}]


def contender(model: bytes | None = None, **settings: object) -> MeasuredEngine:
    return MeasuredEngine(
        small_model() if model is None else model, "onnxruntime", SessionSettings.model_validate(settings)
    )


def test_every_contender_is_measured_in_turn_and_a_broken_one_is_told_apart() -> None:
    found = measure_in_processes(
        {"a": contender(), "b": contender(arena=False), "bad": contender(b"no model")}, FEEDS, runs=2
    )
    assert "cannot open" in (found["bad"].failed or "")
    for name in ("a", "b"):
        t = found[name]
        assert t.failed is None
        assert (len(t.cold_s), len(t.rss_mb), len(t.cpu_ms)) == (2, 2, 2)
        blocks = [len(t.of(c)) for c in (Context.ALONE, Context.BESIDE)]
        assert blocks == 2 * [len(found["a"].of(Context.ALONE))], "as many blocks, of as many calls as fit"
        assert len(t.ms) == blocks[0] * t.block >= 24
        assert all(10 < mb < 1000 for mb in t.rss_mb)
        assert min(*t.cold_s, *t.cpu_ms, *t.ms) > 0
        assert t.busy >= 1
        run = summarise_processes(t, None)
        assert run.memory is not None
        assert (run.memory.source, run.memory.runs) == ("measured", 2)
        assert run.memory.process_bytes is not None
        assert (
            run.rss_mb * MIB * 0.9
            < run.memory.process_bytes + (run.memory.peak_bytes or 0)
            < run.rss_mb * MIB * 1.1
        )


def test_engines_of_which_memory_holds_one_are_measured_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = [0]
    most: list[int] = []

    class Watched(Conversation):
        def __enter__(self) -> Watched:
            alive[0] += 1
            most.append(alive[0])
            return super().__enter__()

        def __exit__(self, *why: object) -> None:
            alive[0] -= 1
            super().__exit__(*why)  # type: ignore[arg-type]

    monkeypatch.setattr(processes, "Conversation", Watched)
    file = tmp_path / "engine.onnx"
    file.write_bytes(small_model())
    contenders = {
        "float": MeasuredEngine(file, "onnxruntime", SessionSettings()),
        "bad": contender(b"no model"),
        "other": contender(arena=False),
    }
    found = measure_in_processes(contenders, FEEDS, runs=2, seconds=0.02, together=False)
    assert max(most) == 1
    assert len(most) == 5, "whoever failed is not started again"
    assert found["bad"].failed is not None
    for context in Context:
        assert len(found["float"].of(context)) == len(found["other"].of(context)) >= 4, "there are pairs"


def test_figures_are_medians_of_processes_and_percentiles_come_only_from_enough_samples() -> None:
    ms = tuple(float(x) for x in range(1, 133))
    times = ProcessTimes((0.1, 0.5, 0.2), (50, 70, 60), (2, 9, 3), ms, tuple(2 * x for x in ms), busy=3)
    run = summarise_processes(times, ProcessTimes((), (), (), tuple(2 * x for x in ms)))
    assert (run.runs, run.cold_start_s, run.rss_mb, run.cpu_ms, run.busy, run.n) == (3, 0.2, 70, 3, 3, 132)
    assert run.p95_ms == pytest.approx(125.45)
    assert run.p95_loaded_ms == pytest.approx(250.9)
    assert (run.ratio_to_float, run.ratio_low, run.ratio_high) == (0.5, 0.5, 0.5)
    few = summarise_processes(ProcessTimes((0.1,), (50,), (2,), ms[:129], ms[:12]), None)
    assert (few.p95_ms, few.p95_loaded_ms, few.ratio_to_float) == (None, None, None)


def test_the_busy_processes_end_with_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = processes.subprocess.Popen

    def record(*args: object, **kwargs: object) -> object:
        started.append(popen(*args, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", record)
    with processes._busy() as count:
        assert len(started) == count >= 1
        assert all(p.poll() is None for p in started)
    assert all(p.returncode is not None for p in started)


ECHO = """
import os, sys, time
from edgectl.engines.child import converse
count = 0
def handle(question):
    global count
    count += 1
    os.write(1, b'noise of a library')
    if question.get('do') == 'die': os.kill(os.getpid(), 9)
    if question.get('do') == 'hang': time.sleep(60)
    if question.get('do') == 'fail': raise ValueError('no')
    if question.get('do') == 'leave': sys.stderr.write('out of memory'); sys.stderr.flush(); os._exit(3)
    return {'count': count, **question}
sys.exit(converse(handle))
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "echochild.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    return "echochild"


def test_a_child_keeps_its_state_between_questions(echo: str) -> None:
    with Conversation(echo, [], what="the work") as child:
        assert child.ask({"x": 1}, timeout_s=30) == {"ok": True, "count": 1, "x": 1}
        with pytest.raises(EngineError, match="the work failed: ValueError: no"):
            child.ask({"do": "fail"}, timeout_s=30)
        assert child.ask({}, timeout_s=30)["count"] == 3


@pytest.mark.parametrize(
    ("do", "says"),
    [
        ("die", "died by SIGKILL"),
        ("hang", "took more than"),
        ("leave", "ended with 3 and no answer.*out of memory"),
    ],
)
def test_whatever_a_child_does_in_a_conversation_is_one_error(echo: str, do: str, says: str) -> None:
    with Conversation(echo, [], what="the work") as child:
        child.ask({}, timeout_s=30)
        with pytest.raises(EngineError, match=says):
            child.ask({"do": do}, timeout_s=0.5 if do == "hang" else 30)
        with pytest.raises(EngineError):
            child.ask({}, timeout_s=30)
    assert child._process.returncode is not None


def test_the_state_of_the_machine_is_read_where_it_tells(tmp_path: Path) -> None:
    nothing = read_conditions(tmp_path)
    assert (nothing.governor, nothing.power_mode) == (None, None)
    for path, text in {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "var/lib/nvpmodel/status": "pmode:0002\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    seen = read_conditions(tmp_path)
    assert (seen.governor, seen.power_mode) == ("schedutil", "0002")
    assert seen.load >= 0


@pytest.mark.parametrize(
    ("last", "now_s", "comes"),
    [(0, 0.0, 1), (1, 0.034, 2), (1, 0.02, 2), (1, 0.101, 4), (3, 0.4, 12)],
)
def test_a_slow_engine_takes_the_next_frame_of_the_camera_and_the_others_are_dropped(
    last: int, now_s: float, comes: int
) -> None:
    assert next_frame(last, now_s, 1 / 30) == comes


def times_of(
    alone: float, paced: float, *, others: float = 0.1, n: int = 36, jitter: float = 0.01, seed: int = 0
) -> ProcessTimes:
    rng = np.random.default_rng(seed)
    return ProcessTimes(
        (0.1,) * 3,
        (50.0,) * 3,
        (1.0,) * 3,
        tuple(alone * rng.normal(1, jitter, 4 * n)),
        tuple(2 * alone * rng.normal(1, jitter, 4 * n)),
        busy=1,
        block=4,
        paced_ms=tuple(paced * rng.normal(1, jitter, 4 * n)),
        paced_block=4,
        others=(0.0, others, 0.0),
        steal=(0.0,) * 3,
        cores=2,
    )


def test_each_context_is_told_and_they_decide_together() -> None:
    base = times_of(10, 11)
    run = summarise_processes(times_of(8, 11, seed=1), base, base)
    told = {c.context: c for c in run.contexts}
    assert {c: r.standing for c, r in told.items()} == {
        Context.ALONE: Standing.FASTER,
        Context.PACED: Standing.EQUAL,
        Context.BESIDE: Standing.FASTER,
    }
    assert told[Context.ALONE].ratio == run.ratio_to_float == pytest.approx(0.8, rel=0.01)
    assert (run.others, run.busy_because) == (0.1, ())
    assert standing_of(times_of(8, 11, seed=1), base) is Standing.FASTER
    assert standing_of(times_of(8, 12.5, seed=1), base) is Standing.SLOWER
    assert standing_of(times_of(9.7, 10.7, seed=1), base) is Standing.EQUAL
    assert [c.ratio for c in summarise_processes(base, None).contexts] == [None] * 3


def test_the_busiest_run_counts_and_an_unsteady_reference_does_too() -> None:
    busy = times_of(10, 11, others=1.7)
    assert busy_because(evidence(busy)) == ("other processes took 1.7 of 2 cores",)
    assert standing_of(times_of(8, 9, seed=1), busy) is Standing.UNDECIDED
    assert busy_because(evidence(times_of(10, 11, jitter=0.4)))


def test_on_a_quiet_machine_a_lucky_process_of_float_leaves_nothing_undecided() -> None:
    def lucky(alone: float, levels: tuple[float, float, float], seed: int) -> ProcessTimes:
        times = times_of(alone, 0.3, seed=seed)
        of_each = np.repeat(levels, len(times.ms) // 3)
        return replace(times, ms=tuple(np.asarray(times.ms) * of_each))

    base = lucky(0.18, (1.0, 1.5, 1.0), 0)
    assert busy_because(evidence(base)) == ()
    assert standing_of(lucky(0.1, (1.0, 1.0, 1.0), 1), base) is Standing.FASTER
    # its luck is in the interval: one lucky process proves nothing
    assert standing_of(lucky(0.17, (1.0, 1.0, 1.2), 1), base) is Standing.EQUAL


def test_what_others_do_meanwhile_is_counted_and_what_is_measured_is_not() -> None:
    """Two readings of a machine on which three cores computed all the time; the contender was one of them,
    at most."""
    now = [0.0]

    def cpu() -> CpuTimes:
        now[0] += 1000.0
        return CpuTimes(3 * now[0], 0.0, 4, now[0])

    found = measure_in_processes({"a": contender()}, FEEDS, runs=1, seconds=0.05, cpu=cpu)["a"]
    [others] = found.others
    assert others == pytest.approx(3, abs=0.05)  # the contender took seconds of a thousand
    assert found.cores == 4
    assert len(found.paced_ms) >= 16


def test_when_it_is_enough_no_more_processes_are_started_than_the_least() -> None:
    asked = []

    def enough() -> bool:
        asked.append(1)
        return True

    found = measure_in_processes({"a": contender()}, FEEDS, runs=5, seconds=0.05, enough=enough)["a"]
    assert len(found.cold_s) == 2
    assert len(asked) == 1


def test_memory_is_what_the_engine_adds_and_not_what_was_there() -> None:
    x = np.zeros((1, 3, 8, 8), np.float32)
    found = measure_memory(
        MeasuredEngine(weighty_model(64), "onnxruntime", SessionSettings(), [{"x": x}]), runs=1
    )
    assert found is not None
    assert found.resident_bytes is not None
    assert found.peak_bytes is not None
    assert 64 * MIB < found.resident_bytes < 2.5 * 64 * MIB
    assert found.resident_bytes + 32 * MIB < found.peak_bytes < 4 * 64 * MIB, (
        "while it opens the file is there, too"
    )
    with pytest.raises(EngineError, match="cannot open"):
        measure_memory(MeasuredEngine(b"no model", "onnxruntime", SessionSettings(), [{"x": x}]), runs=1)


def test_the_memory_of_several_processes_is_the_median_of_each_figure() -> None:
    def one(resident: int, peak: int, process: int) -> EngineMemory:
        return EngineMemory(
            source="measured", resident_bytes=resident, peak_bytes=peak, process_bytes=process, runs=1
        )

    found = median_memory([one(1, 9, 70), one(5, 6, 50), one(8, 8, 90)])
    assert found == EngineMemory(source="measured", resident_bytes=5, peak_bytes=8, process_bytes=70, runs=3)
    assert median_memory([]) is None


class Counted:
    """An engine that is called; each call takes ``ms``."""

    runtime = "onnxruntime"

    def __init__(self, ms: float) -> None:
        self.ms, self.calls = ms, 0

    def open(self) -> None:
        pass

    def call_ms(self) -> float:
        self.calls += 1
        return self.ms


@pytest.mark.parametrize(("ms", "opening", "warm"), [(2.0, 4, 1), (500.0, 3, 0)])
def test_a_long_call_is_asked_for_less_often(ms: float, opening: int, warm: int) -> None:
    engine = Counted(ms)
    child = processes._Child(engine)  # type: ignore[arg-type]
    assert child.handle({"open": 1})["first_s"] == ms / 1e3
    assert engine.calls == opening
    in_a_row = calls_in_a_row(ms)
    asked = {"calls": in_a_row, "warm": warm}
    assert len(child.handle(asked)["ms"]) == in_a_row
    assert len(child.handle({**asked, "period_s": 1e-6})["ms"]) == in_a_row
    assert engine.calls == opening + 2 * (in_a_row + warm)


def test_one_call_that_was_held_up_makes_no_engine_a_slow_one() -> None:
    engine = Counted(5.0)
    held_up = iter([5.0, 300.0])
    monkeyed = engine.call_ms
    engine.call_ms = lambda: next(held_up, None) or monkeyed()  # type: ignore[method-assign]
    assert processes._Child(engine).handle({"open": 1})["first_s"] == 0.005  # type: ignore[arg-type]


def test_beside_a_slow_float_the_fast_one_is_still_called_in_blocks_and_there_are_as_many_of_them() -> None:
    extent = processes._Extent.fitting({"float": 0.5, "int8": 0.002}, 1.0)
    assert extent.in_a_row == {"float": 1, "int8": 4}
    assert [extent.paced_in_a_row(n) for n in ("float", "int8")] == [1, 4]
    assert (extent.blocks, extent.paced) == (4, 4)
    assert [extent.warm_calls(n) for n in ("float", "int8")] == [1, 1], (
        "both, or the slow one were cold alone"
    )
    slow = processes._Extent.fitting({"float": 0.5, "int8": 0.2}, 1.0)
    assert [slow.warm_calls(n) for n in ("float", "int8")] == [0, 0]
    quick = processes._Extent.fitting({"float": 0.004, "int8": 0.002}, 1.0)
    assert (quick.blocks, quick.paced) == (24, 7)
