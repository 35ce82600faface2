"""An embedded MQTT 3.1.1 broker (amqtt), for demos, tests and one desk. Production: see docs on Mosquitto,
EMQX, AWS IoT Core.

Limits of amqtt that matter here: MQTT 3.1.1 only, retained messages live in memory and are gone after a
restart (controller and agents publish theirs again), no access rules are set up, and a slow reader's queue is
not bounded.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from edgectl.core.errors import LinkError, UsageError
from edgectl.link.notify import Watchdog, notify

__all__ = ["run_broker"]


def run_broker(host: str, port: int, stop: threading.Event, ready: threading.Event | None = None) -> None:
    """Serve until ``stop`` is set; ``ready`` is set once clients can connect. Raises :class:`LinkError` if
    the port is taken."""
    try:
        from amqtt.broker import Broker
        from amqtt.errors import BrokerError
    except ImportError as e:
        raise UsageError("the embedded broker is not installed", hint="pip install 'edgectl[broker]'") from e
    # A failed start is raised, below; amqtt would log its traceback, too.
    _log_from(logging.CRITICAL)

    async def serve() -> None:
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        await broker.start()
        _log_from(logging.ERROR)
        if ready is not None:
            ready.set()
        notify("READY=1")
        watchdog = Watchdog()
        try:
            while not stop.is_set():
                await asyncio.sleep(0.1)
                watchdog.feed()  # from the loop that serves the clients
        finally:
            notify("STOPPING=1")
            await broker.shutdown()

    try:
        asyncio.run(serve())
    except (BrokerError, OSError) as e:
        raise LinkError(f"the broker cannot listen on {host}:{port}: {e}", hint="choose another port") from e


def _log_from(level: int) -> None:
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(level)
