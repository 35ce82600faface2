"""A repository in memory, a device enrolled with its root; a slot and what its deployer calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deployer import World
from support.tuf import DIGEST, RELEASE, Device, Repository


@pytest.fixture
def repository() -> Repository:
    made = Repository()
    made.name(RELEASE)
    return made


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> Iterator[Device]:
    made = Device(tmp_path, repository)
    yield made
    made.journal.close()


@pytest.fixture
def served(device: Device, repository: Repository) -> Device:
    """A device that has verified the first set."""
    device.store.update(repository.message())
    assert device.store.check(RELEASE, DIGEST).size == 100
    return device


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.stop()
    world.journal.close()
