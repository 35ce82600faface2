"""Debian's Chromium, driven over the pipe of its DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/): real pages, real clicks, real pictures."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["CHROMIUM", "Browser"]

CHROMIUM = shutil.which("chromium")
_WAIT_S = 60.0


class Browser:
    """One window with one page. Use as a context manager."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 900)) -> None:
        assert CHROMIUM is not None
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._log = (folder / "chromium.log").open("wb")

        # The browser reads from 3 and writes to 4, wherever the pipes are here.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os, sys; os.dup2({ends[0]}, 3); os.dup2({ends[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])",
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-pipe",
                f"--user-data-dir={folder / 'chromium'}",
                "about:blank",
            ],
            pass_fds=ends,
            stdout=self._log,
            stderr=self._log,
        )
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self._out = os.fdopen(ours_out, "wb")
        self._in = ours_in
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        """What the page's console was told: errors, exceptions, violations of its policy."""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*size)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._session = None
            self.call("Browser.close")
        self._process.wait(20)
        self._out.close()
        os.close(self._in)
        self._log.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def dark(self, on: bool) -> None:
        value = "dark" if on else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", str(found)))
        return found["result"].get("value")

    def until(self, expression: str, check: Callable[[Any], bool] = bool) -> Any:
        """The value of an expression once it is as wanted."""
        end_s = time.monotonic() + _WAIT_S
        while not check(value := self.run(expression)):
            if time.monotonic() > end_s:
                raise TimeoutError(f"{expression} is {value!r}; the page complains: {self.complaints}")
            time.sleep(0.05)
        return value

    def mouse(self, *points: tuple[float, float]) -> None:
        """Press at the first point, go along the others, let go at the last."""
        for i, (x, y) in enumerate(points):
            if i:
                self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
            else:
                self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
                self.call(
                    "Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1
                )
        x, y = points[-1]
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        self.mouse(self.middle(selector))

    def middle(self, selector: str) -> tuple[float, float]:
        """Of an element, in the window."""
        x, y, w, h = self.box(selector)
        return x + w / 2, y + h / 2

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element, in the window."""
        r = self.run(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [r.x, r.y, r.width, r.height]; })()"
        )
        return r[0], r[1], r[2], r[3]

    def press(self, key: str, *, control: bool = False) -> None:
        code = {"Enter": 13, "Escape": 27, "Delete": 46, "ArrowRight": 39, "Tab": 9, "z": 90}[key]
        # only a key that writes something activates a link or a button
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=2 if control else 0,
                **(text if kind == "keyDown" else {}),
            )

    def type(self, selector: str, text: str) -> None:
        """Write into a field, in place of what stands there."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()"
        )
        self.call("Input.insertText", text=text)

    def scripts(self, on: bool) -> None:
        """Whether pages that are opened from now on may run scripts; :meth:`run` always may."""
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """The window (``whole``: the whole page) as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._in, 1 << 16)
            if not piece:
                raise RuntimeError("the browser has ended")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message
