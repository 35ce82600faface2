"""Whatever operators, devices, broker and controller do in whatever order: every rollout ends, and says
what is so."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.device import Catalogue
from support.rollouts import Sequence, catalogue


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    there = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=there if there.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def releases(memory: Path) -> Catalogue:
    return catalogue(memory)


@pytest.mark.parametrize("seed", range(8))
def test_every_rollout_ends_in_a_state_that_is_true_of_every_device(
    memory: Path, releases: Catalogue, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    Sequence(memory / str(seed), releases, seed, monkeypatch).run()
