"""A governor's rungs carried out in a running stream, told, and taken back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.core.bundle import Variant
from edgectl.core.errors import EngineError
from edgectl.core.measured import Conditions, Measured
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.kinds.degradation import lighter_variants
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.governor import Change, Lighter, Rung
from edgectl.pipelines.stream.part import PartVariant

SMALL = Lighter("small-input", 0.25)


def middle(_: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
    return [(0.4, 0.3, 0.6, 0.8, 0.9, 0)]


def slot_of(folder: Path, name: str = "own", small: str = "small") -> PartVariant:
    """``small``: the name of the variant that goes along for less work."""
    other = make_variant(folder / "blobs", box_task(size=(32, 32)), name=small)
    return PartVariant(
        make_variant(folder / "blobs", box_task(), name=name), "yard@1", lighter={"small-input": other}
    )


class Rig:
    """A stream whose governor does what it is told."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any] | None = None,
        kind: str = "surveillance",
        *,
        on_trial: bool = False,
    ) -> None:
        self.events: list[Record] = []
        self.heard = threading.Condition()
        self.engines: dict[str, BoxEngine] = {}
        self.broken = False
        config = {
            "govern": {"variants": ["small-input"], "memory_mb": None, "temperature_c": None},
            **(config or {}),
        }
        self.pipeline: Any = make_pipeline(
            kind,
            PipelineArgs(
                "gate",
                "synth://yard?fps=60&width=320&height=192"
                if kind == "surveillance"
                else "synth://road?fps=60&width=320&height=192",
                {"detector": replace(slot_of(folder), on_trial=on_trial)},
                parse_config(kind, config),
                self.hear,
                self.open,
            ),
        )

    def open(self, variant: Variant) -> BoxEngine:
        name = variant.config.name
        if name.startswith("small") and self.broken:
            raise EngineError("no memory")
        self.engines[name] = BoxEngine(middle, size=(32, 32) if name.startswith("small") else (64, 64))
        return self.engines[name]

    def hear(self, record: Record) -> None:
        with self.heard:
            self.events.append(record)
            self.heard.notify_all()

    def of(self, kind: str, n: int) -> list[Record]:
        def found() -> list[Record]:
            return [e for e in self.events if e["type"] == kind and e.get("name") != "source"]

        with self.heard:
            assert self.heard.wait_for(lambda: len(found()) >= n, 20), f"fewer than {n} {kind} events"
            return found()

    def go(self, *rungs: Rung) -> None:
        """The next looks say these rungs, one after the other."""
        load = self.pipeline._degradation._load
        script = iter(enumerate(rungs, 1))

        def look(now_s: float) -> tuple[Change, float] | None:
            step = next(script, None)
            return None if step is None else (Change(step[0], step[1], "overload"), 1.0)

        load.look = look

    def wait_for_calls(self, name: str, n: int) -> None:
        wait_for(lambda: name in self.engines and self.engines[name].runs >= n)

    def stop(self) -> None:
        self.pipeline.stop()
        assert self.pipeline.error is None
        frames = self.pipeline.ledger.frames()
        assert frames.in_flight == 0
        assert frames.captured == frames.processed + sum(frames.dropped.values())
        assert all(engine.closed.is_set() for engine in self.engines.values())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    one.pipeline.start()
    yield one
    one.stop()


def test_another_variant_takes_over_is_told_and_gives_back(rig: Rig) -> None:
    rig.go(Rung(1, SMALL))
    (event,) = rig.of("degradation", 1)
    assert {k: event[k] for k in ("phase", "level", "detect_every", "variant", "reason")} == {
        "phase": "start",
        "level": 1,
        "detect_every": 1,
        "variant": "small-input",
        "reason": "overload",
    }
    rig.wait_for_calls("small", 12)
    runs = rig.engines["own"].runs
    rig.wait_for_calls("small", 30)
    assert rig.engines["own"].runs <= runs + 1
    rig.go(Rung())
    rig.wait_for_calls("own", runs + 10)
    assert rig.engines["small"].closed.wait(10)


def test_until_another_variant_is_there_few_frames_are_looked_at(rig: Rig) -> None:
    degradation = rig.pipeline._degradation
    may = threading.Event()
    opened = rig.open

    def slowly(variant: Variant) -> BoxEngine:
        assert may.wait(20)
        return opened(variant)

    object.__setattr__(rig.pipeline._args, "open_engine", slowly)
    rig.go(Rung(1, SMALL))
    rig.of("degradation", 1)
    wait_for(lambda: rig.pipeline._choice.detect_every == 5)
    may.set()
    wait_for(lambda: rig.pipeline._choice.detect_every == 1)
    assert degradation._stand_in.settled


def test_a_variant_that_cannot_be_opened_is_told_and_no_rung_any_more(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.broken = True
    rig.pipeline.start()
    levels = rig.pipeline._degradation._load.rungs
    rig.go(Rung(1, SMALL))
    capability = next(e for e in rig.of("capability", 1) if e["name"] == "variant")
    assert (capability["available"], capability["variant"]) == (False, "small-input")
    assert "no memory" in capability["detail"]
    wait_for(lambda: rig.pipeline._degradation._load.rungs < levels)
    rig.stop()


def test_a_swap_of_the_slots_engine_ends_the_other_variant(rig: Rig, tmp_path: Path) -> None:
    rig.go(Rung(1, SMALL))
    rig.wait_for_calls("small", 5)
    rig.pipeline.swap("detector", PartVariant(make_variant(tmp_path / "new", box_task(), name="new")))
    rig.wait_for_calls("new", 12)
    assert rig.engines["small"].closed.wait(10)
    assert not any(rung.variant for rung in rig.pipeline._degradation._load._governor._rungs)


def variants_of(rig: Rig) -> list[str]:
    return [rung.variant.name for rung in rig.pipeline._degradation._load._governor._rungs if rung.variant]


def test_a_new_engine_on_trial_runs_alone_and_brings_its_own_variants_once_it_stays(
    rig: Rig, tmp_path: Path
) -> None:
    rig.go(Rung(1, SMALL))
    rig.wait_for_calls("small", 5)
    rig.pipeline.swap("detector", slot_of(tmp_path, "new", "small-new"))
    wait_for(lambda: not variants_of(rig))
    rig.wait_for_calls("new", 12)
    assert rig.engines["small"].closed.wait(10)
    assert "small-new" not in rig.engines
    rig.pipeline.commit("detector")
    wait_for(lambda: bool(variants_of(rig)))
    rig.go(Rung(1, SMALL))
    rig.wait_for_calls("small-new", 5)


def test_an_engine_that_starts_on_trial_runs_alone_until_it_stays(tmp_path: Path) -> None:
    rig = Rig(tmp_path, on_trial=True)
    rig.pipeline.start()
    rig.wait_for_calls("own", 5)
    assert not variants_of(rig)
    rig.pipeline.commit("detector")
    wait_for(lambda: bool(variants_of(rig)))
    rig.stop()


def test_an_engine_that_comes_back_has_its_variants_again(rig: Rig, tmp_path: Path) -> None:
    wait_for(lambda: bool(variants_of(rig)))
    rig.pipeline.swap("detector", PartVariant(make_variant(tmp_path / "new", box_task(), name="new")))
    wait_for(lambda: not variants_of(rig))
    rig.pipeline.revert("detector")
    wait_for(lambda: bool(variants_of(rig)))
    rig.go(Rung(1, SMALL))
    rig.wait_for_calls("small", 5)


def test_a_variant_that_failed_is_not_the_next_engines_fault(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.broken = True
    rig.pipeline.start()
    rig.go(Rung(1, SMALL))
    wait_for(lambda: not variants_of(rig))
    rig.broken = False
    rig.pipeline.swap("detector", slot_of(tmp_path, "new", "small-new"))
    rig.pipeline.commit("detector")
    wait_for(lambda: bool(variants_of(rig)))
    rig.stop()


def test_telemetry_says_what_stood_in_in_its_window(rig: Rig) -> None:
    assert rig.pipeline.stats().stand_ins == {}
    rig.go(Rung(1, SMALL))
    rig.wait_for_calls("small", 5)
    assert rig.pipeline.stats().stand_ins == {"detector": "small-input"}
    runs = rig.engines["own"].runs
    rig.go(Rung())
    rig.wait_for_calls("own", runs + 5)
    assert rig.pipeline.stats().stand_ins == {"detector": "small-input"}, "for a part of the window"
    assert rig.pipeline.stats().stand_ins == {}


def test_a_source_that_gives_key_frames_alone_goes_on_so_when_the_variants_have_gone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"govern": {"variants": ["small-input"], "key_frames": True}})
    rig.pipeline.start()
    degradation = rig.pipeline._degradation
    asked = []

    def only_key_frames(on: bool) -> bool:
        asked.append(on)
        return True

    degradation._only_key_frames = only_key_frames
    governor = degradation._load._governor
    governor._rungs = degradation._ladder()
    governor.level = len(governor._rungs) - 1
    rig.go(governor._rungs[-1])
    rig.of("degradation", 1)
    assert asked[-1]
    rig.pipeline.swap("detector", PartVariant(make_variant(tmp_path / "new", box_task(), name="new")))
    wait_for(lambda: not any(rung.variant for rung in governor._rungs))
    assert governor._rungs[governor.level].key_frames
    assert asked[-1]
    rig.stop()


def test_regions_are_left_out_before_frames_are(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"regions": {"on": True}})
    rig.pipeline.start()
    regions = rig.pipeline._degradation._regions
    rig.go(Rung(regions=False))
    (event,) = rig.of("degradation", 1)
    assert (event["regions"], event["detect_every"]) == (False, 1)
    assert not regions.on
    rig.go(Rung())
    wait_for(lambda: regions.on)
    rig.stop()


def test_driving_keeps_its_frames_and_may_take_another_variant(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"govern": {"variants": ["small-input"]}}, kind="driving")
    rig.pipeline.start()
    governor = rig.pipeline._degradation._load._governor
    assert governor._rungs == (Rung(), Rung(1, SMALL))
    rig.go(Rung(1, SMALL))
    rig.wait_for_calls("small", 5)
    rig.stop()
    assert "degraded" not in rig.pipeline.ledger.frames().dropped


def test_small_pictures_are_for_who_asked_for_them(tmp_path: Path) -> None:
    assert lighter_variants(slot_of(tmp_path), ("low-power",)) == []
    assert lighter_variants(slot_of(tmp_path), ("low-power", "small-input")) == [SMALL]


def measured(p50_ms: float, machine: str = "this") -> Measured:
    return Measured(
        p10_ms=p50_ms,
        p50_ms=p50_ms,
        n=50,
        machine=machine,
        threads=1,
        runtime_version="1",
        conditions=Conditions(load=0.0),
    )


@pytest.mark.parametrize(
    ("own_ms", "other", "cost"),
    [(10.0, measured(4.0), 0.4), (10.0, measured(12.0), None), (10.0, measured(4.0, "that"), 0.25)],
)
def test_what_a_variant_costs_is_what_was_measured_on_the_same_machine(
    tmp_path: Path, own_ms: float, other: Measured, cost: float | None
) -> None:
    slot = slot_of(tmp_path)
    small = slot.lighter["small-input"]
    for variant, figures in ((slot.variant, measured(own_ms)), (small, other)):
        variant.config = variant.config.model_copy(update={"measured": figures})
    found = lighter_variants(slot, ("small-input",))
    assert [one.cost for one in found] == ([] if cost is None else [pytest.approx(cost)])


def test_a_variant_of_which_nothing_is_known_is_not_taken_for_a_lighter_one(tmp_path: Path) -> None:
    own = make_variant(tmp_path / "a", box_task(), name="own")
    other = make_variant(tmp_path / "b", box_task(), name="other")
    assert lighter_variants(PartVariant(own, lighter={"low-power": other}), ("low-power",)) == []
