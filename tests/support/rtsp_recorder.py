"""An RTSP server to which a stream is sent: FFmpeg's own, that listens."""

from __future__ import annotations

import socket
import threading
from typing import Any

import av
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
        """Wait until it does."""

        def taken() -> bool:
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", self._port))
                except OSError:
                    return True
            return False

        wait_until(taken, "the recorder listens")

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
