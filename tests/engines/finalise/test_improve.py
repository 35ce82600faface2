"""A better plan, built in a child: once, and only where there is one to build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engines.conftest import MakeVariant

from edgectl.core.errors import EngineError
from edgectl.engines.finalise.finalise import finalise
from edgectl.engines.finalise.improve import BEST_LEVEL, improve

Configure = Callable[..., None]


def test_the_best_level_is_built_once_and_the_answer_says_whether_the_plan_changed(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    quick = finalise(variant, cache)
    better = improve(variant.blobs, variant.digest, cache)
    after = finalise(variant, cache)
    assert after.level == BEST_LEVEL
    # the double's two plans are alike: chance says which one is the faster
    assert better == (after.path != quick.path)
    trt_double(build=1)  # another build would fail
    assert not improve(variant.blobs, variant.digest, cache)


def test_other_runtimes_have_nothing_to_build(make_variant: MakeVariant, tmp_path: Path) -> None:
    variant = make_variant()
    assert not improve(variant.blobs, variant.digest, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_build_that_fails_leaves_the_plan_in_use(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    quick = finalise(variant, cache)
    trt_double(crash=1)
    with pytest.raises(EngineError, match="SIGSEGV"):
        improve(variant.blobs, variant.digest, cache)
    assert finalise(variant, cache).path == quick.path
