"""In the place of the child that opens engines first: it dies of a graph whose bytes say so (of one that is too large as the
kernel would end it), and writes down each question. ``python -m support.dying_runtime``, with ``$ASKED`` the file to write to."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from edgectl.engines.child import converse


def _handle(question: dict[str, Any]) -> dict[str, Any]:
    with Path(os.environ["ASKED"]).open("a") as asked:
        asked.write(f"{os.getpid()}\n")
    model = Path(question["model"]).read_bytes()
    if b"of this one" in model:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"too large" in model:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


if __name__ == "__main__":
    sys.exit(converse(_handle))
