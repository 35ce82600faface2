"""Every error that edgectl raises on purpose. The type says who is at fault; the hint says what to do next.

::

    EdgectlError                 exit code
    ├── UsageError               2   the caller asked for something that makes no sense
    │   └── ConfigError          2   a configuration is wrong, whatever runs with it
    ├── ModelError               3   the model file is wrong or asks for what we cannot do
    ├── DataError                4   media, calibration data or labels are wrong
    ├── ProfileError             5   a device profile is unknown, invalid or does not fit this machine
    ├── BundleError              6   a bundle is malformed
    │   └── IntegrityError       6   bytes are not what their digest says
    ├── EngineError              7   a runtime could not open or run an engine
    │   └── GoldenError          7   an engine does not reproduce its golden outputs
    ├── TrustError               8   signed metadata is missing, expired, or does not name what was asked for
    ├── LinkError                9   a broker, controller or camera cannot be reached
    │   └── SourceError          9   a camera, file or microphone cannot be opened or read
    ├── StorageError            10   the disk is full or unwritable
    ├── ProtocolError           11   a peer sent bytes that the protocol does not allow
    ├── RolloutError            12   a rollout failed, was stopped, or conflicts with another
    ├── BusyError               13   this machine has too much else to do to measure anything that holds
    └── AdmissionError          14   an engine needs more memory than is free beside what runs

Foreign exceptions are wrapped at the edge with ``from``. This module imports nothing of ours.
"""

from __future__ import annotations

__all__ = [
    "AdmissionError",
    "BundleError",
    "BusyError",
    "ConfigError",
    "DataError",
    "EdgectlError",
    "EngineError",
    "GoldenError",
    "IntegrityError",
    "LinkError",
    "ModelError",
    "ProfileError",
    "ProtocolError",
    "RolloutError",
    "SourceError",
    "StorageError",
    "TrustError",
    "UsageError",
]


class EdgectlError(Exception):
    """One sentence on what is wrong, and a ``hint`` with the next step."""

    exit_code = 1
    retryable = False
    """Whether trying the same again later may help."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def code(self) -> str:
        """Stable machine name of this kind of error, e.g. ``integrity`` for IntegrityError."""
        return type(self).__name__.removesuffix("Error").lower()


class UsageError(EdgectlError):
    """``key``: the setting that is wrong, from the outside in (``("rules", 0, "classes")``), where it is one."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None, key: tuple[str | int, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.key = key


class ConfigError(UsageError):
    pass


class ModelError(EdgectlError):
    exit_code = 3


class DataError(EdgectlError):
    exit_code = 4


class ProfileError(EdgectlError):
    exit_code = 5


class BundleError(EdgectlError):
    exit_code = 6


class IntegrityError(BundleError):
    pass


class EngineError(EdgectlError):
    exit_code = 7


class GoldenError(EngineError):
    pass


class TrustError(EdgectlError):
    exit_code = 8


class LinkError(EdgectlError):
    """``retryable`` is False where trying again cannot help (no such file, wrong password)."""

    exit_code = 9

    def __init__(self, message: str, *, hint: str | None = None, retryable: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class SourceError(LinkError):
    pass


class StorageError(EdgectlError):
    exit_code = 10


class ProtocolError(EdgectlError):
    exit_code = 11


class RolloutError(EdgectlError):
    exit_code = 12


class BusyError(EdgectlError):
    exit_code = 13


class AdmissionError(EdgectlError):
    """Its code is ``memory``: what devices report and rollouts read."""

    exit_code = 14
    retryable = True

    @property
    def code(self) -> str:
        return "memory"
