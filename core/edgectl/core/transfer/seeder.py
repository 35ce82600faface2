"""The sender's side of the transfer of one blob: who needs what, and what to send next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice

from edgectl.core.bundle import CHUNK_SIZE
from edgectl.core.errors import ProtocolError
from edgectl.core.transfer.limits import Bucket, TransferLimits
from edgectl.core.transfer.messages import MAX_SUM, Need, Round, chunk_count, indices_of

__all__ = ["Broadcast", "Marker", "Repair", "Seeder", "Sum"]

# chunks; sums are formed inside a region, which bounds the work and keeps reads near each other
_REGION = 2048
_JUDGE_S = 2e-5  # a device: with very many, not after every need
_MANY = 64  # devices from which on each speaks less often
_LOOK_BACK = 128  # sums that a chunk is tried with


@dataclass(frozen=True)
class Broadcast:
    index: int


@dataclass(frozen=True)
class Sum:
    """Broadcast the XOR of these chunks: every device that needs one of them has all the others."""

    indices: tuple[int, ...]


@dataclass(frozen=True)
class Repair:
    device: str
    index: int


@dataclass(frozen=True)
class Marker:
    """Publish this round marker, to one device or to all. ``pages``: publish the manifest pages again,
    too."""

    round: Round
    pages: bool = False
    device: str | None = None


@dataclass
class _Device:
    epoch: int
    missing: bytes
    seen: float
    round: int = 0
    blind: bool = False
    """It has no chunk list yet: it cannot say what it misses."""
    apart: bool = False
    told: bool = False
    """It knows that it is set apart."""
    before: int = 0
    offered: int = 0
    # in the shared round
    start: bytes = b""
    acked: int = 0
    """Sends of this round up to the last one that is known to have arrived."""
    base: int = 0
    lag_since: float | None = None
    # set apart: batches of its own
    batch: deque[int] = field(default_factory=deque)
    open: bool = False
    """A batch went out whose end was not said yet."""
    batch_no: int = 0
    batch_end: float = -math.inf
    due: bool = True
    """A need came that speaks of the time after the last batch."""

    @property
    def left(self) -> int:
        return int.from_bytes(self.missing, "little").bit_count()


@dataclass
class Seeder:
    """Schedules the sends of one blob. Idle → collect 100 ms, longer while others join → send → wait for
    fresh needs (at most 1.5 s) → send the rest → idle.

    The first round is the union of what is missing. What is left after it is sent as sums of chunks that
    different devices miss: with 1 % loss, one sum serves some thirty devices. ``next`` gives one send at a
    time, so that the caller's window paces it.

    Flow control: the limits' buckets, and what was sent beyond what the median device has acknowledged (by
    its needs) stays under 256 chunks, the depth of a broker's queue. A device that is limited to less than
    half of the median's rate, takes less than half of what the others take, or lags by more than 1024 chunks
    for 10 s is set apart: it leaves the broadcast and is served alone.
    """

    size: int
    limits: TransferLimits = field(default_factory=TransferLimits)
    sets_apart: bool = True
    """False for one that cannot reach a single device: then the tightest limit paces all."""
    collect_s: float = 0.1
    settle_s: float = 1.5
    ttl_s: float = 20.0
    _MAX_COLLECT_S = 1.5
    _MAX_SETTLE_S = 8.0
    _BATCH = 128
    _WINDOW = 256
    _LAG = 1024
    _LAG_S = 10.0
    _DEADLOCK_S = 4.0
    _SPEAK_S = 2.0
    _PAGES_S = 0.5
    rounds: int = 0
    sent: int = 0
    _devices: dict[str, _Device] = field(default_factory=dict)
    _plan_at: float | None = None
    _began: float = 0.0
    _round_end: float = 0.0
    _first: bool = True
    """No round yet for those who are active now."""
    _sending: bool = False
    _pages: bool = False
    _paged_at: float = -math.inf
    # the shared round
    _round: Iterator[Broadcast | Sum | Repair] = field(default_factory=lambda: iter(()))
    _ahead: Broadcast | Sum | Repair | None = None
    _log: list[tuple[int, ...]] = field(default_factory=list)
    """What each send of this round carried."""
    _gates: list[tuple[Bucket, int]] = field(default_factory=list)
    _limit: float = math.inf
    _progress_at: float = 0.0
    _judged_at: float = -math.inf
    _spoke_at: float = -math.inf
    _turn: int = 0

    @property
    def active(self) -> int:
        """Devices that still miss something."""
        return len(self._devices)

    def on_need(self, device: str, need: Need, now: float) -> None:
        """What a device misses now. Raises :class:`ProtocolError` for a bitmap that does not fit this
        blob."""
        if need.size != self.size:
            raise ProtocolError(f"{device} asks for a blob of {need.size} bytes, this one has {self.size}")
        known = self._devices.get(device)
        if known is not None and need.epoch < known.epoch:
            # a late message of an earlier start of this device
            return
        missing = need.bits()
        if need.done or not any(missing):
            self._devices.pop(device, None)
            self._judge_lag(now)
            return
        self.limits.heard(device, need, now)
        self._pages |= need.pages
        new = known is None or known.epoch != need.epoch
        if known is None or new:
            known = self._devices[device] = _Device(
                need.epoch, missing, now, start=missing, base=len(self._log), acked=len(self._log)
            )
            # its limits count from now on, or it is set apart
            if self._sending:
                self._pace([d for d, s in self._devices.items() if not s.apart], now)
        known.missing, known.seen, known.round = missing, now, need.round
        known.blind = need.pages and self.size > CHUNK_SIZE
        if need.apart:
            known.apart = known.told = True
            known.due = not known.batch and (
                need.round >= known.batch_no or now >= known.batch_end + self.settle_s
            )
        elif known.apart:
            known.told = known.told and now < known.batch_end + self.settle_s  # the word may have been lost
        else:
            self._acknowledge(known, now)
            self._wait_for_others(now, joined=new)

    def _wait_for_others(self, now: float, *, joined: bool) -> None:
        """While more devices join, or answer the last round, it pays to wait a little longer: what is sent
        now serves them, too."""
        if self._sending:
            return
        if self._plan_at is None:
            self._plan_at = self._began = now + self.collect_s
        elif self._first and joined:
            self._plan_at = min(
                max(self._plan_at, now + 4 * self.collect_s), self._began + self._MAX_COLLECT_S
            )
        elif not self._first:
            self._plan_at = min(
                max(self._plan_at, now + self.settle_s / 2), self._round_end + self._MAX_SETTLE_S
            )

    def next(self, now: float) -> Broadcast | Sum | Repair | Marker | None:
        """The next thing to send, or None if there is nothing to do at ``now``."""
        if self._devices and now - self._spoke_at >= self._SPEAK_S:
            self._spoke_at = now
            return Marker(
                Round(round=self.rounds, sending=True, every=192 if len(self._devices) > _MANY else None)
            )
        if self._pages and now - self._paged_at >= self._PAGES_S:
            self._pages, self._paged_at, self._spoke_at = False, now, now
            return Marker(Round(round=self.rounds, sending=True), pages=True)
        self._turn += 1
        first, second = (
            (self._next_apart, self._next_shared) if self._turn % 2 else (self._next_shared, self._next_apart)
        )
        return first(now) or second(now)

    def wake_at(self, now: float) -> float | None:
        """When :meth:`next` may have something new; None: not before another need arrives."""
        times = [] if self._plan_at is None else [self._plan_at]
        if self._devices:
            times.append(self._spoke_at + self._SPEAK_S)
        if self._pages:
            times.append(self._paged_at + self._PAGES_S)
        if self._sending:
            ready = self._ready_at(self._ahead, now) if self._ahead else now
            times.append(
                ready if len(self._log) < self._limit else max(ready, self._progress_at + self._DEADLOCK_S)
            )
        times += [
            max((b.ready_at(now) for b, _ in self.limits.buckets((d,), now)), default=now)
            for d, s in self._devices.items()
            if s.apart and (s.batch or s.open or s.due or not s.told)
        ]
        return max(now, min(times)) if times else None

    # ---- the shared round

    def _next_shared(self, now: float) -> Broadcast | Sum | Repair | Marker | None:
        if self._sending:
            if self._ahead is None:
                self._ahead = next(self._round, None)
            if self._ahead is None or self._limit == math.inf:  # all is sent, or nobody is left
                return self._end(now)
            if not self._may_send(self._ahead, now):
                return None
            send, self._ahead = self._ahead, None
            self._count(send, now)
            self._log.append(send.indices if isinstance(send, Sum) else (send.index,))
            return send
        self._devices = {d: s for d, s in self._devices.items() if now - s.seen <= self.ttl_s}
        if not self._devices:
            self._plan_at, self._first = None, True
            return None
        together = [s for s in self._devices.values() if not (s.apart or s.blind)]
        if not together:
            self._plan_at = None
            return None
        if self._plan_at is None:
            self._plan_at = self._began = now + self.collect_s
        if now >= self._plan_at or (not self._first and all(map(self._is_fresh, together))):
            self._plan(now)
            return self._next_shared(now)
        return None

    def _end(self, now: float) -> Marker:
        self._sending = self._first = False
        self.rounds += 1
        self._round_end = self._spoke_at = now
        self._plan_at = now + self.settle_s
        return Marker(Round(round=self.rounds, sent=len(self._log)))

    def _plan(self, now: float) -> None:
        fresh = {d: s for d, s in self._devices.items() if self._is_fresh(s) and not (s.apart or s.blind)}
        self._judge_speed(fresh)
        self._pace(fresh, now)
        together = {d: s for d, s in fresh.items() if not s.apart}
        for state in together.values():
            state.start, state.acked, state.base, state.lag_since = state.missing, 0, 0, None
            state.before = state.offered = state.left
        self._log = []
        self._ahead = None
        self._progress_at = now
        self._set_limit()
        # at first others may be about to join: nothing is left to one alone
        alone = self._first or len(together) <= 1
        self._round = _union(together, self.size) if alone else _sums(together, self.size)
        self._sending = bool(together)
        self._plan_at = None if self._sending else now + self.settle_s

    def _is_fresh(self, device: _Device) -> bool:
        """Whether a device spoke of the time after the last round. A need that crossed the last chunks on
        the way is not fresh; one that comes long after the round is, although its marker was lost."""
        return (
            self._first or device.round >= self.rounds or device.seen >= self._round_end + 0.7 * self.settle_s
        )

    # ---- flow control

    def _may_send(self, send: Broadcast | Sum | Repair, now: float) -> bool:
        if len(self._log) >= self._limit:
            if now - self._progress_at < self._DEADLOCK_S:
                return False
            # nobody gets anywhere: what is not acknowledged by now was lost
            for state in self._devices.values():
                state.base = len(self._log)
            self._progress_at = now
            self._set_limit()
        return self._ready_at(send, now) <= now

    def _ready_at(self, send: Broadcast | Sum | Repair, now: float) -> float:
        buckets = self.limits.buckets((send.device,), now) if isinstance(send, Repair) else self._gates
        return max((b.ready_at(now) for b, _ in buckets), default=now)

    def _count(self, send: Broadcast | Sum | Repair, now: float) -> None:
        self.sent += 1
        buckets = self.limits.buckets((send.device,), now) if isinstance(send, Repair) else self._gates
        for bucket, copies in buckets:
            bucket.take(now, copies * CHUNK_SIZE)

    def _acknowledge(self, device: _Device, now: float) -> None:
        """The last send that this device missed at the start and no longer misses: what was sent since is
        on the way, or lost."""
        if not self._sending:
            return
        for k in range(len(self._log) - 1, device.acked - 1, -1):
            if any(_bit(device.start, i) and not _bit(device.missing, i) for i in self._log[k]):
                device.acked = k + 1
                self._progress_at = now
                break
        device.base = max(device.base, device.acked)
        if not any(_bit(device.missing, i) for sent in self._log[device.acked :] for i in sent):
            device.base = len(self._log)  # it needs nothing of what came since
        self._judge_lag(now)

    def _judge_lag(self, now: float) -> None:
        if now - self._judged_at < _JUDGE_S * len(self._devices):
            return
        self._judged_at = now
        for state in self._devices.values():
            if state.apart or state.blind or len(self._log) - state.base <= self._LAG:
                state.lag_since = None
            elif state.lag_since is None:
                state.lag_since = now
            elif now - state.lag_since >= self._LAG_S:
                state.apart = self.sets_apart
        self._set_limit()

    def _set_limit(self) -> None:
        bases = sorted((s.base for s in self._devices.values() if not (s.apart or s.blind)), reverse=True)
        self._limit = bases[(len(bases) - 1) // 2] + self._WINDOW if bases else math.inf

    def _judge_speed(self, devices: dict[str, _Device]) -> None:
        """A device that took less than half of what it was offered, while most took nearly all, must not
        slow the rest."""
        judged = [s for s in devices.values() if s.offered >= 64]
        gains = sorted((s.before - s.left) / s.offered for s in judged)
        if self.sets_apart and len(gains) >= 3 and gains[len(gains) // 2] >= 0.9:
            for state in judged:
                state.apart |= (state.before - state.left) / state.offered < 0.5

    def _pace(self, devices: Collection[str], now: float) -> None:
        """The tightest limit paces the broadcast, unless it is far below what the others take."""
        rates = sorted((self.limits.rate(d) for d in devices), reverse=True)
        if rates and self.sets_apart:
            median = rates[(len(rates) - 1) // 2]
            for d in devices:
                self._devices[d].apart |= self.limits.rate(d) < median / 2
        self._gates = self.limits.buckets([d for d in devices if not self._devices[d].apart], now)

    # ---- those who are set apart

    def _next_apart(self, now: float) -> Repair | Marker | None:
        for name, state in self._devices.items():
            if not state.apart:
                continue
            if not state.told:
                # Repairs begin when it says that it has left the broadcast.
                state.told, state.due, state.batch_no, state.batch_end = True, False, self.rounds, now
                return Marker(Round(round=self.rounds, apart=True, sending=True), device=name)
            if not state.batch and state.open:
                state.open, state.batch_end = False, now
                state.batch_no += 1
                return Marker(Round(round=state.batch_no, apart=True), device=name)
            if not state.batch and state.due and now - state.seen <= self.ttl_s:
                state.batch.extend(islice(indices_of(state.missing), self._BATCH))
                state.due, state.open = False, True
            if not state.batch:
                continue
            buckets = self.limits.buckets((name,), now)
            if any(b.ready_at(now) > now for b, _ in buckets):
                continue
            for bucket, copies in buckets:
                bucket.take(now, copies * CHUNK_SIZE)
            self.sent += 1
            repair = Repair(name, state.batch.popleft())
            self._devices[name] = self._devices.pop(name)  # the next one has its turn
            return repair
        return None


def _union(devices: dict[str, _Device], size: int) -> Iterator[Broadcast]:
    union = 0
    for state in devices.values():
        union |= int.from_bytes(state.missing, "little")
    return map(Broadcast, indices_of(union.to_bytes((chunk_count(size) + 7) // 8, "little")))


def _sums(devices: dict[str, _Device], size: int) -> Iterator[Broadcast | Sum | Repair]:
    """Every missing chunk in a sum of which each device misses one at most, so that it can take the others
    out.

    Greedy: a chunk joins the first sum that none of its devices waits for yet. What only one device misses,
    alone in its sum, goes to that device.
    """
    # only who seeds pays for it: the agent of a device does without
    import numpy as np

    names = list(devices)
    bits = np.stack([np.frombuffer(devices[d].missing, np.uint8) for d in names])
    for at in range(0, bits.shape[1], _REGION // 8):
        region = np.unpackbits(bits[:, at : at + _REGION // 8], axis=1, bitorder="little")
        waits = np.packbits(region, axis=0, bitorder="little")  # column: which devices miss this chunk
        sums: list[tuple[int, list[int]]] = []
        for chunk in np.flatnonzero(region.any(axis=0)).tolist():
            who = int.from_bytes(waits[:, chunk].tobytes(), "little")
            for k in range(max(0, len(sums) - _LOOK_BACK), len(sums)):
                if not sums[k][0] & who and len(sums[k][1]) < MAX_SUM:
                    sums[k] = (sums[k][0] | who, [*sums[k][1], 8 * at + chunk])
                    break
            else:
                sums.append((who, [8 * at + chunk]))
        for who, chunks in sums:
            if len(chunks) > 1:
                yield Sum(tuple(chunks))
            elif who & (who - 1):
                yield Broadcast(chunks[0])
            else:
                yield Repair(names[who.bit_length() - 1], chunks[0])


def _bit(bits: bytes, i: int) -> bool:
    return bool(bits and bits[i // 8] >> i % 8 & 1)
