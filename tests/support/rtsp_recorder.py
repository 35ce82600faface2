"""An RTSP server to which a stream is sent: FFmpeg's own, that listens."""

from __future__ import annotations

import threading
from typing import Any

import av
import psutil
from numpy.typing import NDArray
from support.fleet import wait_until

__all__ = ["Recorder"]


class Recorder:
    """Takes ``frames`` pictures of the first stream that is announced at ``port``, then hangs up."""

    def __init__(self, port: int, frames: int) -> None:
        self.pictures: list[NDArray[Any]] = []
        self.error: Exception | None = None
        self._port = port
        self._url = f"rtsp://127.0.0.1:{port}/yard"
        self._frames = frames
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def listens(self) -> None:
        """Wait until it does; looked up, not tried: a port that is taken for a moment could not be listened at."""

        def at_the_port() -> bool:
            assert self.error is None, self.error
            return any(
                sock.laddr.port == self._port and sock.status == psutil.CONN_LISTEN
                for sock in psutil.net_connections("tcp")
            )

        wait_until(at_the_port, "the recorder listens")

    def _run(self) -> None:
        try:
            options = {"rtsp_flags": "listen", "listen_timeout": "30"}
            with av.open(self._url, format="rtsp", options=options) as container:
                for picture in container.decode(video=0):
                    self.pictures.append(picture.to_ndarray(format="bgr24"))
                    if len(self.pictures) == self._frames:
                        return
        except Exception as e:
            self.error = e
