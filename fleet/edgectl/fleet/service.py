"""The controller as a service: controller, seeder and API together, started and stopped in order."""

from __future__ import annotations

import gc
import secrets
import threading

from edgectl.core.files import atomic_write, forget_unfinished
from edgectl.fleet.api.app import ApiServer
from edgectl.fleet.config import ControllerConfig
from edgectl.fleet.control.controller import Controller
from edgectl.fleet.control.otlp_exporter import OtlpExporter
from edgectl.fleet.control.scraper import Scraper
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.store.lock import hold_store
from edgectl.link.notify import notify

__all__ = ["let_lasting_objects_be", "run_controller"]

_COLLECT = (50_000, 20, 100)
"""Of :func:`gc.set_threshold`."""


def run_controller(
    config: ControllerConfig, stop_event: threading.Event, ring: KeyRing | None = None
) -> None:
    """Run controller, seeder and API until ``stop_event`` is set. ``ring`` opens keys that have a passphrase.

    Raises before anything runs: :class:`StorageError`, :class:`TrustError`, :class:`LinkError` (API port in
    use), :class:`UsageError` (another one runs on the same folder).
    """
    let_lasting_objects_be()
    with hold_store(config.state_dir):
        _run(config, stop_event, ring)


def let_lasting_objects_be() -> None:
    """Have Python's cycle collector look less often: what is known of a large fleet are millions of objects that stay,
    and hold no cycles."""
    gc.set_threshold(*_COLLECT)


def _run(config: ControllerConfig, stop_event: threading.Event, ring: KeyRing | None) -> None:
    state = config.state_dir
    forget_unfinished(state, *(state / name for name in ("trust", "approved", "blobs", "blobs-deltas")))
    controller = Controller(config, ring)
    try:
        api = ApiServer(controller, _token(config))
        controller.start()
        api.start()
        notify("READY=1", f"STATUS=fleet {config.fleet}, API on {config.api.host}:{config.api.port}")
        exporter = None
        if config.otlp is not None:
            exporter = OtlpExporter(config.otlp, config.fleet, Scraper(controller).families)
            exporter.start()
        try:
            controller.run(stop_event)
        finally:
            notify("STOPPING=1")
            if exporter is not None:
                exporter.close()
            api.close()
    finally:
        controller.close()


def _token(config: ControllerConfig) -> str:
    """The API's bearer token: made once, readable by the owner only."""
    path = config.state_dir / "token"
    if not path.is_file():
        atomic_write(path, secrets.token_urlsafe(32).encode(), mode=0o600)
    return path.read_text().strip()
