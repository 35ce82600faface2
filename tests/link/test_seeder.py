"""The seeder's shell without a broker: what a need from the outside may do to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from support.fleet import wait_until

from edgectl.core.bundle import CHUNK_SIZE
from edgectl.core.errors import EdgectlError
from edgectl.core.files import digest_of
from edgectl.core.transfer import DeltaOffer, Need
from edgectl.core.wire import Topics
from edgectl.link.mqtt import BrokerOptions
from edgectl.link.seeder import BlobSeeder

DATA = bytes(range(256)) * (3 * CHUNK_SIZE // 256)
DIGEST = digest_of(DATA)
TOPICS = Topics("home")


class OneBlob:
    def find(self, prefix: str) -> str | None:
        return DIGEST if DIGEST.removeprefix("sha256:").startswith(prefix) else None

    def size(self, digest: str) -> int:
        return len(DATA)

    def chunk(self, digest: str, index: int) -> bytes:
        return DATA[index * CHUNK_SIZE :][:CHUNK_SIZE]

    def hashes(self, digest: str) -> tuple[int, Sequence[bytes]]:
        raise EdgectlError("nobody asks for pages here")

    def deltas(self, digest: str) -> tuple[DeltaOffer, ...]:
        return ()


class Wire:
    def __init__(self) -> None:
        self.topics: list[str] = []

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> None:
        self.topics.append(topic)

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def seeder() -> Iterator[BlobSeeder]:
    made = BlobSeeder(BrokerOptions("127.0.0.1"), TOPICS, OneBlob())
    made._link = Wire()  # type: ignore[assignment]
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize("name", ["UPPER", "x" * 65, "ä", ""])
def test_need_from_a_name_that_is_none_ends_nothing(seeder: BlobSeeder, name: str) -> None:
    """What goes to one device goes to a topic with its name: the thread must not end over one that is
    none."""
    wire = seeder._link
    assert isinstance(wire, Wire)
    need = Need.of([1], len(DATA), epoch=1).model_copy(update={"apart": True})
    topic = TOPICS.need(DIGEST, "gate-1")
    seeder._on_need(topic.replace("gate-1", name), need.encode())
    seeder._on_need(topic, need.encode())
    wait_until(lambda: TOPICS.repair(DIGEST, "gate-1") in wire.topics, "the repair of the other one", 5)
    assert seeder.alive
