"""The device's side of TensorRT-RTX over a double: the bundle's engine where it fits, else one that is made here; nothing
counts that has not reproduced the golden outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engines.conftest import MakeVariant, small_model

from edgectl.core.bundle import LAYER_RTX, AheadOfTime, Variant
from edgectl.core.errors import EngineError, GoldenError
from edgectl.engines.finalise.finalise import Finalised, finalise

Configure = Callable[..., None]
SHIPPED = b"RTX 1.7.1.116\n" + small_model()
"""As the double's compiler makes it."""


@pytest.fixture
def rtx_double(trt_double: Configure, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Set version and faults of the double in child processes."""

    def configure(**faults: object) -> None:
        monkeypatch.setenv("RTX_DOUBLE", json.dumps(faults))

    configure()
    return configure


@pytest.fixture
def variant(make_variant: MakeVariant, rtx_double: Configure) -> Variant:
    """With an engine for the double's GPU."""
    return shipping(make_variant)


def shipping(make_variant: MakeVariant, sm: str = "8.7", engine: bytes = SHIPPED, **more: object) -> Variant:
    ahead = AheadOfTime(compiler="TensorRT-RTX 1.7.1.116", sm=(sm,))
    return make_variant(runtime="tensorrt-rtx", ahead=ahead, layers=((LAYER_RTX, engine),), **more)


def written(cache: Path) -> list[str]:
    return sorted(p.suffix for p in cache.iterdir() if not p.name.startswith(".lock"))


def made(variant: Variant, cache: Path) -> tuple[Finalised, bytes]:
    final = finalise(variant, cache)
    return final, final.path.read_bytes()


def test_the_engine_of_the_bundle_is_checked_and_kept_with_what_was_compiled_for_this_gpu(
    variant: Variant, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    final, engine = made(variant, cache)
    assert (final.made, final.kind, engine) == (True, "plan", SHIPPED)
    assert final.key["tensorrt-rtx"] == "1.7.1.116"
    assert final.p50_ms is not None
    assert written(cache) == [".json", ".rtx", ".runtime-cache"]
    assert final.path.with_suffix(".runtime-cache").read_bytes().startswith(b"cache")
    again, _ = made(variant, cache)
    assert (again.made, again.path) == (False, final.path)


@pytest.mark.parametrize("what", ["another version", "another GPU", "a damaged engine", "none in the bundle"])
def test_where_it_does_not_fit_one_is_compiled_here(
    make_variant: MakeVariant, rtx_double: Configure, tmp_path: Path, what: str
) -> None:
    if what == "another version":
        rtx_double(version="1.9.0.1")
    variant = {
        "another version": lambda: shipping(make_variant),
        "another GPU": lambda: shipping(make_variant, sm="12.0"),
        "a damaged engine": lambda: shipping(make_variant, engine=SHIPPED[:-64]),
        "none in the bundle": lambda: make_variant(runtime="tensorrt-rtx"),
    }[what]()
    final, engine = made(variant, tmp_path / "cache")
    assert final.made
    version = "1.9.0.1" if what == "another version" else "1.7.1.116"
    assert engine == f"RTX {version}\n".encode() + small_model()


def test_another_version_of_the_runtime_is_another_engine(
    variant: Variant, rtx_double: Configure, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    made(variant, cache)
    rtx_double(version="1.9.0.1")
    final, _ = made(variant, cache)
    assert final.made
    assert written(cache) == [".json", ".rtx", ".runtime-cache"]


@pytest.mark.parametrize("fault", ["deserialize", "context", "execute", "crash"])
def test_a_runtime_that_fails_leaves_nothing_in_the_cache(
    variant: Variant, rtx_double: Configure, tmp_path: Path, fault: str
) -> None:
    rtx_double(**{fault: 1})
    with pytest.raises(EngineError):
        finalise(variant, tmp_path / "cache")
    assert written(tmp_path / "cache") == []


def test_an_engine_that_computes_something_else_never_counts(
    variant: Variant, rtx_double: Configure, tmp_path: Path
) -> None:
    rtx_double(wrong=1)
    with pytest.raises(GoldenError):
        finalise(variant, tmp_path / "cache")
    assert written(tmp_path / "cache") == []


def test_a_graph_that_the_compiler_refuses_on_the_device_says_why(
    make_variant: MakeVariant, rtx_double: Configure, tmp_path: Path
) -> None:
    rtx_double(refuses=1)
    with pytest.raises(EngineError, match=r"refused by TensorRT-RTX .* at relu: Frobnicate: no importer"):
        finalise(make_variant(runtime="tensorrt-rtx"), tmp_path / "cache")
