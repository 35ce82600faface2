"""Turn a variant into the engine that this very device runs, and keep it in a cache.

CPU: the graph that ONNX Runtime made of the file, saved, if it opens faster and still passes the golden check; otherwise the
file as it is. TensorRT: a plan, compiled in a child process (nothing native runs in the caller), saved, and then *the saved
file* is checked against the golden outputs in another child before it gets its name in the cache.

On disk: ``<model 16 hex>-<key 16 hex>.{onnx,plan}`` and beside it ``….json`` with the whole key and the file's digest. A file
without its JSON, or with another digest or key, is a miss. Kill at any point leaves the cache as it was, or with a temporary.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgectl.core.bundle import LAYER_ENGINE, SessionSettings, Variant
from edgectl.core.errors import EdgectlError
from edgectl.core.files import atomic_write, digest_of, file_digest, fsync_dir, hex_of, storage
from edgectl.device_profiles.probe import probe
from edgectl.engines.child import run_child
from edgectl.engines.golden import check_golden
from edgectl.engines.onnxruntime import OnnxRuntimeEngine

__all__ = ["finalise"]

_CHECK_TIMEOUT_S = 300.0


def finalise(variant: Variant, cache: Path, *, timeout_s: float = 1800.0, workspace_mb: int = 1024, level: int = 3) -> Path:
    """The file that the runtime of this machine opens: from the cache, or made now.

    ``timeout_s`` bounds the TensorRT compile. Raises :class:`EngineError` (compile failed, crashed, hung),
    :class:`GoldenError` (the saved engine computes something else), :class:`StorageError` (disk full). After an error the
    cache holds what it held before.
    """
    model = variant.need(LAYER_ENGINE)
    runtime, provider = variant.config.runtime, variant.config.session.provider
    if runtime == "tensorrt":
        key = {**_identity(), "workspace_mb": workspace_mb, "level": level}
        with _alone(cache):
            return _cached(variant, model, cache, key, ".plan") or _compile(variant, model, cache, key, timeout_s)
    if runtime == "onnxruntime" and provider == "cpu":
        key = {"onnxruntime": ort.__version__, "isa": list(probe().isa), "settings": variant.config.session.model_dump()}
        with _alone(cache):
            return _cached(variant, model, cache, key, ".onnx") or _optimise(variant, model, cache, key)
    return model


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One finaliser per cache at a time, whatever the process: two slots may get the same model. The lock dies with its holder."""
    with storage(str(cache)):
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".lock").open("wb")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _identity() -> dict[str, Any]:
    """Everything that a plan depends on beside the model: exact TensorRT build, device, driver, L4T, power mode."""
    found = run_child(
        "edgectl.engines.trt_compile", ["--identify"], timeout_s=120.0, what="looking at the TensorRT of this device"
    )
    machine = probe()
    try:
        power = Path("/var/lib/nvpmodel/status").read_text().strip()
    except OSError:
        power = ""
    return {**{k: found[k] for k in ("tensorrt", "device", "sm", "driver")}, "l4t": machine.l4t, "power": power}


def _stem(variant: Variant, model: Path, key: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """File name without suffix, and the whole key: what the machine is, the model's digest and the golden outputs it must meet."""
    whole = {**key, "model": model.name, "golden": variant.digest}
    return f"{model.name[:16]}-{hex_of(digest_of(json.dumps(whole, sort_keys=True).encode()))[:16]}", whole


def _cached(variant: Variant, model: Path, cache: Path, key: dict[str, Any], suffix: str) -> Path | None:
    stem, whole = _stem(variant, model, key)
    try:
        record = json.loads((cache / f"{stem}.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("key") != whole:
        return None
    if record.get("file") == "original":
        return model
    path = cache / f"{stem}{suffix}"
    return path if path.is_file() and file_digest(path) == record.get("digest") else None


def _compile(variant: Variant, model: Path, cache: Path, key: dict[str, Any], timeout_s: float) -> Path:
    stem, whole = _stem(variant, model, key)
    final = cache / f"{stem}.plan"
    with storage(str(cache)):
        _invalidate(cache, stem)
        work = tempfile.TemporaryDirectory(dir=cache, prefix=".compile-")
    timings = cache / f"timings-{hex_of(digest_of(json.dumps(key, sort_keys=True).encode()))[:16]}.bin"
    with work as folder:
        plan = Path(folder) / "plan"
        run_child(
            "edgectl.engines.trt_compile",
            ["--onnx", str(model), "--plan", str(plan), "--timing-cache", str(timings),
             "--workspace-mb", str(key["workspace_mb"]), "--level", str(key["level"])],
            timeout_s=timeout_s, what="compiling the TensorRT plan",
        )  # fmt: skip
        run_child(
            "edgectl.engines.warm", [str(variant.blobs), variant.digest, "--plan", str(plan), "--runs", "1"],
            timeout_s=_CHECK_TIMEOUT_S, what="checking the saved TensorRT plan",
        )  # fmt: skip
        digest = file_digest(plan)
        _commit(plan, final, whole, digest)
    return final


def _optimise(variant: Variant, model: Path, cache: Path, key: dict[str, Any]) -> Path:
    stem, whole = _stem(variant, model, key)
    final = cache / f"{stem}.onnx"
    settings = variant.config.session
    with storage(str(cache)):
        _invalidate(cache, stem)
        work = tempfile.TemporaryDirectory(dir=cache, prefix=".optimise-")
    with work as folder:
        saved = Path(folder) / "model.onnx"
        try:
            OnnxRuntimeEngine(model, settings, save_optimised=saved).close()
            fast = settings.model_copy(update={"optimization": "disabled"})
            engine = OnnxRuntimeEngine(saved, fast)
            check_golden(engine, variant)
            engine.close()
            helps = _open_seconds(saved, fast) < _open_seconds(model, settings)
        except EdgectlError:
            helps = False  # the file as it is is the sound choice; the warm-up judges it
        if helps:
            _commit(saved, final, whole, file_digest(saved))
            return final
    atomic_write(cache / f"{stem}.json", json.dumps({"key": whole, "file": "original"}).encode())
    return model


def _open_seconds(model: Path, settings: SessionSettings) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        OnnxRuntimeEngine(model, settings).close()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _invalidate(cache: Path, stem: str) -> None:
    """Before a new engine of a model is made, its older ones go: other version, other driver, or a torn write of this one."""
    for old in cache.glob(f"{stem.split('-')[0]}-*"):
        old.unlink(missing_ok=True)
    for torn in (*cache.glob(".compile-*"), *cache.glob(".optimise-*")):
        for file in torn.iterdir():
            file.unlink(missing_ok=True)
        torn.rmdir()


def _commit(temporary: Path, final: Path, key: dict[str, Any], digest: str) -> None:
    """Name the engine, durably; the JSON beside it comes last and is what makes it valid."""
    with storage(str(final)):
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(final)
        fsync_dir(final.parent)
    atomic_write(final.with_suffix(".json"), json.dumps({"key": key, "file": final.name, "digest": digest}).encode())
