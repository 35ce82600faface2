"""Bounds that a process puts on itself, before it touches a model: memory, sizes of files, no network, and files written
nowhere but in its own folder.

The last two are asked of the kernel (``unshare(2)``, ``landlock(7)``); where it has them not, or does not allow them, the process
goes on without and says so. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

__all__ = ["BOUNDS", "confine", "die_with_parent"]

BOUNDS = {"network": "the network", "files": "files outside of its folder"}
"""What is asked of the kernel → what it keeps the process from."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""Write, remove and make files, folders and links of every sort."""
_REFER = 1 << 13

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = [("handled_access_fs", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def confine(folder: Path, *, memory: int, file_bytes: int) -> tuple[str, ...]:
    """Bound this process and all that it starts. ``memory``: bytes of its own that each may have. ``folder``: the one place
    where they may write, files of at most ``file_bytes``.

    Call it while there is one thread. Returns what the kernel granted of ``files`` and ``network``.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    # else the signal would end the process before Python raises
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    return (
        *(("network",) if _without_network(folder) else ()),
        *(("files",) if _writes_only_in(folder) else ()),
    )


def die_with_parent(starter: int) -> None:
    """Get SIGKILL when the parent ends (``prctl(2)``), and end where the process ``starter`` has ended already. A wrapper
    may stand between the two."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.kill(starter, 0)
    except ProcessLookupError:
        os._exit(1)


def _without_network(folder: Path) -> bool:
    """Go to a network of one's own, in which there is nothing. In a namespace of users too where that is needed; whether
    files can be made there is tried in another process, because there is no way back."""
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return True
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            probe = folder / ".probe"
            if _own_namespace():
                probe.touch()
                probe.unlink()
                code = 0
        os._exit(code)
    return os.waitpid(pid, 0)[1] == 0 and _own_namespace()


def _own_namespace() -> bool:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        return False
    return True


def _writes_only_in(folder: Path) -> bool:
    version = _libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    changes = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    rules = _Ruleset(changes)
    fd = _libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if fd < 0:
        return False
    try:
        nowhere = changes & (_WRITE_FILE | _TRUNCATE)
        for path, allowed in ((str(folder), changes), ("/dev/null", nowhere)):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = _Beneath(allowed, place)
                if _libc.syscall(_ADD_RULE, fd, _PATH_BENEATH, ctypes.byref(rule), 0) != 0:
                    return False
            finally:
                os.close(place)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(_libc.syscall(_RESTRICT_SELF, fd, 0) == 0)
    finally:
        os.close(fd)
