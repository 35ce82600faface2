"""The page's server: uvicorn on a thread of its own."""

from __future__ import annotations

import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from edgectl.core.errors import LinkError
from edgectl.link.http import BoundedProtocol

__all__ = ["PageServer", "listen"]

_SHUTDOWN_S = 1
_UNSENT_BYTES = 16 * 1024
"""What the kernel may hold for a slow viewer: what lies there is old when it arrives."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free. Raises :class:`LinkError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as e:
        raise LinkError(
            f"the page cannot listen on {host}:{port}: {e.strerror or e}",
            hint="choose another address or port",
        ) from e
    # Linux; connections inherit it
    if (option := getattr(socket, "TCP_NOTSENT_LOWAT", None)) is not None:
        listening.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)
    return listening


class PageServer:
    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        self._socket = listening
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                log_level="warning",
                log_config=None,
                ws="none",
                lifespan="off",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="view-page", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more, and join."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()
