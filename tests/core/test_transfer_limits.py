"""Who is served how fast: token buckets, the window over the median, and peers that keep silent."""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.bundle import CHUNK_SIZE
from edgectl.core.errors import ProtocolError
from edgectl.core.files import digest_of
from edgectl.core.transfer import (
    MAX_SUM,
    Broadcast,
    Bucket,
    ManifestPage,
    Marker,
    Need,
    Rates,
    Repair,
    Round,
    Seeder,
    Sum,
    Suppression,
    TransferLimits,
    bitmap,
    decode_frame,
    encode_frame,
    indices_of,
)

MIB = 1 << 20


def need(missing: object, n: int, **fields: object) -> Need:
    return Need.of(missing, n * CHUNK_SIZE, epoch=1).model_copy(update=fields)  # type: ignore[arg-type]


def play(seeder: Seeder, until: float, on_send: Callable[[float, object], None], step: float = 0.01) -> None:
    """Simulated time; ``on_send`` may answer with needs."""
    for k in range(int(until / step)):
        now = k * step
        while (action := seeder.next(now)) is not None:
            on_send(now, action)
            assert not seeder.active or seeder.wake_at(now) is not None
        assert (at := seeder.wake_at(now)) is None or at >= now


@given(st.floats(1e4, 1e9), st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, CHUNK_SIZE)), max_size=60))
def test_bucket_never_gives_more_than_its_rate_and_one_burst(
    rate: float, asks: list[tuple[float, int]]
) -> None:
    bucket, now, sent = Bucket(rate, 0.0), 0.0, 0
    for pause, size in asks:
        now += pause
        if bucket.ready_at(now) <= now:
            bucket.take(now, size)
            sent += size
        assert sent <= rate * now + 5 * CHUNK_SIZE + 1


@pytest.mark.parametrize(
    ("rates", "sites", "expected"),
    [
        (Rates(total=MIB), ["n", "n", "s"], 1.0),
        (Rates(device=MIB), ["n", "n", "s"], 1.0),
        (Rates(site=MIB), ["n", "n", "s"], 0.5),  # two copies enter site n
        (Rates(site=MIB, site_broker=True), ["n", "n", "s"], 1.0),
    ],
    ids=["total", "device", "site", "site with a broker"],
)
def test_broadcast_is_paced_by_the_tightest_limit(rates: Rates, sites: list[str], expected: float) -> None:
    n = 400
    seeder = Seeder(size=n * CHUNK_SIZE, limits=TransferLimits(rates))
    for i, site in enumerate(sites):
        seeder.on_need(f"d{i}", need(range(n), n, site=site), 0.0)
    sent: list[int] = []

    def on_send(now: float, action: object) -> None:
        if isinstance(action, Broadcast):
            sent.append(action.index)
            if len(sent) % 64 == 0:
                for i, site in enumerate(sites):
                    seeder.on_need(f"d{i}", need(range(len(sent), n), n, site=site), now)

    play(seeder, 10.25, on_send)
    assert len(sent) * CHUNK_SIZE / (10 * MIB) == pytest.approx(expected, rel=0.1)


def test_what_the_device_says_counts_where_it_is_less() -> None:
    limits = TransferLimits(Rates(device=5 * MIB))
    limits.heard("a", need([0], 1, bps=MIB), 0.0)
    limits.heard("b", need([0], 1, bps=9 * MIB), 0.0)
    assert (limits.rate("a"), limits.rate("b"), limits.rate("c")) == (MIB, 5 * MIB, math.inf)
    limits.heard("a", need([0], 1, bps=MIB // 2), 1.0)
    assert limits.rate("a") == MIB // 2, "it may change its mind"


def test_one_slow_line_does_not_hold_the_others_and_is_served_at_its_own_speed() -> None:
    n = 160
    seeder = Seeder(size=n * CHUNK_SIZE)
    for d in ("a", "b", "c"):
        seeder.on_need(d, need(range(n), n), 0.0)
    seeder.on_need("slow", need(range(n), n, bps=MIB), 0.0)
    repaired: list[tuple[float, int]] = []
    broadcast_at: list[float] = []

    def on_send(now: float, action: object) -> None:
        if isinstance(action, Broadcast):
            broadcast_at.append(now)
            if len(broadcast_at) == n:
                for d in ("a", "b", "c"):
                    seeder.on_need(d, need([], n), now)
        elif isinstance(action, Repair):
            assert action.device == "slow"
            repaired.append((now, action.index))
        elif isinstance(action, Marker) and action.device == "slow":
            left = set(range(n)) - {i for _, i in repaired}
            seeder.on_need("slow", need(left, n, bps=MIB, apart=True, round=action.round.round), now)

    play(seeder, 12.0, on_send)
    assert broadcast_at[-1] < 0.5
    assert sorted(i for _, i in repaired) == list(range(n)), "each chunk once"
    assert repaired[-1][0] == pytest.approx(n * CHUNK_SIZE / MIB, rel=0.1)
    assert seeder.active == 0


def test_a_slow_line_that_joins_late_does_not_hold_the_round() -> None:
    n = 200
    seeder = Seeder(size=n * CHUNK_SIZE)
    for d in ("a", "b", "c"):
        seeder.on_need(d, need(range(n), n), 0.0)
    ends: list[float] = []

    def on_send(now: float, action: object) -> None:
        if isinstance(action, Broadcast) and action.index == 20:
            seeder.on_need("slow", need(range(n), n, bps=MIB), now)
            seeder.on_need("alike", need(range(n), n, bps=50 * MIB), now)
        elif isinstance(action, Marker) and not action.device and not action.round.sending:
            ends.append(now)

    play(seeder, 2.0, on_send)
    assert ends[0] < 1.0
    told = seeder._devices
    assert (told["slow"].apart, told["a"].apart) == (True, False)


def test_two_limits_alike_pace_the_broadcast_together() -> None:
    seeder = Seeder(size=64 * CHUNK_SIZE)
    for d, bps in (("a", MIB), ("b", MIB * 3 // 2)):
        seeder.on_need(d, need(range(64), 64, bps=bps), 0.0)
    marks: list[object] = []
    play(seeder, 6.0, lambda _, a: marks.append(a))
    assert not [m for m in marks if isinstance(m, Marker) and m.device]
    assert sum(isinstance(m, Broadcast) for m in marks) == 64


def test_no_more_than_256_chunks_go_out_beyond_what_the_median_has_acknowledged() -> None:
    n = 2000
    seeder = Seeder(size=n * CHUNK_SIZE)
    have = {"fast": 0, "median": 0, "dead": 0}
    for d in have:
        seeder.on_need(d, need(range(n), n), 0.0)
    sent: list[int] = []
    worst = 0

    def on_send(now: float, action: object) -> None:
        nonlocal worst
        if isinstance(action, Broadcast):
            sent.append(action.index)
            worst = max(worst, len(sent) - have["median"])

    for k in range(900):
        now = k * 0.01
        play_now = seeder.next(now)
        while play_now is not None:
            on_send(now, play_now)
            play_now = seeder.next(now)
        for d, per_step in (("fast", 100), ("median", 2)):
            have[d] = min(len(sent), have[d] + per_step)
            if k % 20 == 19:
                seeder.on_need(d, need(range(have[d], n), n), now)
    assert worst <= 256
    assert have["median"] > 1500, "it goes on as fast as the median takes it"


def test_a_device_that_lags_by_1024_chunks_for_10_s_is_set_apart() -> None:
    n = 4000
    seeder = Seeder(size=n * CHUNK_SIZE)
    for d in ("a", "b", "laggard"):
        seeder.on_need(d, need(range(n), n), 0.0)
    sent = 0
    told_at = None
    for k in range(2500):
        now = k * 0.01
        while (action := seeder.next(now)) is not None:
            sent += isinstance(action, Broadcast)
            if isinstance(action, Marker) and action.round.apart and action.device == "laggard":
                told_at = told_at or now
        if k % 20 == 0:
            for d in ("a", "b"):
                seeder.on_need(d, need(range(min(sent, k), n), n), now)
            seeder.on_need("laggard", need(range(10, n), n), now)
    assert told_at is not None
    assert 17.0 < told_at < 20.0, "1024 chunks behind after some 8 s, and then 10 s more"


def test_everybody_lost_the_last_chunks_and_it_goes_on_all_the_same() -> None:
    n = 600
    seeder = Seeder(size=n * CHUNK_SIZE)
    for d in ("a", "b"):
        seeder.on_need(d, need(range(n), n), 0.0)
    sent: list[object] = []
    for k in range(1500):
        while (action := seeder.next(k * 0.01)) is not None:
            sent += [action] if isinstance(action, Broadcast) else []
        if k % 100 == 0 and k < 1400:
            for d in ("a", "b"):
                seeder.on_need(d, need(range(n), n), k * 0.01)  # nothing arrives
    assert len(sent) >= n


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(20, 250), st.floats(0.005, 0.2), st.integers(0, 2**20))
def test_sums_are_solvable_by_all_and_few(devices: int, n: int, loss: float, seed: int) -> None:
    rng = random.Random(seed)
    seeder = Seeder(size=n * CHUNK_SIZE)
    missing = {f"d{d}": {i for i in range(n) if rng.random() < loss} for d in range(devices)}
    seeder.on_need("first", need(range(n), n), 0.0)
    for d in missing:
        seeder.on_need(d, need(range(n), n), 0.0)
    now, sent = 1.0, 0
    while (action := seeder.next(now)) is not None:
        sent += isinstance(action, Broadcast)
        if isinstance(action, Broadcast) and sent % 64 == 0:
            seeder.on_need("first", need(range(sent, n), n), now)
            for d in missing:
                seeder.on_need(d, need(range(sent, n), n), now)
    for d, lacks in missing.items():
        seeder.on_need(d, need(lacks, n, round=seeder.rounds), now)
    seeder.on_need("first", need([], n, done=True), now)
    now += 3.0
    sends = 0
    while (action := seeder.next(now)) is not None:
        if isinstance(action, Marker):
            continue
        sends += 1
        indices = action.indices if isinstance(action, Sum) else (action.index,)
        assert len(indices) <= MAX_SUM
        for d, lacks in missing.items():
            if isinstance(action, Repair) and action.device != d:
                continue
            gained = lacks & set(indices)
            assert len(gained) <= 1, "nobody can take two chunks out of one sum"
            lacks -= gained
    assert not any(missing.values())
    assert sends <= n


def test_sums_need_a_twentieth_of_the_sends_at_one_percent_loss_of_many() -> None:
    rng = random.Random(5)
    n, devices = 1600, 200
    seeder = Seeder(size=n * CHUNK_SIZE)
    for d in range(devices):
        seeder.on_need(f"d{d}", need(range(n), n), 0.0)
    seeder.rounds, seeder._first, seeder._plan_at = 1, False, 1.0
    lacks = [{i for i in range(n) if rng.random() < 0.01} for _ in range(devices)]
    for d, missing in enumerate(lacks):
        seeder.on_need(f"d{d}", need(missing, n, round=1), 0.5)
    kinds: Counter[str] = Counter()
    while (action := seeder.next(2.0)) is not None:
        kinds[type(action).__name__] += 1
    union = len(set().union(*lacks))
    assert union > 1300
    assert kinds["Sum"] + kinds["Broadcast"] + kinds["Repair"] < union / 15


# ---- peers


def test_a_peer_waits_for_the_controller_and_gives_way_when_it_is_back() -> None:
    s = Suppression("b", seed=1)
    s.wanted("x", "d", 5, 0.0)
    assert not s.may_send("x", 2.9)
    assert s.may_send("x", 6.1)
    s.heard("x", None, 6.2)
    assert not s.may_send("x", 14.0)
    s.wanted("x", "d", 5, 7.0)
    assert not s.may_send("x", 14.0), "quiet for as long as a seeder at work would have been heard"
    assert s.may_send("x", 21.0)
    assert not s.may_send("y", 21.0)


def test_of_two_peers_that_begin_at_once_one_goes_on() -> None:
    a, b = Suppression("a", seed=1), Suppression("b", seed=2)
    for peer in (a, b):
        peer.wanted("x", "d", 5, 0.0)
    a.heard("x", "b", 7.0)
    b.heard("x", "a", 7.0)
    assert a.may_send("x", 7.0)
    assert not b.may_send("x", 7.0)


def test_a_peer_that_still_waits_gives_way_to_any() -> None:
    a = Suppression("a", seed=1)
    a.wanted("x", "d", 5, 0.0)
    a.heard("x", "z", 1.0)
    assert not a.may_send("x", 8.9)


def test_a_peer_that_only_claims_to_send_does_not_silence_the_others_for_ever() -> None:
    b = Suppression("b", seed=1)
    sending_at = None
    for t in range(60):
        b.wanted("x", "d", 9, float(t))  # nothing ever arrives
        b.heard("x", "a", t + 0.5)
        if b.may_send("x", t + 0.6):
            sending_at = sending_at or t
    assert sending_at is not None
    assert 16 < sending_at < 40


# ---- any bytes


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans(), st.integers(0, 40))
def test_no_frame_is_more_than_a_chunk_or_names_one_twice(junk: bytes, headed: bool, count: int) -> None:
    digest = digest_of(b"x")
    frame = encode_frame(digest, tuple(range(max(2, count))), junk) if headed and count >= 2 else junk
    for cut in (frame, frame[:20], frame + bytes(CHUNK_SIZE)):
        try:
            found = decode_frame(cut, digest)
        except ProtocolError:
            continue
        assert len(found.data) <= CHUNK_SIZE
        assert 1 <= len(set(found.indices)) == len(found.indices) <= MAX_SUM


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda x: (
            st.lists(x, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["round", "size", "missing", "epoch", "digest", "page", "pages", "deltas", "site", "bps"]
                ),
                x,
                max_size=6,
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_breaks_rounds_needs_and_pages(value: object) -> None:
    import json

    data = json.dumps(value).encode()
    for parse in (Round.parse, lambda d: Need.parse(d).bits(), ManifestPage.model_validate_json):
        with contextlib.suppress(ProtocolError, ValueError):
            parse(data)


def test_a_need_cannot_make_the_seeder_take_more_than_its_bitmap() -> None:
    huge = Need(epoch=1, size=1 << 40, missing="")
    assert len(huge.bits()) == (1 << 40) // CHUNK_SIZE // 8
    with pytest.raises(ProtocolError):
        Need(epoch=1, size=1 << 40, missing="AAAA").bits()
    with pytest.raises(ProtocolError):
        Seeder(size=CHUNK_SIZE).on_need("a", huge, 0.0)


@given(st.sets(st.integers(0, 300)))
def test_bitmap_round_trips(indices: set[int]) -> None:
    assert list(indices_of(bitmap(indices, 301))) == sorted(indices)
