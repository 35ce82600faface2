"""When the certificates end by which controller and broker know each other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from cryptography import x509

from edgectl.link.config import BrokerConfig

__all__ = ["CertificateDates"]

log = logging.getLogger(__name__)

_EVERY_S = 3600.0
_MAX_BYTES = 1 << 20


class CertificateDates:
    """Reads the files once an hour: they may be renewed. One thread."""

    def __init__(self, broker: BrokerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = {"the controller's certificate": broker.cert, "the broker's authority": broker.ca}
        self._clock = clock
        self._next_s = -_EVERY_S
        self._ends: dict[str, float] = {}

    def ends(self) -> dict[str, float]:
        """What it is → Unix time; of several in one file the first that ends. One that cannot be read is logged and left
        out: without it there is no connection, which is said, too."""
        if self._clock() < self._next_s:
            return self._ends
        self._next_s, self._ends = self._clock() + _EVERY_S, {}
        for what, path in self._files.items():
            if path is None:
                continue
            try:
                with path.open("rb") as f:
                    found = x509.load_pem_x509_certificates(f.read(_MAX_BYTES))
                self._ends[what] = min(c.not_valid_after_utc.timestamp() for c in found)
            except (OSError, ValueError) as e:
                log.warning("%s in %s cannot be read: %s", what, path, e)
        return self._ends
