"""Token buckets: how fast a seeder may send, in all, into a site, and to a device."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from edgectl.core.bundle import CHUNK_SIZE
from edgectl.core.transfer.messages import Need

__all__ = ["Bucket", "Rates", "TransferLimits"]

# devices remembered before idle ones are looked for
_MANY = 4096
_IDLE_S = 60.0


class Bucket:
    """``rate`` bytes/s on average, ``burst`` bytes at once. A send may overdraw it; the next one then
    waits until that is paid."""

    def __init__(self, rate: float, now: float, burst: float = 4 * CHUNK_SIZE) -> None:
        self.rate = rate
        self.at = now
        self._burst = burst
        self._level = burst

    def ready_at(self, now: float) -> float:
        level = self._level_at(now)
        return now if level >= 0 else now - level / self.rate

    def take(self, now: float, size: int) -> None:
        self._level = self._level_at(now) - size
        self.at = max(now, self.at)

    def _level_at(self, now: float) -> float:
        return min(self._burst, self._level + max(0.0, now - self.at) * self.rate)


@dataclass(frozen=True)
class Rates:
    """Bytes/s that a seeder sends at most; None: as fast as it goes."""

    total: int | None = None
    """What leaves the seeder, whoever receives it."""
    site: int | None = None
    """Into one site."""
    device: int | None = None
    """To one device; it may ask for less (:attr:`Need.bps`)."""
    site_broker: bool = False
    """Every site has a broker of its own: a broadcast enters a site once, not once a device."""


class TransferLimits:
    """The buckets of one seeder, shared by all its blobs."""

    def __init__(self, rates: Rates = Rates()) -> None:
        self._rates = rates
        self._total: Bucket | None = None
        self._sites: dict[str | None, Bucket] = {}
        self._devices: dict[str, Bucket] = {}
        self._site_of: dict[str, str | None] = {}

    def heard(self, device: str, need: Need, now: float) -> None:
        """A device says where it is and how fast it wants it."""
        rates = [r for r in (need.bps, self._rates.device) if r is not None]
        if not rates:
            self._devices.pop(device, None)
        elif bucket := self._devices.get(device):
            bucket.rate = min(rates)
        else:
            self._forget_idle(now)
            self._devices[device] = Bucket(min(rates), now)
        if self._rates.site is not None:
            self._site_of[device] = need.site

    def rate(self, device: str) -> float:
        """Bytes/s that one device may get; infinite where nobody limits it."""
        bucket = self._devices.get(device)
        return bucket.rate if bucket else math.inf

    def buckets(self, devices: Collection[str], now: float) -> list[tuple[Bucket, int]]:
        """The buckets that a message to all these devices draws from, and how many copies of it each pays
        for."""
        found = [(self._devices[d], 1) for d in devices if d in self._devices]
        if self._rates.site is not None:
            copies: dict[str | None, int] = {}
            for d in devices:
                site = self._site_of.get(d)
                copies[site] = 1 if self._rates.site_broker else copies.get(site, 0) + 1
            found += [
                (self._sites.setdefault(s, Bucket(self._rates.site, now)), n) for s, n in copies.items()
            ]
        if self._rates.total is not None:
            self._total = self._total or Bucket(self._rates.total, now)
            found.append((self._total, 1))
        return found

    def _forget_idle(self, now: float) -> None:
        if len(self._devices) >= _MANY:
            self._devices = {d: b for d, b in self._devices.items() if now - b.at < _IDLE_S}
            self._site_of = {d: s for d, s in self._site_of.items() if d in self._devices}
