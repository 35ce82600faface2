"""Where the passphrases of private keys come from: a file that automation names, or whoever sits at the
terminal. Never the command line."""

from __future__ import annotations

import getpass
import os
import stat
from pathlib import Path

from edgectl.cli._printer import Printer
from edgectl.core.errors import TrustError, UsageError

__all__ = ["ask", "ask_file", "choose"]

_VARIABLE = "EDGECTL_PASSPHRASE_FILE"
_MIN_NEW, _MAX = 8, 1000  # characters; bytes (OpenSSL takes 1023)


def ask(path: Path, wrong: int) -> bytes | None:
    """The passphrase of a key. None: its owner left it empty. Raises :class:`UsageError` where nobody can be
    asked.

    :data:`edgectl.fleet.keys.pkcs8.Ask`.
    """
    if os.environ.get(_VARIABLE):
        return ask_file(path, wrong)
    again = "That is not it. " if wrong else ""
    return (
        _typed(f"{again}Passphrase of {path} (empty: do without this key): ", f"{path} has a passphrase")
        or None
    )


def ask_file(path: Path, wrong: int) -> bytes:
    """The same for a service, which has no terminal."""
    named = os.environ.get(_VARIABLE)
    if not named:
        raise UsageError(f"{path} has a passphrase", hint=f"a service reads it from a file: set {_VARIABLE}")
    if wrong:
        raise TrustError(f"the passphrase in {named} is not that of {path}")
    return _in_file(Path(named))


def choose() -> bytes:
    """A passphrase for new keys, typed twice. Raises :class:`UsageError`: too short, or not the same."""
    if named := os.environ.get(_VARIABLE):
        given = _in_file(Path(named))
    else:
        given = _typed("New passphrase: ", "a passphrase is wanted")
    if len(given) < _MIN_NEW:
        raise UsageError(f"a passphrase has at least {_MIN_NEW} characters", hint="take five or six words")
    if not named and _typed("Again: ", "a passphrase is wanted") != given:
        raise UsageError("the two are not the same", hint="nothing was written: try again")
    return given


def _typed(prompt: str, why: str) -> bytes:
    if not _has_terminal():  # getpass would read it from stdin, in the clear
        raise UsageError(
            f"{why}, and there is no terminal to ask at", hint=f"put it into a file and set {_VARIABLE}"
        )
    with Printer.paused():
        try:
            given = getpass.getpass(prompt).encode("utf-8", "surrogateescape")
        except EOFError:
            given = b""
    return _bounded(given)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _in_file(path: Path) -> bytes:
    try:
        with path.open("rb") as f:
            if os.fstat(f.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise UsageError(f"{path} is readable or writable for everybody", hint=f"chmod 600 {path}")
            data = f.read(_MAX + 3)
    except OSError as e:
        raise UsageError(f"cannot read {path}, which {_VARIABLE} names: {e.strerror}") from e
    given = data.removesuffix(b"\n").removesuffix(b"\r")
    if not given or b"\n" in given:
        raise UsageError(f"{path} has to hold one passphrase on one line")
    return _bounded(given)


def _bounded(given: bytes) -> bytes:
    if len(given) > _MAX:
        raise UsageError(f"a passphrase has at most {_MAX} bytes")
    return given
