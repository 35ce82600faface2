"""Pushes metrics to a collector of OpenTelemetry by OTLP/HTTP (binary protobuf), in a thread of its own.

What a collector does not take now is not lost: cumulative figures are whole the next time, a delta grows until one is
taken. What it refuses for good is (``4xx`` without 429).
"""

from __future__ import annotations

import gzip
import logging
import random
import threading
import time
from collections.abc import Callable

import httpx

from edgectl.core.errors import EdgectlError
from edgectl.fleet.config import OtlpConfig
from edgectl.fleet.telemetry.families import MetricFamily
from edgectl.fleet.telemetry.otlp import Told, request

__all__ = ["OtlpExporter"]

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_AGAIN = (429, 502, 503, 504)
"""OTLP, "Retryable Response Codes"."""


class OtlpExporter:
    def __init__(
        self,
        config: OtlpConfig,
        fleet: str,
        families: Callable[[], list[MetricFamily]],
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._config = config
        self._resource = {"service.name": "edgectl-controller", "service.namespace": fleet}
        self._families = families
        self._wall_ns = wall_ns
        self._told = Told(wall_ns())
        self._complained = ""
        self._http = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What came since the last push is pushed, once."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(2 * _TIMEOUT_S)
        self._http.close()

    def push(self) -> bool:
        """Once. Whether it was taken."""
        c = self._config
        families = tuple(self._families())
        # the wall clock may step: what was measured lasts no negative time
        now_ns = max(self._wall_ns(), self._told.at_ns + 1)
        body = gzip.compress(request(families, self._resource, now_ns, self._told, c.temporality), 1)
        headers = {**c.headers, "content-type": "application/x-protobuf", "content-encoding": "gzip"}
        try:
            # its body is not waited for, however long it is
            with self._http.stream("POST", c.endpoint, content=body, headers=headers) as answer:
                pass
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            self._complain(f"does not answer ({type(e).__name__}): what is there goes with the next push")
            return False
        if answer.status_code in _AGAIN:
            self._complain(f"answers {answer.status_code}: what is there goes with the next push")
            return False
        if c.temporality == "delta":
            self._told = Told(now_ns, families)
        if not answer.is_success:
            self._complain(f"refuses metrics with {answer.status_code}")
            return False
        self._complained = ""
        return True

    def _run(self) -> None:
        # not all controllers at once
        wait_s = random.uniform(0, self._config.period_s)
        while not self._stop.wait(wait_s):
            wait_s = self._config.period_s
            self._try()
        self._try()

    def _try(self) -> None:
        try:
            self.push()
        except EdgectlError as e:
            self._complain(f"gets no metrics: {e.message}")
        except Exception:  # a defect of ours: the next push may not have it
            log.exception("metrics are not pushed: a defect of the controller")

    def _complain(self, what: str) -> None:
        """Once, and not with every push for which it is still so."""
        if what != self._complained:
            self._complained = what
            log.warning("the OTLP collector %s", what)
