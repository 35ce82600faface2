"""What `ps` shows of this process: its arguments without credentials.

``edgectl run --source rtsp://user:password@cam/`` is what people type, and on Linux every user of the machine
may read the arguments of every process. The kernel reads them from this process's own memory, so they are
written over there as soon as it runs. What a shell keeps in its history it keeps: ``EDGECTL_SOURCE`` in the
environment is the way without any trace.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from edgectl.core.uri import HIDDEN, redact, redact_text

__all__ = ["hide_credentials"]


def hide_credentials() -> bool:
    """Write over what must not be shown; True if something was. Where the kernel does not say where the
    arguments lie, nothing happens."""
    if _safe(sys.argv[1:]) == sys.argv[1:]:
        return False
    import ctypes  # here: almost no call needs it

    try:
        # The fields behind the command's name, which may have blanks and brackets in it: proc(5), arg_start
        # and arg_end.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, ValueError, IndexError):
        return False
    if not 0 < start < end <= start + (1 << 22):
        return False
    shown = hidden(ctypes.string_at(start, end - start))
    ctypes.memmove(start, shown, end - start)
    return True


def hidden(arguments: bytes) -> bytes:
    """NUL-terminated arguments as they may be shown, in just as many bytes: what is shorter is filled up
    with NULs behind the last."""
    given = [argument.decode(errors="surrogateescape") for argument in arguments.split(b"\0")]
    shown = [argument.encode(errors="surrogateescape") for argument in _safe(given)]
    return b"\0".join(shown)[: len(arguments)].ljust(len(arguments), b"\0")


_SECRET = frozenset({"--view-token"})
"""Options whose value is nobody's business."""


def _safe(arguments: list[str]) -> list[str]:
    return [
        HIDDEN if before in _SECRET else _shown(argument)
        for before, argument in zip(["", *arguments], arguments, strict=False)
    ]


_URI_WITH_BLANKS = re.compile(r"((?:[\w.-]+=)*)([A-Za-z][A-Za-z0-9+.-]*:/.*\s.*@.*)", re.DOTALL)


def _shown(argument: str) -> str:
    """A whole argument is one URI, whatever blanks its password has: in a sentence that would not be
    known."""
    found = _URI_WITH_BLANKS.fullmatch(argument)
    return redact_text(argument) if found is None else found[1] + redact(found[2])
