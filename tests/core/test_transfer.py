"""The transfer protocol against a network that loses, repeats, reorders and corrupts."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.bundle import ANNOTATION_CHUNKS, CHUNK_SIZE, Descriptor
from edgectl.core.errors import EdgectlError, IntegrityError, ProtocolError
from edgectl.core.files import digest_of
from edgectl.core.transfer import (
    Broadcast,
    ChunkFrame,
    DeltaOffer,
    Marker,
    Need,
    Receiver,
    Repair,
    Round,
    Seeder,
    Sum,
    chunk_hashes,
    chunks_digest,
    decode_frame,
    encode_frame,
    pages_of,
    sum_chunks,
)


def describe(data: bytes, *, annotated: bool = True) -> Descriptor:
    hashes = chunk_hashes(data)
    annotations = {ANNOTATION_CHUNKS: chunks_digest(hashes)} if annotated and len(hashes) > 1 else {}
    return Descriptor(mediaType="x/y", digest=digest_of(data), size=len(data), annotations=annotations)


def blob(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def chunk_of(data: bytes, index: int) -> bytes:
    return data[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]


def frame_of(digest: str, data: bytes, send: Broadcast | Sum | Repair) -> bytes:
    if isinstance(send, Sum):
        return encode_frame(digest, send.indices, sum_chunks([chunk_of(data, i) for i in send.indices]))
    return encode_frame(digest, send.index, chunk_of(data, send.index))


@dataclass
class Device:
    receiver: Receiver
    data: bytearray
    from_s: float = 0.0
    rejected: int = 0
    told: bool = False

    @property
    def done(self) -> bool:
        return self.receiver.complete


def simulate(
    data: bytes, devices: int, loss: float, chaos: random.Random, *, late: int = 0, reorder: bool = True
) -> tuple[list[Device], Seeder, float]:
    """Run seeder and devices in simulated time until all are complete. Pages, needs and markers suffer
    like chunks."""
    d = describe(data)
    pages = [p.encode() for p in pages_of(d.digest, len(data), chunk_hashes(data))]
    seeder = Seeder(size=len(data))
    fleet = [
        Device(
            Receiver(d, 20.0 * (i < late), epoch=1, seed=i), bytearray(len(data)), from_s=20.0 * (i < late)
        )
        for i in range(devices)
    ]
    now, flight = 0.0, list[tuple[float, int, str, bytes]]()

    def send(to: int, kind: str, payload: bytes) -> None:
        for _ in range(1 + (chaos.random() < loss)):
            if chaos.random() >= loss:
                if chaos.random() < loss and kind != "need":
                    at = chaos.randrange(len(payload))
                    payload = (
                        payload[:at] + bytes([payload[at] ^ 1 << chaos.randrange(8)]) + payload[at + 1 :]
                    )
                flight.append((now + (chaos.random() * 0.3 if reorder else 0.1), to, kind, payload))

    for i in range(devices):
        send(i, "page", pages[0])
    while not all(x.done for x in fleet):
        now += 0.02
        assert now < 600, f"not finished: {[x.receiver.have for x in fleet]} of {fleet[0].receiver.n}"
        for i, x in enumerate(fleet):
            if now >= x.from_s and (need := x.receiver.poll(now)):
                send(i, "need", need.encode())
        for _ in range(40):
            action = seeder.next(now)
            if action is None:
                break
            targets = [i for i, x in enumerate(fleet) if now >= x.from_s]
            if isinstance(action, Marker):
                for i in targets:
                    send(i, "round", action.round.encode())
                    if action.pages:
                        send(i, "page", pages[0])
                continue
            for i in [int(action.device)] if isinstance(action, Repair) else targets:
                send(i, "chunk", frame_of(d.digest, data, action))
        arrived = [f for f in flight if f[0] <= now]
        flight[:] = [f for f in flight if f[0] > now]
        for _, to, kind, payload in arrived:
            x = fleet[to]
            try:
                if kind == "need":
                    seeder.on_need(str(to), Need.parse(payload), now)
                elif kind == "page":
                    x.receiver.on_page(payload)
                elif kind == "round":
                    x.receiver.on_round(Round.model_validate_json(payload), now)
                elif chunk := x.receiver.on_frame(payload, partial(chunk_of, bytes(x.data))):
                    x.data[chunk[0] * CHUNK_SIZE : chunk[0] * CHUNK_SIZE + len(chunk[1])] = chunk[1]
            except (EdgectlError, ValueError):
                x.rejected += 1
            if x.done and not x.told:
                x.told = True
                send(to, "need", x.receiver.done().encode())
    return fleet, seeder, now


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.integers(2, 40),
    tail=st.integers(1, CHUNK_SIZE),
    devices=st.integers(1, 6),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    seed=st.integers(0, 2**32),
)
def test_every_device_ends_with_the_exact_bytes(
    chunks: int, tail: int, devices: int, loss: float, seed: int
) -> None:
    data = blob((chunks - 1) * CHUNK_SIZE + tail, seed)
    fleet, _, _ = simulate(data, devices, loss, random.Random(seed))
    assert all(bytes(x.data) == data for x in fleet)


def test_one_broadcast_serves_all_devices_of_a_clean_network() -> None:
    data = blob(50 * CHUNK_SIZE)
    _, seeder, _ = simulate(data, 20, 0.0, random.Random(1))
    assert seeder.sent == 50


def test_a_late_joiner_costs_its_own_copy_only() -> None:
    data = blob(50 * CHUNK_SIZE)
    _, seeder, _ = simulate(data, 10, 0.0, random.Random(1), late=1, reorder=False)
    assert seeder.sent == 100


def test_one_percent_loss_costs_little() -> None:
    data = blob(60 * CHUNK_SIZE)
    _, seeder, _ = simulate(data, 16, 0.01, random.Random(3), reorder=False)
    assert seeder.sent < 60 * 1.6, f"sent {seeder.sent} of 60"


def sends(seeder: Seeder, now: float, *, until: int = 10_000) -> list[Broadcast | Sum | Repair | Marker]:
    """Everything that there is to send at ``now``, but the word that a round goes on."""
    found: list[Broadcast | Sum | Repair | Marker] = []
    while len(found) < until and (action := seeder.next(now)):
        if not (isinstance(action, Marker) and action.round.sending and action.device is None):
            found.append(action)
    return found


def test_what_different_devices_miss_goes_out_as_one_sum_and_the_rest_to_whom_it_concerns() -> None:
    seeder = Seeder(size=10 * CHUNK_SIZE)
    for d in ("a", "b", "c"):
        seeder.on_need(d, Need.of(range(10), seeder.size, epoch=1), 0.0)
    assert sends(seeder, 0.05) == [], "it collects first"
    first = sends(seeder, 0.6)
    assert first == [*map(Broadcast, range(10)), Marker(Round(round=1, sent=10))]
    seeder.on_need("a", Need.of([3, 5], seeder.size, epoch=1, round=1), 0.7)
    seeder.on_need("b", Need.of([3, 4, 6], seeder.size, epoch=1, round=1), 0.7)
    assert sends(seeder, 0.71) == [], "c has not spoken yet"
    seeder.on_need("c", Need.of([], seeder.size, epoch=1, round=1), 0.72)
    assert seeder.active == 2
    assert sends(seeder, 0.73) == [Broadcast(3), Sum((4, 5)), Repair("b", 6), Marker(Round(round=2, sent=3))]


def test_a_slow_device_is_set_apart_and_does_not_slow_the_rest() -> None:
    seeder = Seeder(size=200 * CHUNK_SIZE)
    for d in (names := ["a", "b", "c", "slow"]):
        seeder.on_need(d, Need.of(range(200), seeder.size, epoch=1), 0.0)
    assert len(sends(seeder, 1.0)) == 201
    for d in names[:3]:
        seeder.on_need(d, Need.of([7], seeder.size, epoch=1, round=1), 1.1)
    seeder.on_need("slow", Need.of(range(20, 200), seeder.size, epoch=1, round=1), 1.1)
    found = sends(seeder, 1.2)
    assert [s for s in found if isinstance(s, Broadcast)] == [Broadcast(7)]
    (told,) = (m for m in found if isinstance(m, Marker) and m.round.apart)
    assert told.device == "slow"
    apart = {"apart": True, "round": told.round.round}
    assert not [s for s in found if isinstance(s, Repair)], "it still hears the broadcast"
    seeder.on_need("slow", Need.of(range(20, 200), seeder.size, epoch=1).model_copy(update=apart), 1.3)
    found = sends(seeder, 1.3)
    assert found[:-1] == [Repair("slow", i) for i in range(20, 148)]
    end = found[-1]
    assert isinstance(end, Marker)
    seeder.on_need("slow", Need.of(range(84, 200), seeder.size, epoch=1).model_copy(update=apart), 1.4)
    assert sends(seeder, 1.4) == [], "a need that crossed the batch on the way asks for nothing new"
    now = Need.of([99, *range(148, 200)], seeder.size, epoch=1, round=end.round.round).model_copy(
        update={"apart": True}
    )
    seeder.on_need("slow", now, 1.5)
    assert sends(seeder, 1.5)[:-1] == [Repair("slow", i) for i in (99, *range(148, 200))]


def test_a_device_that_left_is_forgotten() -> None:
    seeder = Seeder(size=2 * CHUNK_SIZE)
    seeder.on_need("a", Need.of([0, 1], seeder.size, epoch=1), 0.0)
    assert len(sends(seeder, 1.0)) == 3
    for t in range(2, 40):
        seeder.next(float(t))
    assert seeder.active == 0
    assert seeder.wake_at(40.0) is None


def test_a_late_message_of_an_earlier_start_is_ignored() -> None:
    seeder = Seeder(size=4 * CHUNK_SIZE)
    seeder.on_need("a", Need.of([3], seeder.size, epoch=5), 0.0)
    seeder.on_need("a", Need.of([0, 1, 2], seeder.size, epoch=4), 0.1)
    assert sends(seeder, 1.0)[0] == Broadcast(3)


def test_every_single_flipped_bit_of_a_chunk_is_refused() -> None:
    data = blob(CHUNK_SIZE + 100)
    d = describe(data)
    receiver = Receiver(d, 0.0, epoch=1)
    receiver.on_page(pages_of(d.digest, d.size, chunk_hashes(data))[0].encode())
    frame = encode_frame(d.digest, 1, data[CHUNK_SIZE:])
    for bit in range(8 * len(frame)):
        wrong = bytearray(frame)
        wrong[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(IntegrityError, ProtocolError):
            assert receiver.on_frame(bytes(wrong)) is None
    assert receiver.have == 0
    assert receiver.on_frame(frame) == (1, data[CHUNK_SIZE:])


def test_a_chunk_list_that_is_not_the_signed_one_is_refused() -> None:
    data, other = blob(3 * CHUNK_SIZE), blob(3 * CHUNK_SIZE, 2)
    d = describe(data)
    receiver = Receiver(d, 0.0, epoch=1)
    with pytest.raises(IntegrityError, match="not the signed one"):
        receiver.on_page(pages_of(d.digest, d.size, chunk_hashes(other))[0].encode())
    assert receiver.hashes is None
    receiver.on_page(pages_of(d.digest, d.size, chunk_hashes(data))[0].encode())
    assert receiver.hashes is not None


def test_a_blob_of_many_pages_is_assembled_in_any_order() -> None:
    hashes = [bytes([i % 256, i // 256]) + bytes(30) for i in range(2100)]
    size = 2100 * CHUNK_SIZE - 5
    d = Descriptor(
        mediaType="x",
        digest=digest_of(b"x"),
        size=size,
        annotations={ANNOTATION_CHUNKS: chunks_digest(hashes)},
    )
    receiver = Receiver(d, 0.0, epoch=1)
    offers = tuple(
        DeltaOffer(base=digest_of(b"%d" % k), digest=digest_of(b"d%d" % k), size=size - k - 1)
        for k in range(8)
    )
    pages = pages_of(d.digest, size, hashes, deltas=offers)
    assert [p.page for p in pages] == receiver.page_numbers()
    for page in reversed(pages):
        receiver.on_page(page.encode())
    assert receiver.deltas == offers, "a full page has room for as many as there may be"
    assert receiver.hashes == tuple(hashes)


def test_sizes_beyond_32_bits_survive() -> None:
    size = 5 << 30
    n = size // CHUNK_SIZE
    need = Need.of([0, n - 1], size, epoch=1)
    assert Need.parse(need.encode()).indices() == {0, n - 1}
    frame = decode_frame(encode_frame(digest_of(b"x"), n - 1, b"z"), digest_of(b"x"))
    assert frame == ChunkFrame((n - 1,), b"z")


def test_small_blob_comes_inline_and_is_verified() -> None:
    data = blob(1000)
    d = describe(data)
    page = pages_of(d.digest, d.size, chunk_hashes(data), inline=data)[0]
    receiver = Receiver(d, 0.0, epoch=1)
    assert receiver.on_page(page.encode()) == data
    assert receiver.complete
    wrong = pages_of(d.digest, d.size, [], inline=blob(1000, 9))[0]
    with pytest.raises(IntegrityError):
        Receiver(d, 0.0, epoch=1).on_page(wrong.encode())


def test_a_whole_that_does_not_match_starts_again() -> None:
    data = blob(2 * CHUNK_SIZE)
    d = describe(data, annotated=False)
    wrong = blob(2 * CHUNK_SIZE, 7)
    receiver = Receiver(d, 0.0, epoch=1)
    receiver.on_page(pages_of(d.digest, d.size, chunk_hashes(wrong))[0].encode())
    for i in range(2):
        assert receiver.on_frame(encode_frame(d.digest, i, wrong[i * CHUNK_SIZE : (i + 1) * CHUNK_SIZE]))
    assert receiver.complete
    receiver.forget(1.0)
    assert not receiver.complete
    need = receiver.poll(1.0)
    assert need is not None
    assert need.pages


def test_a_feeder_of_rubbish_is_given_up() -> None:
    data = blob(100)
    d = describe(data)
    receiver = Receiver(d, 0.0, epoch=1)
    for _ in range(65):
        with pytest.raises(IntegrityError):
            receiver.on_frame(encode_frame(d.digest, 0, bytes(100)))
    assert receiver.hopeless


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parsers(data: bytes) -> None:
    d = describe(blob(3 * CHUNK_SIZE))
    receiver = Receiver(d, 0.0, epoch=1)
    for parse in (receiver.on_page, receiver.on_frame, Need.parse):
        with pytest.raises(EdgectlError):
            parse(data)


@given(st.integers(1, 200), st.data())
def test_need_round_trips_any_set(chunks: int, data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.integers(0, chunks - 1)))
    need = Need.of(missing, chunks * CHUNK_SIZE, epoch=3)
    assert Need.parse(need.encode()).indices() == missing


def test_a_bitmap_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Need.of([8], 9 * CHUNK_SIZE, epoch=1).model_copy(update={"size": 8 * CHUNK_SIZE}).indices()
    with pytest.raises(ProtocolError):
        Seeder(size=CHUNK_SIZE).on_need("a", Need.of([0], 2 * CHUNK_SIZE, epoch=1), 0.0)


def test_what_a_peer_sends_counts_against_that_peer_only() -> None:
    data = blob(3 * CHUNK_SIZE)
    d = describe(data)
    receiver = Receiver(d, 0.0, epoch=1, site="yard")
    page = pages_of(d.digest, d.size, chunk_hashes(data))[0].encode()
    assert receiver.on_page(page, "unknown") is None
    assert receiver.hashes is None, "nobody announced that peer"
    assert not receiver.on_round(Round(round=1, sending=True, site="road"), 0.0, "other")
    for peer in ("bad", "good"):
        assert receiver.on_round(Round(round=1, sending=True, site="yard"), 0.0, peer), "listen to it"
        assert not receiver.on_round(Round(round=1, sending=True, site="yard"), 0.0, peer), "once"
    wrong = pages_of(d.digest, d.size, chunk_hashes(blob(3 * CHUNK_SIZE, 9)))[0].encode()
    for junk in (wrong, wrong, b"{}", b"junk"):
        with pytest.raises(EdgectlError):
            receiver.on_page(junk, "bad")
    receiver.on_page(page, "good")
    assert receiver.hashes is not None
    for _ in range(4):
        with pytest.raises(EdgectlError):
            receiver.on_frame(encode_frame(d.digest, 0, bytes(CHUNK_SIZE)), None, "bad")
    assert not receiver.trusts("bad")
    assert receiver.on_frame(encode_frame(d.digest, 0, chunk_of(data, 0)), None, "bad") is None
    assert receiver.on_frame(encode_frame(d.digest, 0, chunk_of(data, 0)), None, "good") is not None
    assert receiver.rejected == 0
    assert not receiver.hopeless
