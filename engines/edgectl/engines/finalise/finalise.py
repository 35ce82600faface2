"""Turn a variant into the engine that this very device runs, and keep it in a cache.

CPU: the graph that ONNX Runtime made of the file, saved, if it opens faster and still passes the golden
check; otherwise the file as it is. TensorRT: a plan, compiled in a child process (nothing native runs in the
caller), saved, and then *the saved file* is checked against the golden outputs in another child before it
gets its name in the cache.

Good now, better later: the first plan is built at the quick level; asked for a higher one, the finaliser
builds it beside the plan that is in use, measures both and keeps the faster.

On disk: ``<model 16 hex>-<key 16 hex>[-<level>].{onnx,plan}`` and ``<model>-<key>.json`` with the whole key,
the name of the file that counts and its digest. A file without its JSON, or with another digest or key, is a
miss. Kill at any point leaves the cache as it was, or with a temporary.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from edgectl.core.bundle import LAYER_RANGES, LAYER_WEIGHTS, Recipe, SessionSettings, Variant
from edgectl.core.errors import EdgectlError, EngineError, IntegrityError, ProfileError
from edgectl.core.files import file_digest, storage
from edgectl.core.plan import SharedPlan, key_hex
from edgectl.device_profiles.catalogue import load_profile, profile_names
from edgectl.device_profiles.machine import probe
from edgectl.device_profiles.schema import TensorRtSpec
from edgectl.engines.child import run_child
from edgectl.engines.finalise.entry import CacheEntry, alone
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.plan_layers import PlanLayers
from edgectl.engines.finalise.rtx_engine import rtx_engine
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

__all__ = ["QUICK_LEVEL", "Finalised", "adopt_plan", "finalise", "missing_plan"]

QUICK_LEVEL = 3
_CHECK_TIMEOUT_S = 300.0
_ANY_TENSORRT = TensorRtSpec(min="8.6", max="11.99")
"""For a variant whose profile is not one of those that ship with edgectl."""


@dataclass(frozen=True)
class Finalised:
    """The file that the runtime of this machine opens, and where it came from."""

    path: Path
    kind: Literal["plan", "optimised", "original"]
    """``original``: the variant's own ONNX file is already what runs."""
    made: bool
    """False: it was in the cache."""
    seconds: float
    key: dict[str, Any]
    """Everything that it depends on; empty where nothing is cached."""
    level: int | None = None
    """TensorRT: the builder optimisation level that was asked for last. The plan is the fastest of those
    built so far."""
    p50_ms: float | None = None
    """TensorRT: latency of the saved plan, measured when it was checked."""
    layers: PlanLayers | None = None
    """TensorRT: what the saved plan really does."""
    notes: tuple[str, ...] = ()
    """TensorRT: where the plan is not what the recipe asked for."""


def finalise(
    variant: Variant,
    cache: Path,
    *,
    limits: TensorRtSpec | None = None,
    level: int | None = None,
    timeout_s: float | None = None,
) -> Finalised:
    """The engine of this machine: from the cache, or made now.

    ``limits``: TensorRT versions, workspace and build time that are allowed (default: those of the variant's
    profile). ``level``: TensorRT builder optimisation level 0–5; None takes whatever plan is in the cache and
    builds at the quick level otherwise. ``timeout_s`` bounds each compile (default: the limits' build
    minutes).

    Raises :class:`ProfileError` (this TensorRT is outside the limits), :class:`EngineError` (compile failed,
    crashed, hung), :class:`GoldenError` (the saved engine computes something else), :class:`StorageError`
    (disk full). After an error the cache holds what it held before.
    """
    started = time.monotonic()
    model = variant.engine(cache)
    runtime, provider = variant.config.runtime, variant.config.session.provider
    if runtime == "tensorrt":
        limits = limits or _limits(variant.config.profile)
        entry = _plan_entry(variant, model, cache, limits)
        known = entry.read()
        # without the lock: a better plan may be in the making for minutes
        if known is not None and known["level"] >= (level or 0):
            return _Made(
                entry.path(known), known["level"], known["p50_ms"], made=False, layers=known["layers"]
            ).result(entry, started)
        with alone(cache, model):
            known = entry.read()
            if known is None or known["level"] < (level or 0):
                most_s = timeout_s or limits.build_minutes * 60.0
                wanted = _Wanted(
                    limits, QUICK_LEVEL if level is None else level, most_s, entry.key.get("dla")
                )
                return _compile(variant, entry, wanted, known).result(entry, started)
            return _Made(
                entry.path(known), known["level"], known["p50_ms"], made=False, layers=known["layers"]
            ).result(entry, started)
    if runtime == "tensorrt-rtx":
        made_by, found, made = rtx_engine(variant, model, cache, timeout_s)
        seconds = time.monotonic() - started
        return Finalised(
            made_by.path(found), "plan", made, seconds, made_by.key, p50_ms=float(found["p50_ms"])
        )
    # what ONNX Runtime optimised it writes as one file, which holds less than such weights
    large = variant.layer(LAYER_WEIGHTS) is not None
    if runtime == "onnxruntime" and provider == "cpu" and not large:
        key = {
            "onnxruntime": ort.__version__,
            "isa": list(probe().isa),
            "settings": variant.config.session.model_dump(),
        }
        with alone(cache, model):
            entry = CacheEntry.of(variant, model, cache, key, "onnx")
            known = entry.read()
            if known is None:
                return _Made(_optimise(variant, entry), made=True).result(entry, started)
            return _Made(entry.path(known), made=False).result(entry, started)
    return Finalised(model, "original", False, time.monotonic() - started, {})


def missing_plan(variant: Variant, cache: Path) -> dict[str, Any] | None:
    """The whole key of the TensorRT plan that :func:`finalise` would have to compile here; None if the cache
    has it.

    Raises :class:`ProfileError` and :class:`EngineError` like :func:`finalise`.
    """
    entry = _plan_entry(variant, variant.engine(cache), cache, _limits(variant.config.profile))
    return entry.key if entry.read() is None else None


def adopt_plan(variant: Variant, cache: Path, file: Path, plan: SharedPlan) -> None:
    """Take ``file``, which another device compiled under the same key, if it passes the check that a plan
    made here passes.

    To deserialise a plan is to run it: the caller knows who vouches for its digest. A plan that the cache has
    by now stays. Raises :class:`EngineError` (a plan for another key; it does not open),
    :class:`IntegrityError` (another digest), :class:`GoldenError`, :class:`StorageError`; the cache then has
    no plan, and the next :func:`finalise` compiles one.
    """
    model = variant.engine(cache)
    entry = _plan_entry(variant, model, cache, _limits(variant.config.profile))
    if entry.key != plan.key:
        raise EngineError("the shared plan is for another machine, TensorRT or model than this")
    with alone(cache, model):
        if entry.read() is not None:
            return
        entry.invalidate()
        with storage(str(cache)):
            work = tempfile.TemporaryDirectory(dir=cache, prefix=entry.scratch)
        with work as folder:
            copy = Path(folder) / "plan"
            with storage(str(file)):
                shutil.copyfile(file, copy)
                if file_digest(copy) != plan.digest:
                    raise IntegrityError("the shared plan is not what was signed")
            p50_ms, layers = _check(variant, copy)
            entry.commit(
                copy,
                f"{entry.stem}-{plan.level}.{entry.suffix}",
                level=plan.level,
                p50_ms=p50_ms,
                layers=layers,
            )


def _plan_entry(variant: Variant, model: Path, cache: Path, limits: TensorRtSpec) -> CacheEntry:
    """Where the plan of a variant lies on this machine. Raises :class:`ProfileError` if its TensorRT is
    outside the limits."""
    key = _identity()
    if not limits.covers(key["tensorrt"]):
        raise ProfileError(
            f"TensorRT {key['tensorrt']} is outside the range {limits.min} to {limits.max} of profile {variant.config.profile}",
            hint="take the fallback variant, or a profile that covers it",
        )
    if variant.config.recipe.family == "trt-dla":
        key["dla"] = limits.dla_core or 0
    return CacheEntry.of(variant, model, cache, key, "plan")


def _limits(profile: str) -> TensorRtSpec:
    return (load_profile(profile).tensorrt if profile in profile_names() else None) or _ANY_TENSORRT


@dataclass(frozen=True)
class _Wanted:
    limits: TensorRtSpec
    level: int
    timeout_s: float
    dla_core: int | None

    def arguments(self, variant: Variant) -> list[str]:
        """For the compiling child."""
        ranges = variant.layer(LAYER_RANGES)
        return [
            "--workspace-mb",
            str(self.limits.workspace_mb),
            "--level",
            str(self.level),
            *(["--sparse"] if "2:4" in variant.config.recipe.passes else []),
            *(["--dla-core", str(self.dla_core)] if self.dla_core is not None else []),
            *(["--ranges", str(ranges)] if ranges is not None else []),
        ]


def _identity() -> dict[str, Any]:
    """Everything that a plan depends on beside the model: exact TensorRT build, device, driver, L4T, power
    mode.

    Every Orin calls itself ``Orin``: the module and the number of multiprocessors tell a Nano from an AGX.
    """
    found = run_child(
        "edgectl.engines.finalise.trt_compile",
        ["--identify"],
        timeout_s=120.0,
        what="looking at the TensorRT of this device",
    )
    machine = probe()
    try:
        power = Path("/var/lib/nvpmodel/status").read_text().strip()
    except OSError:
        power = ""
    named = ("tensorrt", "device", "sm", "multiprocessors", "driver")
    return {**{k: found[k] for k in named}, "module": machine.jetson, "l4t": machine.l4t, "power": power}


@dataclass(frozen=True)
class _Made:
    path: Path
    level: int | None = None
    p50_ms: float | None = None
    made: bool = True
    layers: dict[str, int] | None = None

    def result(self, entry: CacheEntry, started: float) -> Finalised:
        kind: Literal["plan", "optimised", "original"]
        kind = "original" if self.path == entry.model else "plan" if entry.suffix == "plan" else "optimised"
        layers = PlanLayers(**self.layers) if self.layers is not None else None
        notes = _notes(layers, entry.recipe) if layers is not None else ()
        return Finalised(
            self.path,
            kind,
            self.made,
            time.monotonic() - started,
            entry.key,
            self.level,
            self.p50_ms,
            layers,
            notes,
        )


def _compile(variant: Variant, entry: CacheEntry, wanted: _Wanted, known: dict[str, Any] | None) -> _Made:
    """A new plan, beside the ``known`` one if there is one: that stays if it is the faster."""
    if known is None:
        entry.invalidate()
    with storage(str(entry.cache)):
        entry.sweep()
        work = tempfile.TemporaryDirectory(dir=entry.cache, prefix=entry.scratch)
    machine = {k: v for k, v in entry.key.items() if k not in ("model", "golden")}
    timings = entry.cache / f"timings-{key_hex(machine)[:16]}.bin"
    with work as folder:
        plan = Path(folder) / "plan"
        run_child(
            "edgectl.engines.finalise.trt_compile",
            [
                "--onnx",
                str(entry.model),
                "--plan",
                str(plan),
                "--timing-cache",
                str(timings),
                *wanted.arguments(variant),
            ],
            timeout_s=wanted.timeout_s,
            what="compiling the TensorRT plan",
            memory_mb=wanted.limits.memory_mb,
        )
        p50_ms, layers = _check(variant, plan)
        if known is not None and (before := _check(variant, entry.path(known))[0]) <= p50_ms:
            entry.record(
                **{k: v for k, v in known.items() if k != "key"} | {"level": wanted.level, "p50_ms": before}
            )
            return _Made(entry.path(known), wanted.level, before, layers=known["layers"])
        name = f"{entry.stem}-{wanted.level}.{entry.suffix}"
        path = entry.commit(plan, name, level=wanted.level, p50_ms=p50_ms, layers=layers)
        return _Made(path, wanted.level, p50_ms, layers=layers)


def _check(variant: Variant, plan: Path) -> tuple[float, dict[str, int]]:
    """Open a saved plan in a child, check it against the golden outputs. Returns its median latency in ms
    and its :class:`PlanLayers`."""
    reply = run_child(
        "edgectl.engines.finalise.trt_check",
        [str(variant.blobs), variant.digest, str(plan)],
        timeout_s=_CHECK_TIMEOUT_S,
        what="checking the saved TensorRT plan",
    )
    return float(reply["p50_ms"]), reply["layers"]


def _notes(layers: PlanLayers, recipe: Recipe) -> tuple[str, ...]:
    """Where a plan is not what its recipe asked for. Slow or heavy, not wrong: the golden check has
    passed."""
    notes = []
    if recipe.family == "trt-dla" and not layers.dla:
        notes.append("nothing of the plan runs on the DLA: everything fell back to the GPU")
    elif recipe.precision == "int8" and not layers.int8 and not layers.dla:
        notes.append("no layer of the plan computes in int8: its Q/DQ did not fuse")
    if layers.reformats * 4 > layers.total:
        notes.append(f"{layers.reformats} of {layers.total} layers only convert between formats")
    return tuple(notes)


def _optimise(variant: Variant, entry: CacheEntry) -> Path:
    entry.invalidate()
    settings = variant.config.session
    with storage(str(entry.cache)):
        work = tempfile.TemporaryDirectory(dir=entry.cache, prefix=entry.scratch)
    with work as folder:
        saved = Path(folder) / "model.onnx"
        try:
            OnnxRuntimeEngine(entry.model, settings, save_optimised=saved).close()
            fast = settings.model_copy(update={"optimization": "disabled"})
            engine = OnnxRuntimeEngine(saved, fast)
            check_golden(engine, variant)
            engine.close()
            helps = _open_seconds(saved, fast) < _open_seconds(entry.model, settings)
        except EdgectlError:
            # the file as it is is the sound choice; the warm-up judges it
            helps = False
        if helps:
            return entry.commit(saved, f"{entry.stem}.{entry.suffix}")
    entry.record(file="original")
    return entry.model


def _open_seconds(model: Path, settings: SessionSettings) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        OnnxRuntimeEngine(model, settings).close()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
