"""The folder of finalised engines is bounded by what is still wanted."""

from pathlib import Path

from tests.engines.conftest import MakeVariant

from edgectl.core.bundle import LAYER_ENGINE, SessionSettings
from edgectl.core.files import hex_of
from edgectl.engines.finalise.cache import forget_others
from edgectl.engines.finalise.entry import _SIBLINGS
from edgectl.engines.finalise.finalise import finalise


def test_engines_of_models_that_are_gone_go_and_timing_caches_stay(
    make_variant: MakeVariant, tmp_path: Path
) -> None:
    cache, variant = tmp_path / "cache", make_variant()
    kept = finalise(variant, cache)
    engine = next(d.digest for d in variant.manifest.layers if d.mediaType == LAYER_ENGINE)
    stay = {p.name for p in cache.iterdir()} | {"timings-0123456789abcdef.bin", "note"}
    gone = {
        "0123456789abcdef-0123456789abcdef-3.plan",
        "0123456789abcdef-0123456789abcdef.json",
        ".lock-0123456789abcdef",
    }
    for name in ("timings-0123456789abcdef.bin", "note", *gone):
        (cache / name).write_bytes(b"123")
    assert forget_others(cache, [engine]) == 3 * len(gone)
    assert {p.name for p in cache.iterdir()} == stay
    assert finalise(variant, cache).path == kept.path
    assert not finalise(variant, cache).made
    assert forget_others(tmp_path / "none", []) == 0
    forget_others(cache, [])
    assert not any(p.name.startswith(hex_of(engine)[:16]) for p in cache.iterdir())


def test_variants_that_share_a_model_keep_their_engines_beside_each_other(
    make_variant: MakeVariant, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    variants = [make_variant(session=SessionSettings(threads=t)) for t in range(1, _SIBLINGS + 4)]
    assert all(finalise(v, cache).made for v in variants[:2])
    assert not any(finalise(v, cache).made for v in variants[:2])
    for v in variants[2:]:
        finalise(v, cache)
    assert len(list(cache.glob("*.json"))) == _SIBLINGS + 1  # bounded
    assert not finalise(variants[-1], cache).made
